//! The guard, with real processes, real locks and real kills.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use common::{Bench, number_in, runs, signal};
use nix::sys::signal::Signal;
use steadfast_agent::guard::{Ending, GuardSpec, GuardStage, GuardedVolume};
use steadfast_agent::guards::{GuardProgram, GuardState, Guards};
use steadfast_core::ids::Epoch;
use steadfast_core::model::Reason;
use steadfast_core::runtime::Clock as _;
use steadfast_lock::{Lock, holders, is_held};

fn boot_ms() -> u64 {
    let clock = steadfast_core::runtime::SystemClock::new();
    u64::try_from(clock.monotonic().since_zero().as_millis()).expect("this machine has not run that long")
}

#[tokio::test]
async fn an_engine_runs_under_its_locks_and_its_output_is_kept() {
    let bench = Bench::new();
    let spec = bench.spec(3, &["/bin/sh", "-c", "echo to out; echo to err >&2; exec sleep 600"]);
    bench.start(&spec).await;
    let status = bench.running().await;
    assert_eq!((status.stage, status.epoch), (GuardStage::Running, Epoch(3)));
    let engine = status.engine_pid.unwrap();
    bench.until("the shell has become sleep", || bench.log().contains("to err")).await;
    assert!(holders(&bench.volume_lock()).unwrap().contains(&engine));
    assert!(holders(&bench.dir.machine_lock()).unwrap().contains(&engine));
    assert_eq!(fs::read_to_string(bench.volume().join("epoch")).unwrap(), "3\n");
    let log = bench.log();
    assert!(log.contains("orders-0 on node-1, epoch 3") && log.contains("to out"), "{log}");
    let group = nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(engine))).unwrap();
    assert_eq!(group.as_raw(), engine, "the engine has a process group of its own");

    bench.guards.stop(&bench.member).await.unwrap();
    let exit = bench.ended().await;
    assert_eq!(exit.ending, Ending::Signalled(Signal::SIGTERM as i32));
    assert!(exit.requested);
    bench.until("the locks are free", || !is_held(&bench.volume_lock()).unwrap()).await;
    assert!(!runs(engine));
}

/// A container may come up long after it was asked for, when its member has been given back and runs elsewhere.
#[tokio::test]
async fn a_guard_that_comes_late_begins_nothing_with_what_was_withdrawn() {
    let bench = Bench::new();
    bench.guards.withdraw(&bench.member).await.unwrap();
    let spec = bench.spec(3, &["/bin/sleep", "600"]);
    bench.start(&spec).await;
    bench.running().await;
    let refused = bench.guards.withdraw(&bench.member).await.unwrap_err();
    assert_eq!(refused.kind(), steadfast_core::ErrorKind::Busy);
    bench.guards.kill(&bench.member).await.unwrap();

    bench.guards.withdraw(&bench.member).await.unwrap();
    let late = std::process::Command::new(env!("CARGO_BIN_EXE_guard-under-test"))
        .args(["guard", "--spec"])
        .arg(bench.dir.spec(&bench.member))
        .output()
        .unwrap();
    assert!(!late.status.success(), "{late:?}");
    assert!(String::from_utf8_lossy(&late.stderr).contains("withdrawn"), "{late:?}");
    assert!(!is_held(&bench.volume_lock()).unwrap());

    // Made ready anew, it begins.
    bench.start(&bench.spec(4, &["/bin/sleep", "600"])).await;
    assert_eq!(bench.running().await.epoch, Epoch(4));
}

#[test]
fn a_guard_beside_a_program_is_used_if_it_is_of_its_build_and_its_owners() {
    let folder = tempfile::tempdir().unwrap();
    let (program, alone) = (folder.path().join("steadfast"), folder.path().join("steadfast-guard"));
    let built = env!("CARGO_BIN_EXE_guard-under-test");
    let mode = |mode| fs::set_permissions(&alone, fs::Permissions::from_mode(mode)).unwrap();
    fs::copy(built, &program).unwrap();
    assert!(GuardProgram::beside(&program).unwrap().is_none(), "there is none");

    fs::copy(built, &alone).unwrap();
    assert!(GuardProgram::beside(&program).unwrap().is_some());
    mode(0o775);
    let refused = GuardProgram::beside(&program).unwrap_err().to_string();
    assert!(refused.contains("steadfast-guard: others than the owner"), "{refused}");

    fs::write(&alone, "#!/bin/sh\necho steadfast-guard 0.0.1 form 1\n").unwrap();
    mode(0o755);
    let refused = GuardProgram::beside(&program).unwrap_err().to_string();
    assert!(refused.contains("it is of build") && refused.contains("form 2"), "{refused}");
    fs::write(&alone, "no program").unwrap();
    GuardProgram::beside(&program).unwrap_err();
}

