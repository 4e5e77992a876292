//! The router over real HTTP: every status, every problem, who may do what.

mod support;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use steadfast_api::testing::{ADMIN, NODE, READER, SERVER};
use steadfast_core::control::{ControlError, INDEX_STALE};
use steadfast_core::model::{Reason, SpecError};
use steadfast_core::{Effect, Error, ErrorKind, Retry};
use support::{Scripted, bearer, send, spec};

const JSON: &str = "content-type: application/json";
const BASE: &str = "/v1/clusters/test";

#[tokio::test]
async fn a_change_is_accepted_with_the_place_to_follow_it() {
    let control = Scripted::new();
    let server = control.serve().await;
    let admin = bearer(ADMIN);
    let headers = [admin.as_str(), JSON, "idempotency-key: k-1", "if-match: \"v-7\""];
    let request = format!("POST {BASE}/services");
    let answer = send(&server, &request, &headers, &spec("orders").to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.header("location"), Some("/v1/clusters/test/operations/op-1"));
    assert_eq!(answer.json()["service"], "orders");
    assert_eq!(control.last(), "apply orders");
    let guard = control.last_guard();
    assert_eq!((guard.idempotency_key.as_deref(), guard.if_index.as_deref()), (Some("k-1"), Some("v-7")));

    *control.operation_state.lock().unwrap() = "Succeeded";
    let answer = send(&server, &request, &headers, &spec("orders").to_string()).await;
    assert_eq!(answer.status, 200, "what has ended is not under way: {answer:?}");
}

#[tokio::test]
async fn every_verb_reaches_the_control_plane() {
    let control = Scripted::new();
    let server = control.serve().await;
    let admin = bearer(ADMIN);
    for (request, body, asked, status) in [
        ("POST /plan", spec("orders").to_string(), "plan \"orders\"", 200),
        ("DELETE /services/orders", String::new(), "delete orders", 202),
        ("POST /services/orders/undelete", String::new(), "undelete orders", 202),
        ("POST /services/orders/restart", String::new(), "restart orders", 202),
        ("POST /services/orders/stop", String::new(), "stop orders", 202),
        ("POST /services/orders/start", String::new(), "start orders", 202),
        ("POST /services/orders/pause", String::new(), "pause orders", 200),
        ("POST /services/orders/resume", String::new(), "resume orders", 200),
        ("GET /services/orders", String::new(), "service orders", 200),
        ("GET /services/orders/connect", String::new(), "connect orders", 200),
        ("GET /services/orders/secrets", String::new(), "secrets orders", 200),
        ("GET /services/orders/secrets/password", String::new(), "secret orders password", 200),
        ("GET /operations/op-9", String::new(), "operation op-9", 200),
        ("POST /operations/op-9/cancel", String::new(), "cancel op-9", 200),
        ("GET /members/orders-0/why", String::new(), "why orders-0", 200),
        (
            "POST /members/orders-0/rebuild",
            json!({"lost_disk": "node-2"}).to_string(),
            "rebuild orders-0 node-2",
            200,
        ),
        ("GET /nodes", String::new(), "nodes", 200),
        (
            "POST /nodes/node-2/confirm-dead",
            json!({"incarnation": "i-1"}).to_string(),
            "confirm-dead node-2 i-1",
            200,
        ),
        ("GET /catalog", String::new(), "catalog", 200),
    ] {
        let (method, path) = request.split_once(' ').unwrap();
        let answer = send(&server, &format!("{method} {BASE}{path}"), &[&admin, JSON], &body).await;
        assert_eq!(answer.status, status, "{request}: {answer:?}");
        assert_eq!(control.last(), asked, "{request}");
    }
}

#[tokio::test]
async fn filters_and_logs_arrive_as_they_were_asked() {
    let control = Scripted::new();
    let server = control.serve().await;
    let admin = bearer(ADMIN);
    let ask = async |path: &str| send(&server, &format!("GET {BASE}{path}"), &[&admin], "").await;
    assert_eq!(ask("/operations?service=a&state=Running&limit=7").await.status, 200);
    assert!(control.last().contains("service: Some(\"a\"), state: Some(Running)"), "{}", control.last());
    assert!(control.last().contains("limit: 8"), "one more, to see whether there is: {}", control.last());
    assert_eq!(ask("/events?service=a&member=a-0&after=4").await.status, 200);
    assert!(control.last().contains("after: Some(4), limit: 100"), "{}", control.last());
    let answer = ask("/members/a-0/logs?tail=5&follow=true").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "one\ntwo\n"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(control.last().contains("tail: Some(5), follow: true"), "{}", control.last());
}

