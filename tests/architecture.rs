//! The architecture as tests: which crate may see which, what core is kept free of, how long a file may be, and that
//! every weakness of the ancestor has an answer (the table in `docs/architecture.md`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Who may see whom, beside core, which everybody may see.
const ARROWS: &[(&str, &[&str])] = &[
    ("steadfast-core", &[]),
    ("steadfast-lock", &[]),
    ("steadfast-catalog", &[]),
    ("steadfast-api", &[]),
    ("steadfast-agent", &["steadfast-catalog", "steadfast-lock"]),
    ("steadfast-backend-aws", &[]),
    ("steadfast-backend-embedded", &["steadfast-lock"]),
    ("steadfast-backend-etcd", &[]),
    ("steadfast-backend-linux", &["steadfast-lock"]),
    ("steadfast-backend-remote", &["steadfast-api"]),
    ("steadfast-backend-rfc2136", &[]),
    ("steadfast-orchestrator-process", &["steadfast-lock"]),
    ("steadfast-orchestrator-swarm", &[]),
    (
        "steadfast-backends",
        &[
            "steadfast-backend-aws",
            "steadfast-backend-embedded",
            "steadfast-backend-etcd",
            "steadfast-backend-linux",
            "steadfast-backend-remote",
            "steadfast-backend-rfc2136",
        ],
    ),
    ("steadfast-orchestrators", &["steadfast-orchestrator-process", "steadfast-orchestrator-swarm"]),
    ("steadfast", ALL_BUT_BIN),
    ("steadfast-sim", ALL_BUT_BIN),
    // Tests and benchmarks of the whole. The binary is run by them, not linked.
    ("steadfast-fuzz", ALL_BUT_BIN),
    ("steadfast-workspace", ALL_BUT_BIN),
];

/// What the tests of a crate use beyond that: nobody who depends on the crate gets it.
const ARROWS_OF_TESTS: &[(&str, &[&str])] = &[
    // The agent is tested over real volumes, names and assignments.
    ("steadfast-agent", &["steadfast-backend-embedded", "steadfast-orchestrator-process"]),
    // Names are kept in any store.
    ("steadfast-backend-etcd", &["steadfast-backend-embedded"]),
    // Images of volumes lie in the folders of another provider.
    ("steadfast-backend-linux", &["steadfast-backend-embedded"]),
];

const ALL_BUT_BIN: &[&str] = &[
    "steadfast-agent",
    "steadfast-api",
    "steadfast-backend-aws",
    "steadfast-backend-embedded",
    "steadfast-backend-etcd",
    "steadfast-backend-linux",
    "steadfast-backend-remote",
    "steadfast-backend-rfc2136",
    "steadfast-backends",
    "steadfast-catalog",
    "steadfast-lock",
    "steadfast-orchestrator-process",
    "steadfast-orchestrator-swarm",
    "steadfast-orchestrators",
];

/// What has no place under core: HTTP stacks, SDKs, TLS, databases, and the real network.
const KEPT_OUT_OF_CORE: &[&str] = &[
    "aws-config",
    "axum",
    "bollard",
    "etcd-client",
    "hickory-proto",
    "hickory-server",
    "hyper",
    "hyper-util",
    "k8s-openapi",
    "kube",
    "mio",
    "native-tls",
    "openssl",
    "redb",
    "reqwest",
    "ring",
    "rusqlite",
    "rustls",
    "socket2",
    "tokio-postgres",
    "tokio-rustls",
    "tonic",
    "tower-http",
];

/// Files past 500 lines, and why each is one piece. A file past 1,000 is not allowed for any reason.
const LONG_FILES: &[(&str, &str)] = &[
    ("crates/core/src/controller/execute.rs", "one function per action of a plan, in the order of the plan"),
    (
        "crates/core/tests/crashes.rs",
        "one crash test, written once, and the list of the workflows it is applied to",
    ),
    ("crates/core/tests/ancestor.rs", "one test per weakness of the ancestor, sharing one set of helpers"),
    ("crates/backends/embedded/tests/dns.rs", "one case per rule of the server, sharing one set of helpers"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap()
}

/// Files of the repository with this ending. What git ignores lies in the folders left out here.
fn files(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git" | "demo-data" | "node_modules") {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no {ending} found");
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().into_owned()
}

#[test]
fn every_arrow_between_crates_is_drawn() {
    let metadata = metadata();
    let members: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let tests: BTreeMap<&str, &[&str]> = ARROWS_OF_TESTS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let from = package.name.as_str();
        let Some(may) = allowed.get(from) else {
            wrong.push(format!("{from} is not in the picture: say in ARROWS what it may see"));
            continue;
        };
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            let of_tests = dependency.kind == DependencyKind::Development;
            let also = tests.get(from).is_some_and(|also| of_tests && also.contains(&to));
            let itself = of_tests && to == from;
            if members.contains(to) && to != "steadfast-core" && !may.contains(&to) && !also && !itself {
                wrong.push(format!("{from} → {to} ({}) is not an arrow", dependency.kind));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn core_has_no_network_no_sdk_and_no_tls_below_it() {
    for features in ["", "conformance,schema,testing"] {
        let output = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--locked",
                "--offline",
                "--package",
                "steadfast-core",
                "--edges",
                "normal",
                "--prefix",
                "none",
            ])
            .args(["--format", "{p}", "--features", features])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8(output.stdout).unwrap();
        let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(names.contains("tokio"), "the tree was read: {tree}");
        let found: Vec<_> =
            names.iter().filter(|name| KEPT_OUT_OF_CORE.contains(name) || name.starts_with("aws-")).collect();
        assert!(found.is_empty(), "core pulls in {found:?} with features {features:?}");
    }
}

