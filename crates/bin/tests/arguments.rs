//! What the program answers without any cluster: usage, data folders, output shapes, exit codes.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::{err, expect, out, run};

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("sf").tempdir().unwrap()
}

#[test]
fn wrong_usage_exits_64_and_says_what_is_wrong() {
    let folder = folder();
    for (arguments, said) in [
        (&["bogus"][..], "unrecognized subcommand"),
        (&[], "Usage"),
        (&["get", "Orders!"], "service name \"Orders!\" is not valid"),
        (&["why", "orders"], "SERVICE-ORDINAL"),
        (&["up", "--nodes", "0"], "0 is not in 1..=64"),
        (&["up", "--dns", "10.0.0.1:53"], "not a loopback address"),
        (&["list", "-o", "xml"], "possible values"),
        (&["create", "a", "--blueprint", "redis", "--volume", "data"], "NAME=SIZE"),
        (&["create", "a", "--blueprint", "redis", "--promote-after", "30"], "as in 30s"),
        (&["exec"], "required"),
        (&["serve", "--listen", "0.0.0.0:7070"], "needs TLS and tokens"),
        (&["serve", "--listen", "localhost"], "neither ADDRESS:PORT"),
        (&["serve", "--tls-cert", "x"], "--tls-key"),
        (&["restart", "a", "--timeout", "5s"], "--wait"),
    ] {
        let output = run(folder.path(), arguments);
        expect(&output, 64);
        assert!(err(&output).contains(said), "{arguments:?}: {}", err(&output));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a refused command leaves nothing behind");
}

#[test]
fn help_and_version_are_results() {
    let folder = folder();
    for arguments in [&["--help"][..], &["--version"], &["help", "create"], &["version"]] {
        let output = run(folder.path(), arguments);
        expect(&output, 0);
        assert!(err(&output).is_empty());
    }
}

#[test]
fn a_result_that_could_not_be_written_is_a_failure() {
    let folder = folder();
    for arguments in [&["--help"][..], &["--version"], &["version"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = common::steadfast(folder.path()).args(arguments).stdout(full).output().unwrap();
        expect(&output, 1);
        assert!(err(&output).contains("write to standard output"), "{arguments:?}: {}", err(&output));
    }
}

#[test]
fn the_version_has_every_shape() {
    let folder = folder();
    let json: serde_json::Value =
        serde_json::from_str(&out(&run(folder.path(), &["version", "-o", "json"]))).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert!(out(&run(folder.path(), &["version", "-o", "yaml"])).contains("data_format: 1"));
    assert_eq!(out(&run(folder.path(), &["version"])), format!("steadfast {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_catalog_is_there_without_a_cluster() {
    let folder = folder();
    let names = out(&run(folder.path(), &["catalog", "list", "-o", "name"]));
    assert!(names.lines().any(|name| name.starts_with("redis@")), "{names}");
    let shown = run(folder.path(), &["catalog", "show", "redis"]);
    expect(&shown, 0);
    assert!(out(&shown).contains("leadership"));
    expect(&run(folder.path(), &["catalog", "show", "nothing"]), 5);
    expect(&run(folder.path(), &["catalog", "lint", "/nowhere/blueprint.toml"]), 5);
    fs::write(folder.path().join("blueprint.toml"), "name = \"x\"\nversions = 7\n").unwrap();
    let linted =
        run(folder.path(), &["catalog", "lint", folder.path().join("blueprint.toml").to_str().unwrap()]);
    expect(&linted, 1);
    assert!(out(&linted).contains("blueprint.toml:"), "{}", out(&linted));
}

#[test]
fn completions_know_the_verbs() {
    let folder = folder();
    for shell in ["bash", "zsh", "fish"] {
        let output = run(folder.path(), &["completions", shell]);
        expect(&output, 0);
        assert!(out(&output).contains("confirm-dead"), "{shell}");
    }
}

#[test]
fn a_folder_without_a_cluster_is_not_found() {
    let folder = folder();
    for arguments in [&["list"][..], &["node", "kill", "node-1"], &["dns", "install", "--print"], &["down"]] {
        let output = run(folder.path(), arguments);
        expect(&output, 5);
        assert!(err(&output).contains("is not the data folder of a cluster"), "{}", err(&output));
        assert!(err(&output).contains("--data"), "{}", err(&output));
    }
}

#[test]
fn a_server_that_is_not_there_is_an_error_with_a_remedy() {
    let folder = folder();
    let output = run(folder.path(), &["list", "--server", "http://127.0.0.1:9"]);
    expect(&output, 1);
    assert!(err(&output).contains("does not answer"), "{}", err(&output));
    assert!(err(&output).contains("steadfast up"), "{}", err(&output));
    expect(&run(folder.path(), &["list", "--server", "ftp://x"]), 64);
}

#[test]
fn data_folders_that_would_fail_later_are_refused_with_a_remedy() {
    let folder = folder();
    let up = |data: &std::path::Path| run(data, &["up", "--nodes", "1"]);

    let long = folder.path().join("x".repeat(90));
    let output = up(&long);
    expect(&output, 1);
    assert!(err(&output).contains("bytes long") && err(&output).contains("--data"), "{}", err(&output));
    assert!(!long.exists());

    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let output = up(&file);
    expect(&output, 1);
    assert!(err(&output).contains("in the way"), "{}", err(&output));

    let newer = folder.path().join("newer");
    fs::create_dir(&newer).unwrap();
    fs::write(newer.join("cluster.json"), "{\"format\": 99}").unwrap();
    let output = up(&newer);
    expect(&output, 1);
    assert!(err(&output).contains("[VersionTooNew]"), "{}", err(&output));

    let garbage = folder.path().join("garbage");
    fs::create_dir(&garbage).unwrap();
    fs::write(garbage.join("cluster.json"), "{").unwrap();
    let output = up(&garbage);
    expect(&output, 1);
    assert!(err(&output).contains("cluster.json"), "{}", err(&output));
}

#[test]
fn a_folder_that_is_not_ours_is_refused() {
    if nix::unistd::geteuid().is_root() {
        // Root may write everywhere: then the kernel's own read-only file system stands in.
        let output = run(std::path::Path::new("/proc/steadfast"), &["up", "--nodes", "1"]);
        expect(&output, 1);
        assert!(err(&output).contains("cannot be written"), "{}", err(&output));
        return;
    }
    let folder = folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let output = run(&folder.path().join("data"), &["up", "--nodes", "1"]);
    expect(&output, 1);
    assert!(err(&output).contains("[PermissionDenied]"), "{}", err(&output));
}

#[test]
fn service_files_that_do_not_parse_are_named_with_their_line() {
    let folder = folder();
    let file = folder.path().join("orders.toml");
    fs::write(&file, "name = \"orders\"\nreplicas = = 3\n").unwrap();
    let output =
        run(folder.path(), &["plan", "-f", file.to_str().unwrap(), "--server", "http://127.0.0.1:9"]);
    expect(&output, 1);
    assert!(err(&output).contains("orders.toml") && err(&output).contains("line 2"), "{}", err(&output));
    expect(&run(folder.path(), &["plan", "-f", "/nowhere.toml", "--server", "http://127.0.0.1:9"]), 5);
}

#[test]
fn a_service_file_that_is_too_long_is_refused_whole() {
    let folder = folder();
    let file = folder.path().join("orders.toml");
    // Well-formed up to the limit: what is cut off there would not be missed.
    let head = "apiVersion = \"steadfast/v1\"\nname = \"orders\"\nblueprint = \"redis\"\n#";
    let file_of = |bytes: usize| format!("{head}{}", "-".repeat(bytes - head.len()));
    let arguments = |file| ["plan", "-f", file, "--server", "http://127.0.0.1:9"].map(str::to_owned);
    for (bytes, refused) in [(1 << 20, false), ((1 << 20) + 1, true)] {
        fs::write(&file, file_of(bytes)).unwrap();
        let of_file = arguments(file.to_str().unwrap());
        let output = run(folder.path(), &of_file.each_ref().map(String::as_str));
        expect(&output, 1);
        let told = err(&output);
        assert_eq!(told.contains("orders.toml is longer than 1MiB [ConfigInvalid]"), refused, "{told}");
    }
}

#[test]
fn flags_print_the_service_file_they_stand_for() {
    let folder = folder();
    let output = run(
        folder.path(),
        &[
            "create",
            "cache",
            "--blueprint",
            "redis",
            "--replicas",
            "3",
            "--set",
            "maxclients=100",
            "--dry-run",
        ],
    );
    expect(&output, 0);
    let file: toml::Value = out(&output).parse::<toml::Table>().unwrap().into();
    assert_eq!(file["replicas"].as_integer(), Some(3));
    assert_eq!(file["options"]["maxclients"].as_integer(), Some(100));
}
