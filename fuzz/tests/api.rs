//! Requests to the API: any method, path, query, headers and body, by every kind of caller.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use steadfast_api::problem::{MEDIA_TYPE, Problem};
use steadfast_api::server::{openapi, router};
use steadfast_api::testing::parts;
use steadfast_core::metadata::memory::MemoryDb;
use steadfast_core::testing::TestEnvironment;
use steadfast_fuzz::{Material, fuzz};
use tower::ServiceExt as _;

const WORDS: &[&str] = &[
    "/v1/clusters/test",
    "/services",
    "/store/record",
    "/store/scan",
    "/operations",
    "/orders",
    "/orders-0",
    "/node-1",
    "//",
    "/..",
    "/%2e%2e",
    "%00",
    "%ff",
    "%c3%28",
    "%2F",
    "?",
    "&",
    "=",
    "key=steadfast/test/services/orders",
    "prefix=steadfast/test",
    "limit=0",
    "limit=1",
    "limit=501",
    "limit=99999999999999999999",
    "limit=-1",
    "after=orders",
    "prefix=",
    "key=",
    "tail=5",
    "follow=true",
    "GET",
    "PUT",
    "POST",
    "DELETE",
    "PATCH",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "Authorization: Bearer admin-token\n",
    "Authorization: Bearer reader-token\n",
    "Authorization: Bearer node-1-token\n",
    "Authorization: Bearer server-token\n",
    "Authorization: Basic YWJj\n",
    "Content-Type: application/json\n",
    "Content-Type: text/plain\n",
    "Content-Length: 99999999999999999999\n",
    "If-Match: \"1\"\n",
    "If-Match: W/\"1\"\n",
    "Idempotency-Key: k\n",
    "Last-Event-ID: 5\n",
    "X-Request-Id: \u{e9}\n",
    "{}",
    "[]",
    "null",
    "\"\"",
    "0",
    "1e400",
    "{\"value\":\"\"}",
    "\"incarnation\"",
    "\"if_version\"",
    "{\"spec\":{}}",
    "\"AAAA\"",
    "\u{0}",
    "\\ud800",
    "9223372036854775808",
];

/// One request for every operation of the API, read from its own description, by every caller.
fn seeds() -> Vec<Vec<u8>> {
    let document = serde_json::to_value(openapi()).unwrap();
    let mut seeds = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path
            .replace("{cluster}", "test")
            .replace("{service}", "orders")
            .replace("{member}", "orders-0")
            .replace("{node}", "node-1")
            .replace("{operation}", "op-1")
            .replace("{secret}", "password");
        assert!(!path.contains('{'), "{path}: say here what its parameters are");
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let query = if path.ends_with("/record") { "?key=steadfast/test/services/orders" } else { "" };
            let query = if path.ends_with("/scan") { "?prefix=steadfast/test&limit=10" } else { query };
            for token in ["admin-token", "node-1-token"] {
                seeds.push(
                    format!(
                        "{} {path}{query}\nAuthorization: Bearer {token}\nContent-Type: application/json\n\n\
                         {{\"apiVersion\":\"steadfast/v1\",\"name\":\"orders\",\"blueprint\":\"redis\",\"replicas\":3}}",
                        method.to_uppercase()
                    )
                    .into_bytes(),
                );
            }
        }
    }
    assert!(seeds.len() > 50, "the description names the operations");
    seeds
}

/// The request in these bytes, if a server could come to see it at all.
fn request(bytes: &[u8]) -> Option<Request<Body>> {
    let split = bytes.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = split.map_or((bytes, &b""[..]), |at| (&bytes[..at], &bytes[at + 2..]));
    let mut lines = head.split(|byte| *byte == b'\n');
    let first = lines.next()?;
    let space = first.iter().position(|byte| *byte == b' ')?;
    let mut request = Request::builder().method(&first[..space]).uri(&first[space + 1..]);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..colon], line[colon + 1..].trim_ascii());
    }
    request.body(Body::from(body.to_vec())).ok()
}

fn server() -> Router {
    router(parts(TestEnvironment::new(3).environment, Arc::new(MemoryDb::new())))
}

#[test]
fn any_request_is_answered_and_every_refusal_is_a_problem() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let material =
        Material { seeds: seeds(), words: WORDS.iter().map(|word| word.as_bytes().to_vec()).collect() };
    let server = runtime.block_on(async { server() });
    fuzz("api", &material, 6_000, |bytes| {
        let Some(request) = request(bytes) else { return };
        let asked = format!("{} {}", request.method(), request.uri());
        let head = request.method() == axum::http::Method::HEAD;
        runtime.block_on(async {
            let response = server.clone().oneshot(request).await.unwrap();
            let status = response.status();
            assert_ne!(status.as_u16(), 500, "{asked}: a bug");
            // The watch waits for a control plane that tells of changes, and this one tells of none.
            assert!(
                status.as_u16() != 504 || asked.contains("/watch"),
                "{asked}: nothing has to be waited for"
            );
            if status.is_success() || status.is_redirection() || head {
                return;
            }
            let kind = response.headers().get(header::CONTENT_TYPE).cloned();
            assert_eq!(kind.unwrap().to_str().unwrap(), MEDIA_TYPE, "{asked}: {status}");
            let whole =
                tokio::time::timeout(Duration::from_secs(10), to_bytes(response.into_body(), 1 << 20));
            let problem: Problem = serde_json::from_slice(&whole.await.unwrap().unwrap()).unwrap();
            assert_eq!(problem.status, status.as_u16(), "{asked}");
            assert!(!problem.code.is_empty() && !problem.detail.is_empty(), "{asked}: {problem:?}");
        });
    });
}
