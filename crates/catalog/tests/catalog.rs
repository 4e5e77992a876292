//! The embedded blueprints, and what resolving and linting say.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::json;
use steadfast_catalog::{Catalog, Definition, lint};
use steadfast_core::control::Blueprints;
use steadfast_core::model::ServiceSpec;

fn spec(changes: serde_json::Value) -> ServiceSpec {
    let mut input = json!({"apiVersion": "steadfast/v1", "name": "orders", "blueprint": "redis"});
    for (key, value) in changes.as_object().unwrap() {
        input[key] = value.clone();
    }
    // Not from_input: the catalog must hold by itself, whoever checked the spec before.
    serde_json::from_value(input).unwrap()
}

#[test]
fn every_embedded_blueprint_is_without_findings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("blueprints");
    let mut count = 0;
    for folder in fs::read_dir(root).unwrap() {
        let folder = folder.unwrap().path();
        let findings = lint(&folder);
        assert!(
            findings.is_empty(),
            "{}",
            findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        );
        let definition = Definition::from_folder(&folder).unwrap();
        assert_eq!(definition.name(), folder.file_name().unwrap().to_string_lossy());
        count += 1;
    }
    assert_eq!(count, Catalog::embedded().definitions().count());
}

/// The embedded Redis with its configuration changed.
fn redis_with(change: impl FnOnce(&mut String)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("blueprints/redis");
    for file in fs::read_dir(root).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let config = folder.path().join("redis.conf.j2");
    let mut text = fs::read_to_string(&config).unwrap();
    change(&mut text);
    fs::write(&config, text).unwrap();
    folder
}

/// What the lint says of the embedded blueprint of that name with its own file changed.
fn findings_of(name: &str, from: &str, to: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("blueprints").join(name);
    for file in fs::read_dir(root).unwrap() {
        let file = file.unwrap();
        let mut text = fs::read_to_string(file.path()).unwrap();
        if file.file_name() == "blueprint.toml" {
            assert!(text.contains(from), "{from:?} is not in it");
            text = text.replace(from, to);
        }
        fs::write(folder.path().join(file.file_name()), text).unwrap();
    }
    lint(folder.path()).iter().map(ToString::to_string).collect()
}

#[test]
fn learners_are_for_quorums_whose_templates_and_probes_know_of_them() {
    let told = |found: &[String], what: &str| found.iter().any(|finding| finding.contains(what));
    let found = findings_of("redis-cluster", "\ntopology", "\nlearners = true\ntopology");
    assert!(told(&found, "does not tell a learner from a voter"), "{found:?}");
    let found = findings_of("redis", "\ntopology", "\nlearners = true\ntopology");
    assert!(told(&found, "members have no votes"), "{found:?}");
    // A name that is there for learners only is not there without.
    let folder = redis_with(|text| text.push_str("# {{ member.learner }}\n"));
    let found: Vec<String> = lint(folder.path()).iter().map(ToString::to_string).collect();
    assert!(told(&found, "member.learner is not defined"), "{found:?}");
    assert!(findings_of("zookeeper", "learners = true\n", "learners = true\n").is_empty());
    // One that starts learners as voters.
    let without = findings_of("zookeeper", "101 if member.learner else 1", "1");
    assert!(!told(&without, "is started like a voter"), "zoo.cfg still tells them apart: {without:?}");
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("blueprints/zookeeper");
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let main = read("blueprint.toml").replace("(101 if member.learner else 1)", "1");
    let config = read("zoo.cfg.j2").replace("(others if member.learner else peers)", "peers");
    let (voters, _) = config.split_once("{% if member.learner %}").unwrap();
    fs::write(folder.path().join("blueprint.toml"), main).unwrap();
    fs::write(folder.path().join("zoo.cfg.j2"), voters).unwrap();
    let found: Vec<String> = lint(folder.path()).iter().map(ToString::to_string).collect();
    assert!(told(&found, "a learner is started like a voter"), "{found:?}");
    // What only a learner's rendering comes to is rendered, too.
    let broken =
        format!("{voters}{{% if member.learner %}}{{{{ (1 // (replicas - replicas)) }}}}{{% endif %}}\n");
    fs::write(folder.path().join("zoo.cfg.j2"), broken).unwrap();
    assert!(!lint(folder.path()).is_empty());
}

