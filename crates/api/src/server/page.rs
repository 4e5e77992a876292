//! Lists, a page at a time.

use serde::{Deserialize, Serialize};
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
