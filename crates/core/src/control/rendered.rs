//! A service's view as JSON: rendered once, and told at any time with what time changes in it.

use std::io::Write as _;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ControlResult, ServiceView};
use crate::controller::NodeTable;
use crate::error::{Error, ErrorKind};
use crate::ids::{NodeName, ServiceName};
use crate::runtime::{Moment, Timestamp};

/// A [`ServiceView`] as JSON, as of the moment it was asked for.
#[derive(Debug, Clone)]
pub struct RenderedService {
    pub(super) text: Arc<Text>,
    told: Told,
}

/// What a text leaves out.
#[derive(Debug, Clone, Default)]
struct Told {
    /// When it was looked at, as JSON.
    at: Arc<str>,
    /// How long ago something was heard of each member, in milliseconds.
    ages: Vec<Option<u64>>,
}

/// The moment that views are told at.
#[derive(Debug, Clone)]
pub(super) struct Now {
    monotonic: Moment,
    wall: Arc<str>,
}

/// A view without what time alone changes in it.
#[derive(Debug)]
pub(super) struct Text {
    name: ServiceName,
    index: String,
    json: Box<str>,
    /// What is left out, in the order of the text.
    gaps: Box<[Gap]>,
    /// The node of each member.
    nodes: Box<[Option<NodeName>]>,
}

#[derive(Debug)]
struct Gap {
    /// Where in the text it belongs.
    at: usize,
    what: Timely,
}

/// What time alone changes.
#[derive(Debug, Clone, Copy)]
enum Timely {
    /// When a condition was looked at.
    ObservedAt,
    /// The age of what is heard of a member: of the first, the second…
    Age(usize),
}

impl RenderedService {
    /// A view that was just made.
    ///
    /// # Errors
    /// Never: every view is JSON.
    pub fn of(view: &ServiceView) -> ControlResult<Self> {
        let json = render(view)?;
        let text = Text {
            name: view.name.clone(),
            index: view.index.clone(),
            json: json.into(),
            gaps: Box::default(),
            nodes: Box::default(),
        };
        Ok(RenderedService { text: Arc::new(text), told: Told::default() })
    }

    /// The service's name.
    pub fn name(&self) -> &ServiceName {
        &self.text.name
    }

    /// The check index.
    pub fn index(&self) -> &str {
        &self.text.index
    }

    /// About how many bytes it has; rather too many.
    pub fn size_hint(&self) -> usize {
        self.text.json.len() + self.text.gaps.len() * self.told.at.len().max(20)
    }

    /// Appends the JSON.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let (json, mut from) = (self.text.json.as_bytes(), 0);
        for Gap { at, what } in &self.text.gaps {
            out.extend_from_slice(&json[from..*at]);
            from = *at;
            match what {
                Timely::ObservedAt => out.extend_from_slice(self.told.at.as_bytes()),
                Timely::Age(member) => match self.told.ages.get(*member).copied().flatten() {
                    // Writing into memory does not fail.
                    Some(age) => drop(write!(out, "{age}")),
                    None => out.extend_from_slice(b"null"),
                },
            }
        }
        out.extend_from_slice(&json[from..]);
    }
}

impl Now {
    pub(super) fn new(monotonic: Moment, wall: Timestamp) -> Self {
        // As it is written where it is part of a view.
        Now { monotonic, wall: format!("\"{wall}\"").into() }
    }

    pub(super) fn moment(&self) -> Moment {
        self.monotonic
    }
}

impl Text {
    /// What `view` says at any time.
    ///
    /// # Errors
    /// Never: every view is JSON.
    pub(super) fn of(view: &ServiceView) -> ControlResult<Self> {
        /// Where in a view's text something of time is.
        #[derive(Deserialize)]
        struct Places<'a> {
            #[serde(borrow)]
            conditions: Vec<OfCondition<'a>>,
            #[serde(borrow)]
            members: Vec<OfMember<'a>>,
        }
        #[derive(Deserialize)]
        struct OfCondition<'a> {
            #[serde(borrow)]
            observed_at: &'a RawValue,
        }
        #[derive(Deserialize)]
        struct OfMember<'a> {
            #[serde(borrow)]
            observed_ms_ago: &'a RawValue,
        }
        let full = render(view)?;
        let places: Places<'_> = serde_json::from_str(&full).map_err(|error| internal(view, error))?;
        let observed = places.conditions.iter().map(|place| (place.observed_at, Timely::ObservedAt));
        let ages = (0..).zip(&places.members);
        let ages = ages.map(|(member, place)| (place.observed_ms_ago, Timely::Age(member)));
        let mut found: Vec<(usize, &str, Timely)> = observed
            .chain(ages)
            // A raw value is a part of the text that it was read from.
            .map(|(raw, what)| (raw.get().as_ptr().addr() - full.as_ptr().addr(), raw.get(), what))
            .collect();
        found.sort_unstable_by_key(|(begin, ..)| *begin);
        let (mut json, mut from) = (String::with_capacity(full.len()), 0);
        let mut gaps = Vec::with_capacity(found.len());
        for (begin, left_out, what) in found {
            json.push_str(&full[from..begin]);
            gaps.push(Gap { at: json.len(), what });
            from = begin + left_out.len();
        }
        json.push_str(&full[from..]);
        Ok(Text {
            name: view.name.clone(),
            index: view.index.clone(),
            json: json.into(),
            gaps: gaps.into(),
            nodes: view.members.iter().map(|member| member.node.clone()).collect(),
        })
    }

    pub(super) fn name(&self) -> &ServiceName {
        &self.name
    }

    /// About how many bytes it takes.
    pub(super) fn size(&self) -> usize {
        self.json.len() + size_of_val(&*self.gaps) + size_of_val(&*self.nodes) + size_of::<Self>()
    }

    /// The view as of now.
    pub(super) fn told(self: Arc<Self>, table: &NodeTable, now: &Now) -> RenderedService {
        let ages = self.nodes.iter().map(|node| table.age(node.as_ref()?, now.monotonic)).collect();
        RenderedService { text: self, told: Told { at: Arc::clone(&now.wall), ages } }
    }
}

fn render(view: &ServiceView) -> ControlResult<String> {
    serde_json::to_string(view).map_err(|error| internal(view, error))
}

fn internal(view: &ServiceView, error: serde_json::Error) -> super::ControlError {
    Error::new(ErrorKind::Internal, "control", "render", &view.name, error).without_effect().into()
}
