//! Every order of what may happen to one member, and who has it then.

use std::collections::BTreeSet;

use steadfast_core::engine::{Command, StopSignal};
use steadfast_lock::Lock;

use super::*;
use crate::guard::LogSpec;

/// What is offered for a member, as the agent has made it ready.
pub(crate) fn make_ready(dir: &NodeDir, member: &str, lease_until_ms: Option<u64>) -> GuardSpec {
    let member: MemberName = member.parse().unwrap();
    let spec = GuardSpec {
        service: "orders".parse().unwrap(),
        node: "node-1".parse().unwrap(),
        epoch: Default::default(),
        generation: Default::default(),
        incarnation: "e1".parse().unwrap(),
        command: Command { argv: vec!["/bin/engine".to_owned()], ..Command::default() },
        run_as: None,
        machine_lock: None,
        guard_lock: dir.guard_lock(&member),
        volumes: Vec::new(),
        lock_wait_ms: 0,
        control: dir.control(&member),
        exit: dir.exit(&member),
        log: LogSpec { folder: dir.guard(&member), max_bytes: 1, keep: 0 },
        stop_signal: StopSignal::Term,
        stop_grace_ms: 0,
        network: None,
        lease_until_ms,
        member,
    };
    fs::create_dir_all(dir.guard(&spec.member)).unwrap();
    fs::write(dir.spec(&spec.member), serde_json::to_vec(&spec).unwrap()).unwrap();
    spec
}

#[derive(Debug, Clone, Copy)]
enum Happens {
    Offer,
    Withdraw,
    Mount(&'static str),
    Unmount(&'static str),
    /// The guard comes up.
    Guard,
    /// Its data is prepared for the next guard, under the same lock.
    Prepare,
    /// Whichever it was ends.
    End,
    AnotherAgent,
}

const ALL: [Happens; 10] = [
    Happens::Offer,
    Happens::Withdraw,
    Happens::Mount("a"),
    Happens::Mount("b"),
    Happens::Unmount("a"),
    Happens::Unmount("b"),
    Happens::Guard,
    Happens::Prepare,
    Happens::End,
    Happens::AnotherAgent,
];

struct Node {
    dir: NodeDir,
    spec: GuardSpec,
    gate: Gate,
    guard: Option<Lock>,
    preparation: Option<Lock>,
    /// The callers that were given the member and have not given it back, since the last offer.
    have: BTreeSet<&'static str>,
}

impl Node {
    fn happens(&mut self, what: Happens) {
        let member = &self.spec.member;
        match what {
            // An agent offers only what nothing is left of.
            Happens::Offer if self.guard.is_none() && self.preparation.is_none() => {
                self.gate.offer(&self.spec).unwrap();
                self.have.clear();
            }
            Happens::Offer => {}
            Happens::Withdraw => self.gate.withdraw(member),
            Happens::Mount(id) => {
                if self.gate.take(member, id).unwrap() == Taking::Taken {
                    assert!(self.preparation.is_none(), "it is given to {id} while it is prepared");
                    self.have.insert(id);
                }
            }
            Happens::Unmount(id) => {
                self.gate.give_back(member, id).unwrap();
                self.have.remove(id);
            }
            Happens::Guard => self.guard = self.guard.take().or_else(|| self.lock()),
            // An agent prepares only what nothing is left of.
            Happens::Prepare if self.guard.is_none() && self.preparation.is_none() => {
                self.gate.close(member).unwrap();
                self.have.clear();
                self.preparation = self.lock();
            }
            Happens::Prepare => {}
            Happens::End => (self.guard, self.preparation) = (None, None),
            Happens::AnotherAgent => self.gate = Gate::new(self.dir.clone()),
        }
    }

    fn lock(&self) -> Option<Lock> {
        Lock::try_exclusive(&self.spec.guard_lock).unwrap()
    }
}

#[test]
fn two_containers_never_have_one_member_in_whatever_order_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let dir = NodeDir::new(folder.path()).with_containers(folder.path().join("members"));
    const STEPS: u32 = 4;
    for order in 0..ALL.len().pow(STEPS) {
        let happened: Vec<Happens> =
            (0..STEPS).map(|step| ALL[order / ALL.len().pow(step) % ALL.len()]).collect();
        let spec = make_ready(&dir, "orders-0", None);
        let mut node = Node {
            gate: Gate::new(dir.clone()),
            dir: dir.clone(),
            spec,
            guard: None,
            preparation: None,
            have: BTreeSet::new(),
        };
        // Before it, one container has it; so that the orders begin with what is most likely to go wrong.
        for what in [Happens::Offer, Happens::Mount("a")].into_iter().chain(happened.iter().copied()) {
            node.happens(what);
            assert!(node.have.len() <= 1, "{:?} have it after {happened:?}", node.have);
        }
        // However it came to this, the next container gets it when nothing is left.
        for what in [Happens::End, Happens::Offer, Happens::Mount("c")] {
            node.happens(what);
        }
        assert_eq!(node.have, BTreeSet::from(["c"]), "after {happened:?}");
    }
}

#[test]
fn what_is_waiting_for_its_container_keeps_the_lease_until_it_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let dir = NodeDir::new(folder.path()).with_containers(folder.path());
    let spec = make_ready(&dir, "orders-0", Some(1_000));
    let at = |millis| Moment::from_zero(std::time::Duration::from_millis(millis));
    let written = || {
        let spec: GuardSpec = serde_json::from_slice(&fs::read(dir.spec(&spec.member)).unwrap()).unwrap();
        spec.lease_until_ms.unwrap()
    };
    let gate = Gate::new(dir.clone());
    let extend = |now, until| gate.extend_lease(&spec.member, at(now), at(until)).unwrap();
    extend(500, 1_500);
    assert_eq!(written(), 1_000, "nothing is offered");
    gate.offer(&spec).unwrap();
    extend(500, 1_500);
    assert_eq!(written(), 1_500);
    extend(600, 1_400);
    assert_eq!(written(), 1_500, "never shortened");
    extend(1_500, 2_500);
    assert_eq!(written(), 1_500, "it has ended: somebody else may have the member");
}

