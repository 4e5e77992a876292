//! The example of docs/blueprints.md: a new engine without a line of Rust.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::path::Path;

use steadfast_catalog::{Catalog, Definition, lint};
use steadfast_core::control::Blueprints;
use steadfast_core::engine::WantedRole;
use steadfast_core::model::Durability;
use support::World;

/// The example, with changes, in a folder of its own.
fn example(changes: &[(&str, &str)]) -> tempfile::TempDir {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/blueprints.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once("```toml\n").unwrap();
    let mut example = rest.split_once("```").unwrap().0.to_owned();
    for (from, to) in changes {
        assert!(example.contains(from), "{from}");
        example = example.replace(from, to);
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("blueprint.toml"), example).unwrap();
    folder
}

async fn serves(folder: &Path) {
    let definition = Definition::from_folder(folder).unwrap();
    // As an agent gets it: by way of the store.
    let stored = serde_json::from_str(&definition.stored().to_string()).unwrap();
    let definition = Definition::from_stored(&stored).unwrap();
    let world = World::of(definition, 2, Durability::Strict);
    let mut member = world.member(1);
    member.engine.join(None).await.unwrap();
    member.start(&WantedRole::Fenced).await;
    member.until("it serves", |view| view.ready).await;
    member.kill().await;
    assert!(!member.engine.observe().await.ready);
}

#[tokio::test]
async fn the_example_of_the_reference_runs() {
    let folder = example(&[]);
    assert_eq!(lint(folder.path()), []);
    let mut catalog = Catalog::embedded();
    catalog.add_folder(folder.path()).unwrap();
    assert!(catalog.list().iter().any(|(name, _)| name == "cache@7"));
    serves(folder.path()).await;
}

#[tokio::test]
async fn a_command_can_be_the_probe() {
    let probe = "kind = \"command\"\nargv = [\"{{ bin['redis-cli'] }}\", \"-e\", \"-h\", \"{{ member.address }}\", \"PING\"]";
    let folder = example(&[
        ("kind = \"tcp\"\nport = \"cache\"", probe),
        // The client would need the password, which no argument may hold.
        ("requirepass {{ secrets.password | redis }}", "protected-mode no"),
    ]);
    serves(folder.path()).await;
}

#[test]
fn a_blueprint_with_findings_is_not_taken() {
    let folder = example(&[("default = \"64MiB\"", "default = \"64KiB\"")]);
    let mut catalog = Catalog::embedded();
    let findings = catalog.add_folder(folder.path()).unwrap_err();
    assert!(findings[0].file.starts_with(folder.path()), "{findings:?}");
    assert!(findings[0].to_string().contains("options.memory.default"), "{findings:?}");
    assert!(catalog.get("cache").is_none());
}