#[tokio::test]
async fn an_engine_that_ends_by_itself_takes_its_tree_along_before_the_lock_is_freed() {
    let bench = Bench::new();
    // The child ignores everything, has a session of its own, and outlives its parent.
    let script = "setsid sh -c 'trap \"\" TERM HUP INT; echo $$ > busy.pid; while :; do sleep 1; done' & \
                  while [ ! -s busy.pid ]; do sleep 0.01; done; exit 7";
    let mut spec = bench.spec(1, &["/bin/sh", "-c", script]);
    spec.command.cwd = Some(bench.volume());
    bench.start(&spec).await;
    let exit = bench.ended().await;
    assert_eq!(exit.ending, Ending::Exited(7));
    assert!(!exit.requested);
    let busy = number_in(&bench.volume().join("busy.pid")).unwrap();
    assert!(!runs(busy), "the busy child was killed before the guard said that it had ended");
    assert!(holders(&bench.volume_lock()).unwrap().iter().all(|pid| *pid != busy));
}

#[tokio::test]
async fn a_busy_child_that_outlives_guard_and_engine_keeps_the_lock_until_it_is_killed() {
    let bench = Bench::new();
    let script = "setsid sh -c 'echo $$ > busy.pid; while :; do sleep 1; done' & exec sleep 600";
    let mut spec = bench.spec(1, &["/bin/sh", "-c", script]);
    spec.command.cwd = Some(bench.volume());
    bench.start(&spec).await;
    let status = bench.running().await;
    let pid_file = bench.volume().join("busy.pid");
    bench.until("the child is busy", || number_in(&pid_file).is_some()).await;
    let busy = number_in(&pid_file).unwrap();

    signal(i32::try_from(status.guard_pid).unwrap(), Signal::SIGKILL);
    bench.until("the engine dies with its guard", || !runs(status.engine_pid.unwrap())).await;
    assert!(runs(busy));
    assert!(Lock::try_exclusive(&bench.volume_lock()).unwrap().is_none(), "the volume is still in use");
    assert_eq!(bench.guards.find(&bench.member).await.unwrap(), GuardState::Orphans);
    let refused = bench.guards.start(&bench.spec(1, &["/bin/sleep", "600"])).await.unwrap_err();
    assert_eq!(refused.kind(), steadfast_core::ErrorKind::Busy);

    bench.guards.kill(&bench.member).await.unwrap();
    assert!(!runs(busy));
    let again = bench.spec(1, &["/bin/sleep", "600"]);
    bench.start(&again).await;
    assert_eq!(bench.running().await.incarnation, again.incarnation);
}

