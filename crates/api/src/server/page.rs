//! Lists, a page at a time.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use steadfast_core::control::RenderedService;
use utoipa::ToSchema;

use super::Refusal;
use crate::control::PageRequest;
use crate::problem::{Code, Problem};

const DEFAULT_LIMIT: usize = 100;
const MOST: usize = 500;

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items, in order.
    pub items: Vec<T>,
    /// If there is more: the `cursor` to ask for it with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// A list that comes whole.
    pub(crate) fn whole(items: Vec<T>) -> Self {
        Page { items, next: None }
    }

    /// The page that was asked for, of what came for [`request`]: the one item too many says that there is more.
    pub(crate) fn of(mut items: Vec<T>, limit: usize, name: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(name) } else { None };
        Page { items, next }
    }
}

impl IntoResponse for Page<RenderedService> {
    fn into_response(self) -> Response {
        let size: usize = self.items.iter().map(RenderedService::size_hint).sum();
        let mut body = Vec::with_capacity(size + self.items.len() + 256);
        body.extend_from_slice(b"{\"items\":[");
        for (index, item) in self.items.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            item.write_to(&mut body);
        }
        body.push(b']');
        if let Some(next) = &self.next {
            body.extend_from_slice(b",\"next\":");
            body.extend_from_slice(Value::from(next.as_str()).to_string().as_bytes());
        }
        body.push(b'}');
        json(body)
    }
}

/// An answer that is JSON already.
pub(super) fn json(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

/// The limit of a query, within bounds.
pub(crate) fn limit(given: Option<usize>) -> Result<usize, Refusal> {
    let limit = given.unwrap_or(DEFAULT_LIMIT);
    if (1..=MOST).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::new(Code::ParameterInvalid, format!("limit is {limit}"))
        .in_field("limit")
        .remedy(format!("give 1 to {MOST}"))
        .into())
}

/// What to ask for a page of `limit`: one more, to see whether there is more.
pub(crate) fn request(limit: usize, cursor: Option<String>) -> PageRequest {
    PageRequest { after: cursor, limit: limit + 1 }
}
