//! What machines and servers cannot reach.

use serde::{Deserialize, Serialize};

/// What a machine cannot reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cut {
    /// The store, the clouds' interfaces.
    pub control: bool,
    /// Other members.
    pub peers: bool,
    /// Clients.
    pub clients: bool,
}

/// Which way somebody is cut off from the store and the clouds' interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Nothing that it asks arrives.
    Requests,
    /// What it asks takes effect, and it hears no answer.
    Answers,
    /// Neither.
    Both,
}

impl Way {
    /// Whether requests are lost.
    pub fn loses_requests(self) -> bool {
        self != Way::Answers
    }

    /// Whether answers are lost.
    pub fn loses_answers(self) -> bool {
        self != Way::Requests
    }
}
