//! Whether somebody else who starts engines on this node, its engine of Docker for example, is there.

use std::sync::Mutex;

use crate::sync::lock;

/// How often in a row it may not answer: one slow answer of a busy machine is no silence.
const PATIENCE: u32 = 2;

/// What the node's agent knows of who starts engines here: what is known elsewhere is known later.
#[derive(Debug)]
pub struct Starter {
    name: String,
    /// How often in a row it was of no use, and why last.
    missed: Mutex<(u32, String)>,
}

impl Starter {
    /// One that is called so, of which nothing is known yet.
    pub fn new(name: impl Into<String>) -> Self {
        Starter { name: name.into(), missed: Mutex::default() }
    }

    /// Takes in why it is of no use, as in "does not answer"; none: it has answered.
    pub fn note(&self, trouble: Option<String>) {
        let mut missed = lock(&self.missed);
        *missed = trouble.map(|why| (missed.0.saturating_add(1), why)).unwrap_or_default();
    }

    /// Why it starts nothing; none: it does, as far as is known.
    pub fn stalled(&self) -> Option<String> {
        let missed = lock(&self.missed);
        (missed.0 >= PATIENCE).then(|| format!("{} {}", self.name, missed.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_twice_in_a_row_starts_nothing() {
        let starter = Starter::new("its engine of Docker");
        let silent = || Some("does not answer".to_owned());
        assert_eq!(starter.stalled(), None);
        starter.note(silent());
        assert_eq!(starter.stalled(), None, "once may be chance");
        starter.note(None);
        starter.note(silent());
        assert_eq!(starter.stalled(), None);
        starter.note(silent());
        let told = starter.stalled();
        assert_eq!(told.as_deref(), Some("its engine of Docker does not answer"));
        starter.note(silent());
        assert_eq!(starter.stalled(), told, "the words stay the same");
        starter.note(None);
        assert_eq!(starter.stalled(), None);
    }
}