/// Its guard, started a moment later, found the next offer's files, and ended: no container had the member then.
#[test]
fn an_offer_that_a_container_took_at_the_last_moment_is_not_withdrawn_for_its_age() {
    let folder = tempfile::tempdir().unwrap();
    let dir = NodeDir::new(folder.path()).with_containers(folder.path());
    let spec = make_ready(&dir, "orders-0", None);
    let gate = Gate::new(dir);
    gate.offer(&spec).unwrap();
    assert_eq!(gate.take(&spec.member, "a").unwrap(), Taking::Taken);
    assert!(!gate.withdraw_untaken(&spec.member));
    assert!(gate.is_offered(&spec.member));
    gate.give_back(&spec.member, "a").unwrap();
    assert!(gate.withdraw_untaken(&spec.member));
    assert_eq!(gate.take(&spec.member, "b").unwrap(), Taking::NotOffered);
}

/// Docker starts the same container again, which asks as whoever had the member: it was given it while the lock was the
/// preparation's, before there was anything to start with, and was then forgotten by the offer.
#[test]
fn a_container_that_comes_back_while_its_data_is_prepared_waits_for_the_offer() {
    let folder = tempfile::tempdir().unwrap();
    let dir = NodeDir::new(folder.path()).with_containers(folder.path());
    let spec = make_ready(&dir, "orders-0", None);
    let (gate, member) = (Gate::new(dir.clone()), &spec.member);
    let run = || Lock::try_exclusive(&spec.guard_lock).unwrap().unwrap();
    gate.offer(&spec).unwrap();
    assert_eq!(gate.take(member, "a").unwrap(), Taking::Taken);
    let guard = run();
    gate.withdraw(member);
    // What runs is never closed: it has its container.
    gate.close(member).unwrap();
    assert_eq!(gate.take(member, "a").unwrap(), Taking::Taken);

    drop(guard);
    gate.close(member).unwrap();
    let preparation = run();
    // Nor does the next agent take it for that container's.
    for gate in [&gate, &Gate::new(dir)] {
        assert_eq!(gate.take(member, "a").unwrap(), Taking::Prepares);
    }
    drop(preparation);
    gate.offer(&spec).unwrap();
    assert_eq!(gate.take(member, "a").unwrap(), Taking::Taken);
    let _guard = run();
    assert!(gate.is_mounted(member).unwrap());
}

#[test]
fn a_member_whose_disk_does_not_answer_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let dir = NodeDir::new(folder.path()).with_containers(folder.path());
    let (slow, other): (MemberName, MemberName) = ("slow-0".parse().unwrap(), "orders-0".parse().unwrap());
    let gate = Arc::new(Gate::new(dir));
    // It is read from for as long as nobody has written to it.
    let note = gate.note(&slow);
    fs::create_dir_all(note.parent().unwrap()).unwrap();
    nix::unistd::mkfifo(&note, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let ask = |member: MemberName| {
        let (gate, tell) = (Arc::clone(&gate), tell.clone());
        std::thread::spawn(move || tell.send((member.clone(), gate.is_taken(&member))).unwrap())
    };
    let first = ask(slow.clone());
    // Opens only when somebody reads: whoever asks is at it.
    let mut writer = fs::File::options().write(true).open(&note).unwrap();
    let second = ask(other.clone());
    assert_eq!(told.recv_timeout(std::time::Duration::from_secs(180)).unwrap(), (other, false));
    io::Write::write_all(&mut writer, b"a").unwrap();
    drop(writer);
    assert_eq!(told.recv().unwrap(), (slow, true));
    for asked in [first, second] {
        asked.join().unwrap();
    }
}
