//! The description of the API: OpenAPI 3.1 from the code, and a page made of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder};

use crate::problem::{Code, TYPE_PREFIX};

const INTRODUCTION: &str = "Stateful services that stay themselves. Every request but those to `/healthz`, \
`/openapi.json` and this page carries `Authorization: Bearer TOKEN`. Failures are problems (RFC 9457): `code` \
stays, `effect` says whether what was asked for may have happened. Changes that take time answer 202 with an \
operation. `Idempotency-Key` makes asking twice one operation; `If-Match` with a check index refuses a change if \
something came between. Lists come in pages of `limit`; `next` is the `cursor` of the following one. Unknown query \
parameters and fields are refused. Every answer carries `x-request-id`, the caller's own if it sent one.";

/// The description in the forms in which it is served.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) json: Bytes,
    pub(crate) page: String,
}

impl Document {
    pub(crate) fn new(document: &OpenApi) -> Self {
        // A document made of plain values has nothing that JSON cannot write.
        let value = serde_json::to_value(document).unwrap_or_default();
        Document { json: value.to_string().into(), page: page(&value) }
    }
}

/// What the description says beside the routes.
pub(crate) fn info() -> OpenApi {
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Steadfast")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(INTRODUCTION)),
        )
        .components(Some(ComponentsBuilder::new().security_scheme("bearer", bearer).build()))
        .security(Some([SecurityRequirement::new("bearer", Vec::<String>::new())]))
        .build()
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;\
color:#1c2430;background:#fff}h1,h2,h3{line-height:1.2}h2{margin-top:2.5rem;border-bottom:1px solid #d5dae2}\
code,pre{font:14px/1.5 ui-monospace,monospace}details{border:1px solid #d5dae2;border-radius:6px;margin:.5rem 0;\
padding:.4rem .8rem}summary{cursor:pointer}summary p{margin:.2rem 0 0 0}.m{display:inline-block;min-width:4.5rem;\
font-weight:600}table{border-collapse:collapse;margin:.5rem 0;width:100%}td,th{text-align:left;vertical-align:top;\
padding:.25rem .6rem;border-top:1px solid #e5e9ef}@media(prefers-color-scheme:dark){body{color:#dfe5ee;\
background:#14181f}h2,details,td,th{border-color:#333c4a}a{color:#8ab4ff}}";

/// The page: plain HTML with the style inside, so that it needs nothing from elsewhere.
fn page(document: &Value) -> String {
    let mut html = String::new();
    let title = format!("Steadfast API {}", text(&document["info"]["version"]));
    html.push_str("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    html.push_str("<meta name=\"viewport\" content=\"width=device-width\">");
    push(
        &mut html,
        format_args!("<title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>"),
    );
    push(&mut html, format_args!("<p>{}</p>", prose(text(&document["info"]["description"]))));
    html.push_str("<p>The same as <a href=\"/openapi.json\">OpenAPI 3.1</a>.</p>");
    for (tag, operations) in by_tag(document) {
        push(&mut html, format_args!("<h2 id=\"{tag}\">{tag}</h2>"));
        for (method, path, operation) in operations {
            operation_section(&mut html, method, path, operation);
        }
    }
    schemas(&mut html, &document["components"]["schemas"]);
    problems(&mut html);
    html.push_str("</body></html>\n");
    html
}

type Operation<'a> = (&'a str, &'a str, &'a Value);

fn by_tag(document: &Value) -> BTreeMap<&str, Vec<Operation<'_>>> {
    let mut tags: BTreeMap<&str, Vec<Operation<'_>>> = BTreeMap::new();
    for (path, methods) in object(&document["paths"]) {
        for (method, operation) in object(methods) {
            tags.entry(text(&operation["tags"][0])).or_default().push((method, path, operation));
        }
    }
    tags
}

fn operation_section(html: &mut String, method: &str, path: &str, operation: &Value) {
    let said = [text(&operation["summary"]), text(&operation["description"])].join(" ");
    push(
        html,
        format_args!(
            "<details><summary><span class=\"m\">{}</span><code>{}</code><p>{}</p></summary><table>",
            method.to_ascii_uppercase(),
            escaped(path),
            prose(said.trim())
        ),
    );
    for parameter in array(&operation["parameters"]) {
        let need = if parameter["required"] == true { ", required" } else { "" };
        row(
            html,
            &format!("<code>{}</code>", escaped(text(&parameter["name"]))),
            &format!("{}{need}", escaped(text(&parameter["in"]))),
            &prose(text(&parameter["description"])),
        );
    }
    for (kind, content) in object(&operation["requestBody"]["content"]) {
        row(html, "body", &escaped(kind), &shape(&content["schema"]));
    }
    for (status, response) in object(&operation["responses"]) {
        let described = prose(text(&response["description"]));
        for (kind, content) in object(&response["content"]) {
            let answer = format!("{} {described}", shape(&content["schema"]));
            row(html, &format!("answer {}", escaped(status)), &escaped(kind), answer.trim());
        }
    }
    html.push_str("</table></details>");
}

