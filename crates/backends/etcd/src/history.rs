//! How far etcd's history is known to reach: it only grows, unless etcd was put back from an older backup. Then versions
//! come again, and what is decided by them would be wrong.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use etcd_client::ResponseHeader;

/// The newest revision that was seen.
#[derive(Debug)]
pub(crate) struct History {
    newest: AtomicI64,
    /// It stays refused, even if it grows beyond where it was.
    rewound: AtomicBool,
}

/// What was acknowledged is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "etcd is at revision {now}, and has been at {before}: it was put back from an older backup, or is another one, and \
     what was acknowledged since is gone"
)]
pub(crate) struct Rewound {
    now: i64,
    before: i64,
}

impl History {
    pub(crate) fn new(at_least: i64) -> Self {
        History { newest: AtomicI64::new(at_least), rewound: AtomicBool::new(false) }
    }

    pub(crate) fn newest(&self) -> i64 {
        self.newest.load(Ordering::SeqCst)
    }

    /// Takes note of a linearizable answer to a request that was begun when `before` was the newest.
    pub(crate) fn see(&self, before: i64, header: Option<&ResponseHeader>) -> Result<(), Rewound> {
        self.note(before, header.map_or(0, ResponseHeader::revision))
    }

    fn note(&self, before: i64, now: i64) -> Result<(), Rewound> {
        if now < before {
            self.rewound.store(true, Ordering::SeqCst);
        }
        if self.rewound.load(Ordering::SeqCst) {
            return Err(Rewound { now, before });
        }
        self.newest.fetch_max(now, Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_grows_and_what_has_gone_back_stays_refused() {
        let history = History::new(0);
        assert_eq!(history.note(history.newest(), 5), Ok(()));
        // An answer to a request from before that other one was answered.
        assert_eq!(history.note(0, 4), Ok(()));
        assert_eq!(history.newest(), 5);
        assert_eq!(history.note(5, 4), Err(Rewound { now: 4, before: 5 }));
        assert_eq!(history.note(5, 9), Err(Rewound { now: 9, before: 5 }));
        assert_eq!(history.newest(), 5);
        assert!(History::new(7).note(7, 6).is_err());
    }
}