#[tokio::test]
async fn lists_come_in_pages_that_meet() {
    let server = Scripted::new().serve().await;
    let reader = bearer(READER);
    let ask = async |query: &str| {
        send(&server, &format!("GET {BASE}/services{query}"), &[&reader], "").await.json()
    };
    let first = ask("?limit=2").await;
    assert_eq!((first["items"].as_array().unwrap().len(), first["next"].as_str()), (2, Some("b")));
    let second = ask("?limit=2&cursor=b").await;
    assert_eq!((second["items"][0]["name"].as_str(), second.get("next")), (Some("c"), None));
    assert_eq!(ask("").await["items"].as_array().unwrap().len(), 3);
    for bad in ["?limit=0", "?limit=501"] {
        let answer = send(&server, &format!("GET {BASE}/services{bad}"), &[&reader], "").await;
        assert_eq!(answer.problem(400, "ParameterInvalid").field.as_deref(), Some("limit"));
    }
}

#[tokio::test]
async fn each_refusal_of_the_control_plane_has_its_status() {
    let control = Scripted::new();
    let server = control.serve().await;
    let admin = bearer(ADMIN);
    let text = |text: &str| text.to_owned();
    let invalid = ControlError::Invalid(vec![
        SpecError::new("replicas", "is 0", "give at least 1"),
        SpecError::new("colour", "is not a key", "leave it out"),
    ]);
    let not_found =
        ControlError::NotFound { kind: "service", name: text("x"), remedy: text("list the services") };
    let conflict = |reason| ControlError::Conflict { reason, message: text("m"), remedy: text("r") };
    let refused = |reason| ControlError::Refused { reason, message: text("m"), remedy: text("r") };
    let backend = |kind| ControlError::Backend(Error::new(kind, "store", "put", "k", "m"));
    for (error, status, code) in [
        (invalid, 422, "ConfigInvalid"),
        (not_found, 404, "NotFound"),
        (conflict(Reason::OperationExclusive), 409, "OperationExclusive"),
        (conflict(Reason::Other(text(INDEX_STALE))), 409, INDEX_STALE),
        (refused(Reason::ChangeUnsupported), 422, "ChangeUnsupported"),
        (refused(Reason::PermissionDenied), 403, "PermissionDenied"),
        (backend(ErrorKind::Unavailable), 503, "StoreUnavailable"),
        (backend(ErrorKind::Throttled), 429, "Throttled"),
        (backend(ErrorKind::Denied), 403, "PermissionDenied"),
        (backend(ErrorKind::Unsupported), 501, "CapabilityMissing"),
        (backend(ErrorKind::QuotaExceeded), 507, "QuotaReached"),
        (backend(ErrorKind::Internal), 500, "Internal"),
    ] {
        let of_backend = matches!(error, ControlError::Backend(_));
        control.fail(error);
        let answer = send(&server, &format!("POST {BASE}/services/orders/stop"), &[&admin], "").await;
        let problem = answer.problem(status, code);
        assert_eq!(problem.cause.is_some(), of_backend, "{problem:?}");
        assert_eq!(
            problem.effect == Effect::Unknown,
            of_backend,
            "only a backend leaves a doubt: {problem:?}"
        );
    }
}

#[tokio::test]
async fn a_stale_index_is_412_for_those_who_sent_one() {
    let control = Scripted::new();
    let server = control.serve().await;
    control.fail(ControlError::Conflict {
        reason: Reason::Other(INDEX_STALE.to_owned()),
        message: "it changed".to_owned(),
        remedy: "plan again".to_owned(),
    });
    let admin = bearer(ADMIN);
    let request = format!("DELETE {BASE}/services/orders");
    let problem = send(&server, &request, &[&admin, "if-match: \"v-1\""], "").await.problem(412, INDEX_STALE);
    assert_eq!(problem.remedy.as_deref(), Some("plan again"));
    send(&server, &request, &[&admin], "").await.problem(409, INDEX_STALE);
}

#[tokio::test]
async fn every_problem_of_the_input_is_told_with_field_and_remedy() {
    let control = Scripted::new();
    let server = control.serve().await;
    control.fail(ControlError::Invalid(vec![
        SpecError::new("replicas", "is 0", "give at least 1"),
        SpecError::new("colour", "is not a key", "leave it out"),
    ]));
    let body = spec("orders").to_string();
    let answer = send(&server, &format!("POST {BASE}/plan"), &[&bearer(ADMIN), JSON], &body).await;
    let problem = answer.problem(422, "ConfigInvalid");
    let fields: Vec<&str> = problem.errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(fields, ["replicas", "colour"]);
    assert_eq!(problem.errors[0].remedy, "give at least 1");
    assert_eq!(problem.effect, Effect::None);
}