#[test]
fn a_template_that_runs_too_long_is_told_and_not_waited_for() {
    // Ten loops in one another over nine members: thousands of millions of turns.
    let (open, close) = ("{% for peer in peers %}".repeat(10), "{% endfor %}".repeat(10));
    let folder = redis_with(|text| text.insert_str(0, &format!("{open}x{close}\n")));
    let begun = std::time::Instant::now();
    let findings = lint(folder.path());
    let took = begun.elapsed();
    assert!(took < std::time::Duration::from_secs(20), "{took:?}");
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert!(finding.file.ends_with("redis.conf.j2") && finding.line == 1, "{finding}");
    assert!(finding.message.contains("runs too long"), "{finding}");
}

#[test]
fn templates_that_take_too_long_all_together_are_told_and_not_waited_for() {
    let three = ("{% for peer in peers %}".repeat(3), "{% endfor %}".repeat(3));
    let part = format!("{}{{{{ peer.name }}}}{}\n", three.0, three.1);
    let folder = redis_with(|text| text.insert_str(0, &part.repeat(15)));
    let begun = std::time::Instant::now();
    let findings = lint(folder.path());
    let took = begun.elapsed();
    assert!(took < std::time::Duration::from_secs(20), "{took:?}");
    let [finding] = findings.as_slice() else { panic!("{findings:?}") };
    assert!(finding.message.contains("too long to try"), "{finding}");
}

#[test]
fn a_spec_is_resolved_with_defaults() {
    let catalog = Catalog::embedded();
    let resolved = catalog.resolve(&spec(json!({"options": {"maxmemory": "2048MiB"}}))).unwrap();
    assert_eq!(resolved.options["maxmemory"], json!("2GiB"));
    assert_eq!(resolved.options["repl_timeout"], json!("1m"));
    assert_eq!(resolved.groups[0].replicas, 3);
    assert_eq!(resolved.blueprint.version, "7");
    assert_eq!(resolved.blueprint.digest.len(), 64);
    let again = Definition::from_stored(&resolved.stored).unwrap();
    assert_eq!(again.digest(), resolved.blueprint.digest);
    assert!(catalog.list().iter().any(|(name, _)| name == "redis@7"));
    let planned = |blueprint: &str, replicas: u32, durability: &str| {
        let spec = spec(json!({"blueprint": blueprint, "replicas": replicas, "durability": durability}));
        catalog.resolve(&spec).unwrap()
    };
    for (blueprint, replicas, durability, confirming) in [
        ("redis", 3, "strict", 0),
        ("postgresql", 1, "strict", 0),
        ("postgresql", 2, "strict", 1),
        ("postgresql", 3, "strict", 1),
        ("postgresql@15", 5, "strict", 2),
        ("postgresql", 3, "available", 0),
        ("zookeeper", 5, "strict", 2),
    ] {
        let resolved = planned(blueprint, replicas, durability);
        assert_eq!(resolved.blueprint.confirming_replicas, confirming, "{blueprint} {replicas} {durability}");
    }
    assert_eq!(planned("postgresql", 2, "strict").warnings.len(), 1);
    assert_eq!(planned("postgresql", 3, "strict").warnings.len(), 0);
    assert!(catalog.guarantee(&spec(json!({}))).contains("appendfsync always"));
}

#[test]
fn every_problem_of_a_spec_names_its_field() {
    let catalog = Catalog::embedded();
    let fields = |changes| -> Vec<String> {
        catalog.resolve(&spec(changes)).unwrap_err().into_iter().map(|error| error.field).collect()
    };
    assert_eq!(fields(json!({"blueprint": "mongodb"})), ["blueprint"]);
    assert_eq!(fields(json!({"blueprint": "redis@6"})), ["blueprint"]);
    assert_eq!(fields(json!({"replicas": 0})), ["replicas"]);
    assert_eq!(fields(json!({"replicas": 10})), ["replicas"]);
    for even in [2, 4] {
        assert_eq!(fields(json!({"blueprint": "zookeeper", "replicas": even})), ["replicas"]);
    }
    assert_eq!(fields(json!({"groups": [{"name": "shard", "replicas": 1}]})), ["groups.shard"]);
    assert_eq!(fields(json!({"volumes": [{"name": "journal"}]})), ["volumes.journal"]);
    assert_eq!(
        fields(json!({"options": {"maxmemory": 5, "maxmemory_policy": "lru", "colour": "red"}})),
        ["options.colour", "options.maxmemory", "options.maxmemory_policy"]
    );
    let unknown = &catalog.resolve(&spec(json!({"blueprint": "mongodb"}))).unwrap_err()[0];
    assert!(unknown.remedy.contains("redis"), "{unknown}");
}

