//! Blueprints of users: `catalog lint`, and everything that is made of what it lets pass.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeMap;

use steadfast_catalog::{Catalog, Definition, MAIN_FILE};
use steadfast_core::model::Durability;
use steadfast_fuzz::{Material, fuzz};

/// What parts the files of a blueprint in one input.
const NEXT_FILE: &str = "\n=== FILE ";

const WORDS: &[&str] = &[
    "name",
    "versions",
    "leadership",
    "topology",
    "identity",
    "start_deadline",
    "rolling",
    "secrets",
    "replicas",
    "min",
    "max",
    "default",
    "odd",
    "[[ports]]\n",
    "[[volumes]]\n",
    "[options.x]\n",
    "[run_as]\n",
    "[data]\n",
    "[probe]\n",
    "type = \"size\"",
    "type = \"enum\"",
    "type = \"int\"",
    "type = \"bool\"",
    "type = \"duration\"",
    "\"engine\"",
    "\"steadfast\"",
    "\"quorum\"",
    "\"primary_replicas\"",
    "\"independent\"",
    "values = []",
    "{{",
    "}}",
    "{%",
    "%}",
    "{% for x in members %}",
    "{% endfor %}",
    "{% if ",
    "{% else %}",
    "{% endif %}",
    "{% macro m(x) %}",
    "{% endmacro %}",
    "{% include 'x' %}",
    "{% set x = 1 %}",
    "{# ",
    " #}",
    "| join(',')",
    "| int",
    "| redis",
    "| default(1)",
    "options.",
    "member.",
    "members",
    "facts.",
    "view.role",
    "volumes.data",
    "bin['x']",
    "dir",
    "data_dir",
    "run_dir",
    "replicas // 2",
    "/ 0",
    "% 0",
    "9223372036854775807",
    "-9223372036854775808",
    "0",
    "1",
    "1e999",
    "\"0s\"",
    "\"16EiB\"",
    "\"\"",
    "[]",
    "{}",
    "true",
    "''",
    "\u{e9}",
    "\u{0}",
    "\n",
    "redis = []",
    "command = []",
    "write = \"/etc/passwd\"",
    "../",
    "/",
    "\"0777\"",
    "\"9999\"",
    "\"TERM\"",
    "\"KILL\"",
];

/// Every embedded blueprint as one text.
fn seeds() -> Vec<Vec<u8>> {
    Catalog::embedded()
        .definitions()
        .map(|definition| {
            let stored = definition.stored();
            let files: BTreeMap<String, String> = serde_json::from_value(stored["files"].clone()).unwrap();
            let mut text = files[MAIN_FILE].clone();
            for (name, content) in files.iter().filter(|(name, _)| *name != MAIN_FILE) {
                text.push_str(&format!("{NEXT_FILE}{name}\n{content}"));
            }
            text.into_bytes()
        })
        .collect()
}

fn files(text: &str) -> BTreeMap<String, String> {
    let mut parts = text.split(NEXT_FILE);
    let main = parts.next().unwrap_or_default().to_owned();
    let others = parts.filter_map(|part| part.split_once('\n'));
    others
        .map(|(name, content)| (name.to_owned(), content.to_owned()))
        .chain([(MAIN_FILE.to_owned(), main)])
        .collect()
}

#[test]
fn a_blueprint_is_taken_or_every_finding_has_its_line() {
    let material =
        Material { seeds: seeds(), words: WORDS.iter().map(|word| word.as_bytes().to_vec()).collect() };
    fuzz("blueprint", &material, 60, |bytes| {
        let files = files(&String::from_utf8_lossy(bytes));
        match Definition::from_files(files.clone()) {
            Ok(definition) => use_it(&definition),
            Err(findings) => {
                assert!(!findings.is_empty(), "refused without a finding");
                for finding in findings {
                    let name = finding.file.to_string_lossy();
                    let lines = files.get(name.as_ref()).map_or(1, |text| text.split('\n').count());
                    assert!((1..=lines).contains(&finding.line), "{finding} of {lines} lines");
                    assert!(finding.column >= 1, "{finding}");
                    assert!(!finding.message.is_empty() && !finding.remedy.is_empty(), "{finding}");
                }
            }
        }
    });
}

/// What is let pass is used: planning and storing must not find out more.
fn use_it(definition: &Definition) {
    let format = definition.format();
    for durability in [Durability::Strict, Durability::Available] {
        for replicas in [format.replicas.min, format.replicas.default] {
            if let Err(error) = definition.facts(replicas, durability) {
                panic!("lint let pass what planning refuses: {error}");
            }
        }
    }
    let again = Definition::from_stored(&definition.stored()).unwrap();
    assert_eq!(again.digest(), definition.digest());
}
