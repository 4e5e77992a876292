//! Bugs that are planted on purpose, to prove that the simulator finds such bugs.
//!
//! Without the feature `planted` nothing of this is in a build: [`is`] is constant, and what would follow is left
//! out by the compiler. With it, [`plant`] chooses for the thread that runs a simulation, and for nobody else.
//! `docs/known-bugs.md` tells where each is known from, and what finds it.

use std::fmt;
use std::str::FromStr;

macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $bug:ident = $name:literal,)+) => {
        /// A bug. Each says what is broken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Planted {
            $($(#[doc = $doc])+ $bug,)+
        }

        impl Planted {
            /// Every bug.
            pub const ALL: &[Planted] = &[$(Planted::$bug,)+];

            /// Its name, as users give it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Planted::$bug => $name,)+
                }
            }

            /// What is broken, in a line.
            pub fn says(self) -> &'static str {
                match self {
                    $(Planted::$bug => concat!($($doc),+),)+
                }
            }
        }
    };
}

bugs! {
    /// A claim detaches the volume before it is recorded as the holder.
    DetachBeforeOwnership = "detach-before-ownership",
    /// A claim takes the address before it is recorded as the holder.
    AddressBeforeOwnership = "address-before-ownership",
    /// A claim becomes the holder without a new epoch.
    EpochNotRaised = "epoch-not-raised",
    /// A node that is silent counts as fenced, for the planner and the claim alike.
    NoFence = "no-fence",
    /// A volume that is attached to anybody counts as attached here.
    BlindAttach = "blind-attach",
    /// A record is written over whatever is there by now.
    NoSwap = "no-swap",
    /// Only a node's own word frees what it held.
    OnlyItsOwnWord = "only-its-own-word",
    /// A node that has been silent for its lease counts as dead.
    SilenceIsDeath = "silence-is-death",
    /// A proof of death that could not be had counts as one.
    NoAnswerIsDeath = "no-answer-is-death",
    /// The age of a node's lease is read from the wall clock.
    WallClockLease = "wall-clock-lease",
    /// Who accepts no lease has its data moved on one all the same.
    LeaseAcceptedByNobody = "lease-accepted-by-nobody",
    /// A node that cannot renew its lease lets its guards have it longer all the same.
    LeaseKeptByZombie = "lease-kept-by-zombie",
    /// A guard is started without an end of its lease.
    GuardWithoutLease = "guard-without-lease",
    /// An agent that was started anew takes engines that run for gone.
    GuardsForgotten = "guards-forgotten",
    /// An agent gives up for good when an engine has ended by itself.
    GivesUp = "gives-up",
    /// An agent acts on hints alone.
    HintsAlone = "hints-alone",
    /// Data that is gone is made anew.
    AmnesiacMember = "amnesiac-member",
    /// A node gives a member up and leaves the volume attached.
    ReleaseWithoutDetach = "release-without-detach",
    /// A node gives a member up while its engine stops.
    ReleaseBeforeStop = "release-before-stop",
    /// Everything of a deleted service is taken back before its engines are gone.
    DeleteBeforeStop = "delete-before-stop",
    /// The name of a member that is removed is left.
    NameLeft = "name-left",
    /// Members are moved however many nodes are silent.
    NoStormBrake = "no-storm-brake",
    /// A name is written over whatever it holds by now.
    StaleName = "stale-name",
    /// The name of the primary leads to whoever is to lead, and not to whoever leads.
    NameBeforeRole = "name-before-role",
    /// Volumes are made without a token, so that asking again makes another.
    VolumeWithoutToken = "volume-without-token",
    /// What was made and never recorded is not looked for when a member is removed.
    UnrecordedLeft = "unrecorded-left",
    /// The first page of a list counts as the whole.
    FirstPageIsAll = "first-page-is-all",
    /// A promotion goes on with one survivor, whoever confirmed.
    TooFewSurvivors = "too-few-survivors",
    /// A promotion takes the first survivor by name, and not the one that is farthest.
    FirstSurvivor = "first-survivor",
    /// The old primary returns as one while its successor is chosen.
    ReturnsAsPrimary = "returns-as-primary",
    /// A primary that nothing is known of counts as down.
    UnknownPrimaryIsDown = "unknown-primary-is-down",
    /// A restart begins with the primary.
    PrimaryFirst = "primary-first",
    /// A restart does not wait for the member before.
    AllAtOnce = "all-at-once",
    /// A restart counts a member that was told as one that is there.
    ToldIsThere = "told-is-there",
    /// A restart is demanded anew by every server that goes on with it.
    RestartsAgain = "restarts-again",
    /// A member that does not serve is not touched, even to bring it back to what it was.
    RollbackTrap = "rollback-trap",
    /// A switchover does not wait until the successor has everything.
    HandoverTooEarly = "handover-too-early",
    /// A member whose disk was lost counts in an election before it has caught up.
    CountsAtOnce = "counts-at-once",
    /// A member is rebuilt beside its last holder, which nothing says is dead.
    RebuiltBeside = "rebuilt-beside",
    /// A volume that is given up can be taken elsewhere, and is still the same volume.
    AbandonedInName = "abandoned-in-name",
    /// A voter whose disk was lost has its vote at once.
    VotesAtOnce = "votes-at-once",
    /// A learner is given its vote before it has caught up.
    VotesTooEarly = "votes-too-early",
    /// A request that is repeated is another request.
    KeyIgnored = "key-ignored",
    /// A wait between two attempts never grows, and is nothing.
    HotLoop = "hot-loop",
}

