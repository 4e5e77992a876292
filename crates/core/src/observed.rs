//! What is known of something that can only be looked at: absent, present, or not known.

/// An observation. `Unknown` is its own answer: it never plans a destructive action and never opens a gate.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Observed<T> {
    /// Looked, and it was not there.
    Absent,
    /// Looked, and it was there.
    Present(T),
    /// Could not look, or the look is too old to count.
    #[default]
    Unknown,
}

impl<T> Observed<T> {
    /// The value, if present.
    pub fn present(&self) -> Option<&T> {
        match self {
            Observed::Present(value) => Some(value),
            Observed::Absent | Observed::Unknown => None,
        }
    }

    /// Whether it was looked for and not found.
    pub fn is_absent(&self) -> bool {
        matches!(self, Observed::Absent)
    }

    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Observed::Unknown)
    }

    /// From a look that succeeded.
    pub fn from_option(value: Option<T>) -> Self {
        match value {
            Some(value) => Observed::Present(value),
            None => Observed::Absent,
        }
    }

    /// From a look that may have failed: a failure is `Unknown`, never `Absent`.
    pub fn from_result<E>(value: Result<Option<T>, E>) -> Self {
        value.map_or(Observed::Unknown, Self::from_option)
    }
}