#[tokio::test]
async fn throttling_says_when_to_come_back() {
    let control = Scripted::new();
    let server = control.serve().await;
    let error = Error::new(ErrorKind::Throttled, "store", "get", "k", "slow down")
        .with_retry(Retry::After(Duration::from_millis(2500)))
        .without_effect();
    control.fail(ControlError::Backend(error));
    let answer = send(&server, &format!("GET {BASE}/nodes"), &[&bearer(ADMIN)], "").await;
    answer.problem(429, "Throttled");
    assert_eq!(answer.header("retry-after"), Some("3"));
}

#[tokio::test]
async fn bad_bodies_are_told_apart() {
    let server = Scripted::new().serve().await;
    let admin = bearer(ADMIN);
    let request = format!("POST {BASE}/plan");
    let problem =
        send(&server, &request, &[&admin, JSON], "{\"name\": }").await.problem(400, "BodyMalformed");
    assert!(problem.detail.contains("line 1 column 10"), "{problem:?}");
    send(&server, &request, &[&admin, JSON], "").await.problem(400, "BodyMalformed");
    let problem = send(&server, &request, &[&admin, "content-type: text/plain"], "{}")
        .await
        .problem(415, "MediaTypeUnsupported");
    assert_eq!(problem.field.as_deref(), Some("content-type"));
    send(&server, &request, &[&admin], "{}").await.problem(415, "MediaTypeUnsupported");
    let charset = "content-type: application/json; charset=utf-8";
    assert_eq!(send(&server, &request, &[&admin, charset], &spec("a").to_string()).await.status, 200);
    let unknown = json!({"incarnation": "i-1", "force": true}).to_string();
    let confirm = format!("POST {BASE}/nodes/node-1/confirm-dead");
    let problem = send(&server, &confirm, &[&admin, JSON], &unknown).await.problem(422, "BodyInvalid");
    assert!(problem.detail.contains("force"), "{problem:?}");
}