#[test]
fn the_planner_waits_for_nothing() {
    let folder = root().join("crates/core/src/plan");
    let mut planner =
        vec![root().join("crates/core/src/plan.rs"), root().join("crates/core/src/workflow/claim/decide.rs")];
    planner.extend(fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()));
    assert!(planner.len() > 5);
    for path in planner {
        let text = fs::read_to_string(&path).unwrap();
        for word in ["async ", ".await", "clock()", "entropy()", "std::time::Instant", "SystemTime"] {
            assert!(
                !text.contains(word),
                "{} is to decide on values only, and has {word:?}",
                relative(&path)
            );
        }
    }
}

#[test]
fn long_files_have_a_reason_and_none_is_very_long() {
    let mut reasons: BTreeMap<&str, &str> = LONG_FILES.iter().copied().collect();
    let mut wrong = Vec::new();
    for path in files(".rs") {
        let name = relative(&path);
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        let reason = reasons.remove(name.as_str());
        match (lines, reason) {
            (1001.., _) => wrong.push(format!("{name} has {lines} lines: part it")),
            (501.., None) => {
                wrong.push(format!("{name} has {lines} lines: part it, or give a reason in LONG_FILES"))
            }
            (..=500, Some(_)) => {
                wrong.push(format!("{name} has {lines} lines: its reason is not needed any more"))
            }
            _ => {}
        }
    }
    wrong.extend(
        reasons.keys().map(|name| format!("{name} does not exist: its reason is not needed any more")),
    );
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_for_later_and_no_test_is_switched_off() {
    // Written so that this file does not find itself.
    let banned = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[", "ignore")];
    for path in files(".rs") {
        let text = fs::read_to_string(&path).unwrap();
        for word in banned {
            assert!(!text.contains(word), "{} has {word}", relative(&path));
        }
    }
}

#[test]
fn every_crate_says_what_it_is_and_keeps_the_lints() {
    for package in metadata().packages {
        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{} keeps lints of its own", package.name);
        assert_eq!(package.license.as_deref(), Some("Apache-2.0 OR MIT"), "{}", package.name);
        if package.name.as_str() != "steadfast-workspace" {
            assert!(package.description.is_some(), "{} does not say what it is", package.name);
        }
    }
}

/// The names of every test function in the tree, `mod` and macro tests included by their function names.
fn functions() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files(".rs") {
        for line in fs::read_to_string(&path).unwrap().lines() {
            let Some((_, rest)) = line.split_once("fn ") else { continue };
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            found.insert(name);
        }
    }
    found
}

/// The rows of the table of weaknesses in `docs/architecture.md`: id, and the answer.
fn answers() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("| W-"))
        .map(|row| {
            let cells: Vec<&str> = row.trim_end_matches('|').split('|').map(str::trim).collect();
            let [id, _weakness, answer] = cells[..] else {
                panic!("a row of the table has three cells: | W-{row}")
            };
            (format!("W-{id}"), answer.to_owned())
        })
        .collect()
}

/// The names in backquotes that look like tests.
fn tests_named_in(answer: &str) -> Vec<&str> {
    answer.split('`').skip(1).step_by(2).filter_map(|name| name.strip_prefix("test:")).collect()
}

#[test]
fn every_weakness_of_the_ancestor_has_a_test_or_a_reason() {
    let functions = functions();
    let answers = answers();
    let mut wrong = Vec::new();
    for number in 1..=29 {
        let id = format!("W-{number:02}");
        let Some(answer) = answers.get(&id) else {
            wrong.push(format!("{id} has no row in docs/architecture.md"));
            continue;
        };
        let tests = tests_named_in(answer);
        if tests.is_empty() && !answer.starts_with("Cannot arise: ") {
            wrong.push(format!("{id} names neither a test (`test:NAME`) nor why it cannot arise"));
        }
        for test in tests {
            if !functions.contains(test) {
                wrong.push(format!("{id} names the test {test}, which does not exist"));
            }
        }
    }
    // The other way round: what calls itself an answer is in the table.
    for function in functions.iter().filter(|name| is_named_after_a_weakness(name)) {
        let id = format!("W-{}", &function[1..3]);
        if !answers.get(&id).is_some_and(|answer| answer.contains(function.as_str())) {
            wrong.push(format!("the test {function} is not in the row of {id}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn is_named_after_a_weakness(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() > 4
        && bytes[0] == b'w'
        && bytes[1].is_ascii_digit()
        && bytes[2].is_ascii_digit()
        && bytes[3] == b'_'
}

#[test]
fn what_the_documentation_links_to_is_there() {
    let mut wrong = Vec::new();
    for path in files(".md") {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !path.parent().unwrap().join(target).exists() {
                wrong.push(format!("{} links to {target}, which is not there", relative(&path)));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