impl fmt::Display for Planted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Planted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Planted::ALL.iter().find(|bug| bug.name() == text);
        found.copied().ok_or_else(|| format!("{text} is no planted bug"))
    }
}

#[cfg(feature = "planted")]
mod planting {
    use std::cell::RefCell;

    use super::Planted;

    thread_local! {
        static PLANTED: RefCell<Vec<Planted>> = const { RefCell::new(Vec::new()) };
    }

    /// Whether this build has the bugs.
    pub const IN_THIS_BUILD: bool = true;

    /// Whether a bug is planted in what this thread runs.
    pub fn is(bug: Planted) -> bool {
        PLANTED.with_borrow(|planted| planted.contains(&bug))
    }

    /// Plants bugs in what this thread runs, instead of those before, until the result is dropped.
    pub fn plant(bugs: &[Planted]) -> Planting {
        Planting(PLANTED.replace(bugs.to_vec()))
    }

    /// Bugs are planted while this is there.
    #[must_use]
    #[derive(Debug)]
    pub struct Planting(Vec<Planted>);

    impl Drop for Planting {
        fn drop(&mut self) {
            PLANTED.set(std::mem::take(&mut self.0));
        }
    }
}

#[cfg(not(feature = "planted"))]
mod planting {
    use super::Planted;

    /// Whether this build has the bugs.
    pub const IN_THIS_BUILD: bool = false;

    /// Whether a bug is planted in what this thread runs: never, in this build.
    #[inline(always)]
    pub const fn is(_bug: Planted) -> bool {
        false
    }
}

pub use planting::*;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_are_those_of_files() {
        for bug in Planted::ALL {
            assert_eq!(bug.name().parse(), Ok(*bug));
            assert_eq!(serde_json::to_value(bug).unwrap(), bug.name());
        }
        assert!("no-such-bug".parse::<Planted>().is_err());
    }

    #[cfg(feature = "planted")]
    #[test]
    #[expect(clippy::disallowed_methods, reason = "another thread must not have the bug")]
    fn a_bug_is_planted_in_one_thread_for_as_long_as_told() {
        let bug = Planted::NoFence;
        let planting = plant(&[bug]);
        assert!(is(bug) && !is(Planted::NoSwap));
        assert!(!std::thread::spawn(move || is(bug)).join().unwrap());
        drop(planting);
        assert!(!is(bug));
    }

    #[cfg(not(feature = "planted"))]
    #[test]
    fn a_build_without_the_feature_has_no_bug() {
        const NONE: bool = is(Planted::NoFence) || IN_THIS_BUILD;
        assert!(!NONE);
    }
}