#[tokio::test]
async fn a_body_too_long_is_refused_announced_or_not() {
    let server = Scripted::new().serve_with(|parts| parts.limits.body_bytes = 100).await;
    let admin = bearer(ADMIN);
    let request = format!("POST {BASE}/plan");
    let long = json!({"name": "x".repeat(200)}).to_string();
    send(&server, &request, &[&admin, JSON], &long).await.problem(413, "BodyTooLarge");
    let chunked = format!("{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    let headers = [admin.as_str(), JSON, "transfer-encoding: chunked", "content-length-x: 0"];
    send(&server, &request, &headers, &chunked).await.problem(413, "BodyTooLarge");
}

#[tokio::test]
async fn what_is_not_there_and_what_is_not_taken_is_said() {
    let server = Scripted::new().serve().await;
    let admin = bearer(ADMIN);
    let ask = async |request: &str| send(&server, request, &[&admin], "").await;
    ask("GET /nowhere").await.problem(404, "RouteUnknown");
    ask("GET /v1/clusters/test/nowhere").await.problem(404, "RouteUnknown");
    let problem = ask("GET /v1/clusters/other/services").await.problem(404, "ClusterUnknown");
    assert_eq!(problem.field.as_deref(), Some("cluster"));
    let answer = ask("PUT /v1/clusters/test/services").await;
    answer.problem(405, "MethodUnsupported");
    assert_eq!(answer.header("allow"), Some("GET,HEAD,POST"));
    let answer = ask("OPTIONS /v1/clusters/test/services").await;
    assert_eq!(
        (answer.status, answer.header("allow"), answer.body.as_str()),
        (204, Some("GET,HEAD,POST"), "")
    );
    let answer = ask("HEAD /v1/clusters/test/services/orders").await;
    assert_eq!((answer.status, answer.header("etag"), answer.body.as_str()), (200, Some("\"v-7\""), ""));
}

#[tokio::test]
async fn bad_parameters_are_named() {
    let server = Scripted::new().serve().await;
    let admin = bearer(ADMIN);
    let ask = async |path: &str| send(&server, &format!("GET {BASE}{path}"), &[&admin], "").await;
    let problem = ask("/services?colour=red").await.problem(400, "ParameterUnknown");
    assert_eq!(problem.field.as_deref(), Some("colour"));
    assert_eq!(problem.remedy.as_deref(), Some("use one of: limit, cursor"));
    ask("/nodes?x").await.problem(400, "ParameterUnknown");
    for (path, field) in [
        ("/services?limit=many", "limit"),
        ("/services?limit=-1", "limit"),
        ("/services?limit=1&limit=2", "limit"),
        ("/operations?state=Sleeping", "state"),
        ("/operations?service=NOT", "service"),
        ("/members/a-0/logs?follow=perhaps", "follow"),
    ] {
        let problem = ask(path).await.problem(400, "ParameterInvalid");
        assert_eq!(problem.field.as_deref(), Some(field), "{path}: {problem:?}");
    }
    for path in ["/services/Orders!", "/services/orders-0", "/members/orders/why", "/operations/a%20b"] {
        let problem = ask(path).await.problem(400, "ParameterInvalid");
        assert!(problem.detail.contains("is not valid"), "{path}: {problem:?}");
    }
    let request = format!("POST {BASE}/services/orders/stop");
    for (header, field) in [
        ("if-match: v-7", "if-match"),
        ("if-match: W/\"v-7\"", "if-match"),
        ("if-match: \"a\", \"b\"", "if-match"),
        ("idempotency-key: two words", "idempotency-key"),
    ] {
        let problem = send(&server, &request, &[&admin, header], "").await.problem(400, "ParameterInvalid");
        assert_eq!(problem.field.as_deref(), Some(field), "{header}");
    }
    assert_eq!(send(&server, &request, &[&admin, "if-match: *"], "").await.status, 202);
}

#[tokio::test]
async fn request_ids_are_kept_or_made() {
    let server = Scripted::new().serve().await;
    let admin = bearer(ADMIN);
    let request = format!("GET {BASE}/nodes");
    let answer = send(&server, &request, &[&admin, "x-request-id: mine-1"], "").await;
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
    let made = send(&server, &request, &[&admin, "x-request-id: no good id"], "").await;
    let other = send(&server, &request, &[&admin], "").await;
    assert_eq!(made.header("x-request-id").map(str::len), Some(20));
    assert_ne!(made.header("x-request-id"), other.header("x-request-id"));
}

#[tokio::test]
async fn what_takes_too_long_ends_and_says_whether_it_may_have_happened() {
    let control = Scripted::new();
    let server = control.serve_with(|parts| parts.limits.request = Duration::from_millis(100)).await;
    *control.hang.lock().unwrap() = true;
    let admin = bearer(ADMIN);
    let problem =
        send(&server, &format!("POST {BASE}/services/a/stop"), &[&admin], "").await.problem(504, "TimedOut");
    assert_eq!(problem.effect, Effect::Unknown);
    let problem =
        send(&server, &format!("GET {BASE}/services/a"), &[&admin], "").await.problem(504, "TimedOut");
    assert_eq!(problem.effect, Effect::None);
}

#[tokio::test]
async fn the_server_tells_of_itself() {
    let server = Scripted::new()
        .serve_with(|parts| {
            parts.ready = Arc::new(|| Err("the store is locked by another server".to_owned()))
        })
        .await;
    let reader = bearer(READER);
    assert_eq!(send(&server, "GET /healthz", &[], "").await.json(), json!({"ok": true}));
    let problem = send(&server, "GET /readyz", &[&reader], "").await.problem(503, "NotReady");
    assert!(problem.detail.contains("locked"), "{problem:?}");
    let metrics = send(&server, "GET /metrics", &[&reader], "").await;
    assert_eq!(metrics.body, "steadfast_up 1\n");
    for path in ["/", "/docs"] {
        let page = send(&server, &format!("GET {path}"), &[], "").await;
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert!(page.body.contains("/v1/clusters/{cluster}/services"));
    }
    let document = send(&server, "GET /openapi.json", &[], "").await.json();
    assert_eq!(document["openapi"], "3.1.0");
}

#[tokio::test]
async fn without_a_token_nothing_but_health_and_the_description_is_told() {
    let control = Scripted::new();
    let server = control.serve().await;
    for (method, path, open) in routes() {
        let answer = send(&server, &format!("{method} {path}"), &[JSON], "").await;
        if open {
            assert_eq!(answer.status, 200, "{method} {path}: {answer:?}");
            continue;
        }
        answer.problem(401, "TokenMissing");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"steadfast\""));
        for wrong in ["authorization: Bearer guessed", "authorization: Basic YTpi", "authorization: Bearer"] {
            send(&server, &format!("{method} {path}"), &[JSON, wrong], "").await.problem(401, "TokenUnknown");
        }
    }
    assert_eq!(control.asked.lock().unwrap().len(), 0, "the control plane was not asked at all");
}

