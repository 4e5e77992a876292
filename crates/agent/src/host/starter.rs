//! Whether somebody else who starts engines on this node, its engine of Docker for example, is there.

use std::sync::Mutex;

use crate::sync::lock;

/// How often in a row it may not answer: one slow answer of a busy machine is no silence.
const PATIENCE: u32 = 2;

/// What the node's agent knows of who starts engines here: what is known elsewhere is known later.
#[derive(Debug)]
pub struct Starter {
    name: String,
    /// How often in a row it has not answered.
    missed: Mutex<u32>,
}

impl Starter {
    /// One that is called so, of which nothing is known yet.
    pub fn new(name: impl Into<String>) -> Self {
        Starter { name: name.into(), missed: Mutex::default() }
    }

    /// Takes in whether it has answered.
    pub fn note(&self, answered: bool) {
        let mut missed = lock(&self.missed);
        *missed = if answered { 0 } else { missed.saturating_add(1) };
    }

    /// Why it starts nothing; none: it does, as far as is known.
    pub fn stalled(&self) -> Option<String> {
        (*lock(&self.missed) >= PATIENCE).then(|| format!("{} does not answer", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_twice_in_a_row_starts_nothing() {
        let starter = Starter::new("its engine of Docker");
        assert_eq!(starter.stalled(), None);
        starter.note(false);
        assert_eq!(starter.stalled(), None, "once may be chance");
        starter.note(true);
        starter.note(false);
        assert_eq!(starter.stalled(), None);
        starter.note(false);
        let told = starter.stalled();
        assert_eq!(told.as_deref(), Some("its engine of Docker does not answer"));
        starter.note(false);
        assert_eq!(starter.stalled(), told, "the words stay the same");
        starter.note(true);
        assert_eq!(starter.stalled(), None);
    }
}