#[tokio::test]
async fn a_killed_guard_takes_redis_along_and_it_can_be_started_again() {
    let bench = Bench::new();
    let folder = bench.volume();
    let socket = folder.join("redis.sock");
    let argv = [
        "/usr/bin/redis-server",
        "--port",
        "0",
        "--unixsocket",
        socket.to_str().unwrap(),
        "--dir",
        folder.to_str().unwrap(),
    ];
    for _ in 0..2 {
        bench.start(&bench.spec(1, &argv)).await;
        let status = bench.running().await;
        bench.until("redis answers", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
        signal(i32::try_from(status.guard_pid).unwrap(), Signal::SIGKILL);
        bench.until("redis is gone", || !is_held(&bench.volume_lock()).unwrap()).await;
        assert!(!runs(status.engine_pid.unwrap()));
    }
}

#[tokio::test]
async fn an_engine_that_does_not_stop_in_order_is_killed() {
    let bench = Bench::new();
    let script = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let mut spec = bench.spec(1, &["/bin/sh", "-c", script]);
    spec.stop_grace_ms = 100;
    bench.start(&spec).await;
    bench.until("the trap is set", || bench.log().contains("ready")).await;
    bench.guards.stop(&bench.member).await.unwrap();
    let exit = bench.ended().await;
    assert_eq!(exit.ending, Ending::Signalled(Signal::SIGKILL as i32));
    assert!(exit.requested);
}

#[tokio::test]
async fn a_volume_that_has_seen_a_higher_epoch_is_refused() {
    let bench = Bench::new();
    fs::write(bench.volume().join("epoch"), "9\n").unwrap();
    bench.start(&bench.spec(8, &["/bin/sh", "-c", "echo started > started"])).await;
    assert_eq!(bench.ended().await.ending, Ending::EpochStale { found: Epoch(9) });
    assert_eq!(fs::read_to_string(bench.volume().join("epoch")).unwrap(), "9\n");
    assert!(!bench.log().contains("incarnation"), "nothing was started: {}", bench.log());
}

#[tokio::test]
async fn a_volume_in_use_is_waited_for_and_its_holders_are_named() {
    let bench = Bench::new();
    let lock = Lock::try_exclusive(&bench.volume_lock()).unwrap().unwrap();
    bench.start(&bench.spec(1, &["/bin/sleep", "600"])).await;
    match bench.ended().await.ending {
        Ending::VolumeBusy { lock, holders } => {
            assert_eq!(lock, bench.volume_lock());
            assert_eq!(holders, [i32::try_from(std::process::id()).unwrap()]);
        }
        other => panic!("{other:?}"),
    }
    let mut patient = bench.spec(1, &["/bin/sleep", "600"]);
    patient.lock_wait_ms = 60_000;
    bench.start(&patient).await;
    match bench.guards.find(&bench.member).await.unwrap() {
        GuardState::Alive(status) => assert_eq!(status.stage, GuardStage::Locking),
        other => panic!("{other:?}"),
    }
    drop(lock);
    bench.running().await;
}

/// A container in an overlay of Docker, for example.
#[tokio::test]
async fn an_engine_is_not_started_in_another_network_than_that_of_its_address() {
    let bench = Bench::new();
    let own = fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap().to_owned();
    let argv = ["/bin/sleep", "600"];
    bench.start(&GuardSpec { network: Some("net:[1]".to_owned()), ..bench.spec(1, &argv) }).await;
    match bench.ended().await.ending {
        Ending::NotStarted { reason: Reason::ConfigInvalid, message } => {
            assert!(message.contains("--network host"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    bench.start(&GuardSpec { network: Some(own), ..bench.spec(1, &argv) }).await;
    bench.running().await;
}

#[tokio::test]
async fn a_missing_program_or_volume_is_said_in_words() {
    let bench = Bench::new();
    bench.start(&bench.spec(1, &["/no/such/engine"])).await;
    match bench.ended().await.ending {
        Ending::NotStarted { reason: Reason::EngineMissing, message } => {
            assert!(message.contains("/no/such/engine"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    let not_runnable = bench.volume().join("script");
    fs::write(&not_runnable, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&not_runnable, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bench.start(&bench.spec(1, &[not_runnable.to_str().unwrap()])).await;
    match bench.ended().await.ending {
        Ending::NotStarted { reason: Reason::EngineMissing, message } => {
            assert!(message.contains("cannot run") && message.contains("script"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    let mut spec = bench.spec(1, &["/bin/sleep", "600"]);
    let gone = bench.folder.path().join("gone");
    spec.volumes = vec![GuardedVolume { lock: gone.join("lock"), epoch: gone.join("epoch") }];
    bench.start(&spec).await;
    assert!(matches!(bench.ended().await.ending, Ending::NotStarted { reason: Reason::IoError, .. }));
}

#[tokio::test]
async fn without_a_word_the_engine_is_killed_at_the_end_of_its_lease() {
    let bench = Bench::new();
    let mut spec = bench.spec(1, &["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"]);
    let end = boot_ms() + 700;
    spec.lease_until_ms = Some(end);
    bench.start(&spec).await;
    let engine = bench.running().await.engine_pid.unwrap();
    bench.until("the engine is gone", || !runs(engine)).await;
    assert!(boot_ms() >= end, "not before its time");
    assert_eq!(bench.ended().await.ending, Ending::SelfFenced);
}

#[tokio::test]
async fn a_lease_is_extended_but_never_by_a_deadline_that_has_passed() {
    let bench = Bench::new();
    let mut spec = bench.spec(1, &["/bin/sleep", "600"]);
    spec.lease_until_ms = Some(boot_ms() + 60_000);
    bench.start(&spec).await;
    bench.running().await;
    let clock = bench.env.clock();
    let later = clock.monotonic().plus(Duration::from_secs(600));
    bench.guards.extend_lease(&bench.member, later).await.unwrap();
    let passed = steadfast_core::runtime::Moment::default();
    bench.guards.extend_lease(&bench.member, passed).await.unwrap();
    let left = bench.running().await.lease_left_ms.unwrap();
    assert!(left > 500_000, "{left}");
}

#[tokio::test]
async fn a_guard_stopped_past_its_lease_kills_at_once_when_it_goes_on() {
    let bench = Bench::new();
    let mut spec = bench.spec(1, &["/bin/sleep", "600"]);
    let end = boot_ms() + 1_000;
    spec.lease_until_ms = Some(end);
    bench.start(&spec).await;
    let status = bench.running().await;
    let guard = i32::try_from(status.guard_pid).unwrap();
    signal(guard, Signal::SIGSTOP);
    // Sent in time, but read too late: it must not extend what has ended.
    let clock = bench.env.clock();
    let later = clock.monotonic().plus(Duration::from_secs(600));
    assert!(bench.guards.extend_lease(&bench.member, later).await.is_err(), "a stopped guard cannot answer");
    bench.until("the lease has ended", || boot_ms() > end + 200).await;
    assert!(runs(status.engine_pid.unwrap()), "F1 assumes bounded pauses: this is the documented limit");
    assert_eq!(bench.guards.find(&bench.member).await.unwrap(), GuardState::Silent);
    signal(guard, Signal::SIGCONT);
    assert_eq!(bench.ended().await.ending, Ending::SelfFenced);
    assert!(!runs(status.engine_pid.unwrap()));
}

#[tokio::test]
async fn a_silent_guard_can_be_killed_with_its_tree() {
    let bench = Bench::new();
    bench.start(&bench.spec(1, &["/bin/sleep", "600"])).await;
    let status = bench.running().await;
    signal(i32::try_from(status.guard_pid).unwrap(), Signal::SIGSTOP);
    bench.guards.kill(&bench.member).await.unwrap();
    assert!(!is_held(&bench.volume_lock()).unwrap());
    assert!(!runs(status.engine_pid.unwrap()));
}

#[tokio::test]
async fn a_guard_outlives_whoever_started_it_and_is_found_again() {
    let bench = Bench::new();
    bench.start(&bench.spec(1, &["/bin/sleep", "600"])).await;
    let before = bench.running().await;
    let session =
        nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(i32::try_from(before.guard_pid).unwrap())))
            .unwrap();
    assert_eq!(session.as_raw(), i32::try_from(before.guard_pid).unwrap(), "a session of its own");
    let next =
        steadfast_agent::guards::ProcessGuards::new(bench.env.clone(), bench.dir.clone(), common::program());
    assert_eq!(next.list().await.unwrap(), [(bench.member.clone(), "orders".parse().unwrap())]);
    match next.find(&bench.member).await.unwrap() {
        GuardState::Alive(status) => assert_eq!(status.engine_pid, before.engine_pid),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_pid_file_with_a_reused_pid_harms_nobody() {
    let bench = Bench::new();
    let mut bystander = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    // What an engine leaves behind when it is killed: a number that is somebody else's by now.
    fs::write(bench.volume().join("engine.pid"), bystander.id().to_string()).unwrap();
    bench.start(&bench.spec(1, &["/bin/sleep", "600"])).await;
    bench.running().await;
    bench.guards.kill(&bench.member).await.unwrap();
    let spared = bystander.try_wait().unwrap().is_none();
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert!(spared);
}

#[tokio::test]
async fn a_guard_is_small() {
    let bench = Bench::new();
    bench.start(&bench.spec(1, &["/bin/sleep", "600"])).await;
    let status = bench.running().await;
    let memory = fs::read_to_string(format!("/proc/{}/status", status.guard_pid)).unwrap();
    let kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap();
    println!("a guard takes {kib} KiB");
    assert!(kib <= 3 * 1024 * 2, "{kib} KiB in an unoptimised build, of 3 MiB in an optimised one");
}