/// The findings of the redis blueprint with `from` replaced by `to`, as `line: message`.
fn changed(from: &str, to: &str) -> Vec<(usize, String)> {
    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("blueprints/redis");
    let mut replaced = false;
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let new = text.replacen(from, to, 1);
        replaced |= new != text;
        files.insert(path.file_name().unwrap().to_owned(), new);
    }
    assert!(replaced, "{from:?} is not in the blueprint");
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    lint(&folder.path().join("blueprint.toml"))
        .into_iter()
        .map(|finding| {
            assert!(!finding.remedy.is_empty());
            let name = finding.file.file_name().unwrap().to_string_lossy().into_owned();
            (finding.line, format!("{name}: {}", finding.message))
        })
        .collect()
}

/// The line of the redis blueprint's file on which `text` stands.
fn line_of(file: &str, text: &str) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("blueprints/redis").join(file);
    let content = fs::read_to_string(path).unwrap();
    content.lines().position(|line| line.contains(text)).unwrap() + 1
}

#[test]
fn findings_point_at_the_line() {
    let cases = [
        // (what is changed, into what, the line it stands on, a part of the message)
        ("topology = \"primary_replicas\"", "topology = ", "topology = \"", "blueprint.toml"),
        (
            "topology = \"primary_replicas\"",
            "topolgy = \"quorum\"",
            "topology = \"",
            "unknown field `topolgy`",
        ),
        ("topology = \"primary_replicas\"", "topology = \"ring\"", "topology = \"", "unknown variant `ring`"),
        ("port = 6379", "port = 70000", "port = 6379", "70000"),
        ("default = 10000", "default = 5", "default = 10000", "less than the minimum"),
        ("default = 10000", "default = \"many\"", "default = 10000", "not a whole number"),
        (
            "default = \"noeviction\"",
            "default = \"none\"",
            "default = \"noeviction\"",
            "not one of its values",
        ),
        ("max = 1000000", "max = 1", "max = 1000000", "less than min"),
        (
            "paths = [\"/usr/bin/redis-server\",",
            "paths = [\"redis-server\",",
            "paths = [\"/usr/bin/redis-server\"",
            "not absolute",
        ),
        (
            "version = { args = [\"--version\"], after = \"v=\", until = \"-\" }",
            "",
            "[programs.process.redis-server]",
            "0 programs tell the version",
        ),
        (
            "template = \"redis.conf.j2\"",
            "template = \"other.j2\"",
            "template = \"redis.conf.j2\"",
            "no file",
        ),
        (
            "password = \"admin_password\"",
            "password = \"admin\"",
            "password = \"admin_password\"",
            "no secret",
        ),
        ("mode = \"0600\"", "mode = \"rw\"", "mode = \"0600\"", "no permission in octal"),
        (
            "dir = \"{{ volumes.data }}/redis\"",
            "dir = \"/var/lib/redis\"",
            "dir = \"{{ volumes.data }}/redis\"",
            "not a folder below",
        ),
        (
            "cwd = \"{{ data_dir }}\"",
            "cwd = \"{{ datadir }}\"",
            "cwd = \"{{ data_dir }}\"",
            "datadir is not defined",
        ),
        (
            "cwd = \"{{ data_dir }}\"",
            "env = { PASS = \"{{ secrets.password }}\" }",
            "cwd = \"{{ data_dir }}\"",
            "everybody on the machine",
        ),
        (
            "when = \"options.maxmemory > 0\"",
            "when = \"options.memory > 0\"",
            "when = \"options.maxmemory > 0\"",
            "options.memory",
        ),
        (
            "when = \"options.maxmemory > 0\"",
            "when = \"options.maxmemory >\"",
            "when = \"options.maxmemory > 0\"",
            "when",
        ),
        (
            "redis = [\"REPLICAOF\", \"NO\", \"ONE\"]",
            "sql = \"SELECT 1\"",
            "[[roles.primary.steps]]",
            "another protocol",
        ),
        (
            "confirming_replicas = \"0\"",
            "confirming_replicas = \"replicas\"",
            "confirming_replicas = \"0\"",
            "of 1 members",
        ),
    ];
    for (from, to, anchor, part) in cases {
        let findings = changed(from, to);
        let line = line_of("blueprint.toml", anchor);
        assert!(
            findings.iter().any(|(found, message)| *found == line && message.contains(part)),
            "{to}: wanted line {line} with {part:?}, found {findings:?}"
        );
    }
}