#[tokio::test]
async fn a_token_opens_what_its_owner_may() {
    let control = Scripted::new();
    let server = control.serve().await;
    for (method, path, open) in routes() {
        if open {
            continue;
        }
        let store = path.contains("/store") || path.contains("/nodes/node-1/members/");
        let server_own = path == "/readyz" || path == "/metrics";
        let reads = method == "GET" || path.ends_with("/plan");
        let secret = path.ends_with("/connect") || path.ends_with("/secrets/password");
        for (token, may) in [
            (ADMIN, !store),
            (READER, !store && reads && !secret),
            (NODE, store),
            (SERVER, store || server_own),
        ] {
            // The watches answer without end: being let in at all is what counts.
            let refused = if path.ends_with("/watch") || path.contains("/store/watch") {
                !let_in(&server, method, &path, token).await
            } else {
                let answer = send(&server, &format!("{method} {path}"), &[&bearer(token), JSON], "").await;
                answer.status == 403
                    && answer.json()["detail"].as_str().unwrap_or("").starts_with("the token of")
            };
            // Node secrets are for that very node; a server is let in and refused for that.
            let may = may && !(token == SERVER && path.contains("/members/"));
            assert_eq!(!refused, may, "{method} {path} with {token}");
        }
    }
}

/// Whether the first bytes of the answer are of a success.
async fn let_in(server: &steadfast_api::testing::TestServer, method: &str, path: &str, token: &str) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.expect("the server listens");
    let text = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n{}\r\n\r\n", bearer(token));
    stream.write_all(text.as_bytes()).await.expect("the server reads");
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.expect("the server answers");
    &head == b"HTTP/1.1 200"
}

/// Every documented method and path, filled in, and whether it is open to all.
fn routes() -> Vec<(&'static str, String, bool)> {
    let document = serde_json::to_value(steadfast_api::server::openapi()).expect("it is JSON");
    let mut routes = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("it is an object") {
        for (method, operation) in methods.as_object().expect("it is an object") {
            let filled = path
                .replace("{cluster}", "test")
                .replace("{service}", "orders")
                .replace("{operation}", "op-1")
                .replace("{member}", "orders-0")
                .replace("{node}", "node-1")
                .replace("{secret}", "password");
            assert!(!filled.contains('{'), "{path} has a parameter that this test does not know");
            let query = match (filled.ends_with("/record"), method.as_str()) {
                (true, "delete") => "?key=steadfast/test/nodes/node-1/status&version=v",
                (true, _) => "?key=steadfast/test/nodes/node-1/status",
                _ if filled.contains("/store/") => "?prefix=steadfast/test/nodes",
                _ => "",
            };
            let open = operation["security"] == json!([{}]);
            let method = match method.as_str() {
                "get" => "GET",
                "put" => "PUT",
                "post" => "POST",
                "delete" => "DELETE",
                other => panic!("{other} is new"),
            };
            routes.push((method, format!("{filled}{query}"), open));
        }
    }
    routes
}

#[tokio::test]
async fn every_documented_route_is_there_and_no_other_method() {
    let server = Scripted::new().serve().await;
    let document = serde_json::to_value(steadfast_api::server::openapi()).unwrap();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let filled = path.replace("{cluster}", "test").replace("{service}", "orders");
        let answer = send(&server, &format!("OPTIONS {filled}"), &[], "").await;
        assert_eq!(answer.status, 204, "{path}: {answer:?}");
        let mut allowed: Vec<String> = answer
            .header("allow")
            .unwrap_or("")
            .split(',')
            .filter(|method| *method != "HEAD")
            .map(str::to_ascii_lowercase)
            .collect();
        allowed.sort();
        let documented: Vec<String> = methods.as_object().unwrap().keys().cloned().collect();
        assert_eq!(allowed, documented, "{path}");
    }
}

/// A route comes in through `routes!` with its description, or not at all.
#[test]
fn no_route_goes_past_the_description() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![source];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                if [".route(", ".nest(", ".route_service(", ".nest_service("]
                    .iter()
                    .any(|way| text.contains(way))
                {
                    found.push(path);
                }
            }
        }
    }
    assert!(found.is_empty(), "{found:?}");
}

/// The description as it is kept beside the code: whoever changes the API sees the change in review. Run with
/// `STEADFAST_UPDATE=1` to write it anew.
#[test]
fn the_description_is_the_one_that_is_kept() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let now = serde_json::to_string_pretty(&steadfast_api::server::openapi()).unwrap() + "\n";
    if std::env::var_os("STEADFAST_UPDATE").is_some() {
        std::fs::write(&file, &now).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    let line = kept.lines().zip(now.lines()).position(|(kept, now)| kept != now);
    assert!(kept == now, "openapi.json is not what the code says, from line {line:?} on: STEADFAST_UPDATE=1");
}
