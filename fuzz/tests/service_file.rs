//! The service file: TOML and JSON, as the command line and the API take it.

use serde_json::Value;
use steadfast_catalog::Catalog;
use steadfast_core::control::Blueprints as _;
use steadfast_core::model::ServiceSpec;
use steadfast_fuzz::{Material, fuzz};

const FULL: &str = r#"apiVersion = "steadfast/v1"
name = "orders"
blueprint = "redis@7"
replicas = 3
durability = "strict"
[placement]
spread = "zone"
[[volumes]]
name = "data"
size = "20GiB"
class = "default"
on_delete = "keep"
[fencing]
minimum = "F2"
accept_lease = false
[failover]
mode = "auto"
promote_after = "30s"
[options]
maxmemory = "1GiB"
maxclients = 200
allow_flush = true
"#;

const GROUPS: &str = r#"apiVersion = "steadfast/v1"
name = "shop"
blueprint = "redis"
durability = "available"
fencing = { minimum = "F1", accept_lease = true }
failover = { mode = "manual", promote_after = "1500ms" }
[[groups]]
name = "main"
replicas = 1
[[groups]]
name = "shard"
replicas = 1000
"#;

const JSON: &str = r#"{"apiVersion":"steadfast/v1","name":"cache","blueprint":"redis@7","replicas":3,
"placement":{"spread":"node"},"volumes":[{"name":"data","size":"1MiB","on_delete":"delete"}],
"failover":{"mode":"off","promote_after":"1h"},"options":{"maxclients":32,"notify_keyspace_events":"KEA"}}"#;

const WORDS: &[&str] = &[
    "apiVersion",
    "name",
    "blueprint",
    "replicas",
    "groups",
    "durability",
    "placement",
    "volumes",
    "fencing",
    "failover",
    "options",
    "spread",
    "size",
    "class",
    "on_delete",
    "minimum",
    "accept_lease",
    "mode",
    "promote_after",
    "\"F3\"",
    "\"off\"",
    "\"delete\"",
    "redis@",
    "@",
    "redis@7@7",
    "[[groups]]\n",
    "[options]\n",
    "0",
    "1",
    "-1",
    "1001",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "9223372036854775808",
    "1e400",
    "nan",
    "inf",
    "0.5",
    "1979-05-27T07:32:00Z",
    "null",
    "true",
    "[]",
    "{}",
    "\"\"",
    "\"0s\"",
    "\"1ms\"",
    "\"999999999999h\"",
    "\"18446744073709551615ms\"",
    "\"17179869184GiB\"",
    "\"16777216TiB\"",
    "\"-1GiB\"",
    "\"1 GiB\"",
    "\"\u{e9}\"",
    "\u{0}",
    "\u{feff}",
    "\\u0000",
    "\"\"\"",
    "'''",
    "\n",
    "\r\n",
    " = ",
    ",",
    "#",
    "a-very-long-name-that-goes-on-and-on-and-on-past-every-limit-there-is",
    "-",
    "Orders",
    "orders.x",
    "../x",
];

fn parsed(text: &str) -> Option<Value> {
    if text.trim_start().starts_with('{') {
        serde_json::from_str(text).ok()
    } else {
        toml::from_str(text).ok()
    }
}

#[test]
fn a_service_file_is_taken_or_refused_field_by_field() {
    let catalog = Catalog::embedded();
    fuzz("service file", &Material::of(&[FULL, GROUPS, JSON], WORDS), 6_000, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Some(value) = parsed(&text) else { return };
        match ServiceSpec::from_input(value) {
            Ok(spec) => {
                // What was taken is stored, shown and given back: each time it is the same file.
                let again = serde_json::to_value(&spec).unwrap();
                assert_eq!(ServiceSpec::from_input(again).unwrap(), spec);
                if let Err(problems) = catalog.resolve(&spec) {
                    check_problems(&problems);
                }
            }
            Err(problems) => check_problems(&problems),
        }
    });
}

fn check_problems(problems: &[steadfast_core::model::SpecError]) {
    assert!(!problems.is_empty(), "refused without a reason");
    for problem in problems {
        assert!(!problem.field.is_empty(), "{problem:?}");
        assert!(!problem.problem.is_empty(), "{problem:?}");
        assert!(!problem.remedy.is_empty(), "{problem:?}");
    }
}