#[test]
fn findings_in_templates_point_at_their_line() {
    for (from, to, part) in [
        ("maxclients {{ options.maxclients }}", "maxclients {{ options.maxclient }}", "options.maxclient"),
        ("maxclients {{ options.maxclients }}", "maxclients {{ options.maxclients + }}", "unexpected"),
        ("maxclients {{ options.maxclients }}", "maxclients {{ options.maxclients | quote }}", "quote"),
        // A branch that no value takes.
        (
            "maxclients {{ options.maxclients }}",
            "{% if false %}{{ nothing }}{% endif %}",
            "nothing is not defined",
        ),
    ] {
        let findings = changed(from, to);
        let line = line_of("redis.conf.j2", "maxclients");
        assert!(
            findings.iter().any(|(found, text)| *found == line
                && text.starts_with("redis.conf.j2")
                && text.contains(part)),
            "{to}: {findings:?}"
        );
    }
    let world_readable = changed("mode = \"0600\"", "mode = \"0644\"");
    assert!(world_readable.iter().any(|(_, text)| text.contains("secrets.")), "{world_readable:?}");
}

#[test]
fn a_folder_that_cannot_be_read_is_a_finding() {
    let findings = lint(Path::new("/nowhere/at/all"));
    assert_eq!(findings.len(), 1);
    let folder = tempfile::tempdir().unwrap();
    let findings = lint(folder.path());
    assert!(findings[0].message.contains("missing"), "{findings:?}");
}

#[test]
fn a_file_that_is_no_blueprint_is_not_passed_for_the_one_beside_it() {
    let folder = redis_with(|_| {});
    assert_eq!(lint(folder.path()), []);
    let another = folder.path().join("another.toml");
    fs::write(&another, "nonsense").unwrap();
    let findings = lint(&another);
    assert_eq!((findings.len(), &findings[0].file), (1, &another));
    assert!(findings[0].message.contains("blueprint.toml"), "{findings:?}");
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 60, failure_persistence: None, ..Default::default() })]

    /// Whatever a blueprint says, the lint answers, and points into the file.
    #[test]
    fn the_lint_answers_to_every_text(at in 0.0..1.0_f64, length in 0_usize..40, text in "\\PC{0,20}|[\\[\\]{}\"'=\n#.%| a-z0-9]{0,20}") {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("blueprints/redis");
        let mut main: Vec<char> =
            fs::read_to_string(path.join("blueprint.toml")).unwrap().chars().collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the text")]
        let start = (at * main.len() as f64) as usize;
        let end = (start + length).min(main.len());
        main.splice(start..end, text.chars());
        let main: String = main.into_iter().collect();
        let template = fs::read_to_string(path.join("redis.conf.j2")).unwrap();
        let lines = main.lines().count() + 1;
        let files = BTreeMap::from([
            ("blueprint.toml".to_owned(), main),
            ("redis.conf.j2".to_owned(), template),
        ]);
        if let Err(findings) = Definition::from_files(files) {
            proptest::prop_assert!(!findings.is_empty());
            for finding in findings {
                proptest::prop_assert!((1..=lines.max(100)).contains(&finding.line), "{finding}");
            }
        }
    }
}
