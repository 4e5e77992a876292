//! The units in `packaging/systemd`, as systemd reads them.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const UNITS: [&str; 2] = ["steadfast-server.service", "steadfast-agent.service"];

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd")
}

fn unit(name: &str) -> String {
    fs::read_to_string(units().join(name)).unwrap()
}

/// The values of a key, in order.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

#[expect(clippy::print_stdout, reason = "what is left out is said where a test says things")]
fn has_systemd(test: &str) -> bool {
    let found = Path::new("/usr/bin/systemd-analyze").exists();
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{test} needs systemd-analyze");
        println!("left out: {test}: systemd is not installed");
    }
    found
}

/// Has systemd check the units on a machine that has them and the program, after a change of one of them.
fn verify(change: impl Fn(&str, String) -> String) -> Output {
    let root = tempfile::tempdir().unwrap();
    let folder = |path: &str| {
        let folder = root.path().join(path);
        fs::create_dir_all(&folder).unwrap();
        folder
    };
    let program = folder("usr/local/bin").join("steadfast");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let own = folder("etc/systemd/system");
    for name in UNITS {
        fs::write(own.join(name), change(name, unit(name))).unwrap();
    }
    let theirs = folder("usr/lib/systemd/system");
    for entry in fs::read_dir("/usr/lib/systemd/system").unwrap().flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), theirs.join(entry.file_name())).unwrap();
        }
    }
    symlink("usr/lib", root.path().join("lib")).unwrap();
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no", "--recursive-errors=no", "--root"]).arg(root.path()).args(UNITS);
    command.output().unwrap()
}

#[test]
fn systemd_takes_the_units_as_they_are() {
    if !has_systemd("systemd_takes_the_units_as_they_are") {
        return;
    }
    let output = verify(|_, text| text);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    // It would have said if it did not.
    let output = verify(|_, text| text.replace("Restart=", "Restrat="));
    assert!(!output.stderr.is_empty(), "{output:?}");
}

#[test]
fn the_units_start_the_program_as_it_wants_to_be_started() {
    let told = |name: &str, variables: &[(&str, &str)]| {
        let text = unit(name);
        let [line] = values(&text, "ExecStart")[..] else { panic!("{text}") };
        let mut words = line.split(' ');
        assert_eq!(words.next(), Some("/usr/local/bin/steadfast"));
        let words = words.flat_map(|word| match variables.iter().find(|(name, _)| word.contains(name)) {
            // `$NAME` is as many words as are in it, `${NAME}` is one.
            Some((_, value)) => value.split_whitespace().map(str::to_owned).collect(),
            None => vec![word.to_owned()],
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_steadfast"));
        command.args(words).arg("--help");
        command.output().unwrap()
    };
    let server = told(UNITS[0], &[("ID", "server-a"), ("OPTIONS", "--store etcd://127.0.0.1:2379/lab")]);
    assert!(server.status.success(), "{server:?}");
    let agent = told(UNITS[1], &[("NODE", "a"), ("ZONE", "a"), ("OPTIONS", "--volume-plugin")]);
    assert!(agent.status.success(), "{agent:?}");
    let wrong = told(UNITS[1], &[("NODE", "a"), ("ZONE", "a"), ("OPTIONS", "--volume-plug")]);
    assert!(!wrong.status.success(), "what it does not know it refuses: {wrong:?}");
}

#[test]
fn engines_outlive_their_agent_and_find_their_mounts_again() {
    for name in UNITS {
        let text = unit(name);
        assert_eq!(values(&text, "Restart"), ["always"], "{name}");
        assert_eq!(values(&text, "StartLimitIntervalSec"), ["0"], "{name} is never given up");
    }
    let agent = unit(UNITS[1]);
    assert_eq!(values(&agent, "KillMode"), ["process"]);
    assert_eq!(values(&agent, "OOMPolicy"), ["continue"]);
    // Each of these gives the agent a mount namespace of its own: the next agent would not see what this one mounted.
    let own_mounts = [
        "PrivateTmp",
        "PrivateDevices",
        "PrivateMounts",
        "PrivateUsers",
        "ProtectSystem",
        "ProtectHome",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "InaccessiblePaths",
        "TemporaryFileSystem",
        "BindPaths",
        "ProtectKernelTunables",
        "DynamicUser",
        "ProtectKernelModules",
        "ProtectControlGroups",
        "MountFlags",
        "RootDirectory",
        "RuntimeDirectory",
    ];
    for key in own_mounts {
        assert_eq!(values(&agent, key), Vec::<&str>::new(), "{key}");
    }
}