fn schemas(html: &mut String, schemas: &Value) {
    html.push_str("<h2 id=\"schemas\">schemas</h2>");
    for (name, schema) in object(schemas) {
        let name = escaped(name);
        push(
            html,
            format_args!(
                "<details id=\"{name}\"><summary><code>{name}</code><p>{}</p></summary><table>",
                prose(text(&schema["description"]))
            ),
        );
        let required: Vec<&str> = array(&schema["required"]).iter().map(text).collect();
        for (field, inner) in object(&schema["properties"]) {
            let need = if required.contains(&field.as_str()) { "" } else { "may be left out; " };
            let detail = format!("{need}{}", prose(text(&inner["description"])));
            row(html, &format!("<code>{}</code>", escaped(field)), &shape(inner), &detail);
        }
        for variant in array(&schema["oneOf"]) {
            row(html, "one of", &shape(variant), &prose(text(&variant["description"])));
        }
        if schema.get("enum").is_some() {
            row(html, "one of", &shape(schema), "");
        }
        html.push_str("</table></details>");
    }
}

fn problems(html: &mut String) {
    html.push_str(
        "<h2 id=\"problems\">problems</h2><p>Besides the reason codes of services and members:</p>",
    );
    html.push_str("<table>");
    for code in Code::ALL {
        let kind = format!("<code>{TYPE_PREFIX}{}</code>", code.as_str());
        row(html, &kind, code.status().as_str(), &escaped(code.title()));
    }
    html.push_str("</table>");
}

/// A schema on a line, with links to those that have a name.
fn shape(schema: &Value) -> String {
    if let Some(name) = text(&schema["$ref"]).strip_prefix("#/components/schemas/") {
        let name = escaped(name);
        return format!("<a href=\"#{name}\">{name}</a>");
    }
    for key in ["oneOf", "anyOf", "allOf"] {
        let parts: Vec<String> = array(&schema[key]).iter().map(shape).collect();
        if !parts.is_empty() {
            return parts.join(if key == "allOf" { " and " } else { " or " });
        }
    }
    let values: Vec<String> =
        array(&schema["enum"]).iter().map(|value| escaped(&value.to_string())).collect();
    if !values.is_empty() {
        return values.join(" or ");
    }
    if schema.get("items").is_some() {
        return format!("list of {}", shape(&schema["items"]));
    }
    let named: Vec<String> = object(&schema["properties"])
        .map(|(name, inner)| format!("{}: {}", escaped(name), shape(inner)))
        .collect();
    if !named.is_empty() {
        return format!("{{{}}}", named.join(", "));
    }
    match &schema["type"] {
        Value::String(kind) => escaped(kind),
        Value::Array(kinds) => kinds.iter().map(|kind| escaped(text(kind))).collect::<Vec<_>>().join(" or "),
        _ => "any".to_owned(),
    }
}

fn row(html: &mut String, first: &str, second: &str, third: &str) {
    push(html, format_args!("<tr><td>{first}</td><td>{second}</td><td>{third}</td></tr>"));
}

fn push(html: &mut String, arguments: std::fmt::Arguments<'_>) {
    html.push_str(&std::fmt::format(arguments));
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Escaped prose, with `…` as code.
fn prose(text: &str) -> String {
    let mut html = String::new();
    for (index, part) in escaped(text).split('`').enumerate() {
        if index % 2 == 1 {
            push(&mut html, format_args!("<code>{part}</code>"));
        } else {
            html.push_str(part);
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let document = Document::new(&crate::server::openapi());
        assert!(!document.page.contains("http://") && !document.page.contains("https://"));
        assert!(!document.page.contains("<script") && !document.page.contains("src="));
        for (path, _) in object(&serde_json::from_slice::<Value>(&document.json).unwrap()["paths"]) {
            assert!(document.page.contains(&format!("<code>{path}</code>")), "{path}");
        }
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(prose("a < `b` & \"c\""), "a &lt; <code>b</code> &amp; &quot;c&quot;");
    }
}
