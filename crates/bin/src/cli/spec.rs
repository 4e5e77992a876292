//! Service files: reading them, and making one of flags.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use steadfast_core::ids::VolumeName;
use steadfast_core::model::{ByteSize, ServiceSpec, Span};

use crate::exit::{Exit, Failure, Result};

/// The service file that is given.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct FileOption {
    /// The service file, TOML or JSON; `-` reads standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
}

/// The longest service file that makes sense.
const LONGEST: u64 = 1 << 20;

impl FileOption {
    /// What it says. Whether that holds is the server's matter.
    pub(super) fn read(&self) -> Result<Value> {
        let wrong = |error: std::io::Error| {
            let failure = Failure::new(format!("read {}: {error}", self.file.display()));
            match error.kind() {
                std::io::ErrorKind::NotFound => {
                    failure.exit(Exit::NotFound).remedy("give the path of a service file with -f FILE")
                }
                _ => failure.remedy("give a service file that can be read with -f FILE"),
            }
        };
        let mut text = String::new();
        if self.file == Path::new("-") {
            std::io::stdin().lock().take(LONGEST + 1).read_to_string(&mut text).map_err(wrong)?;
        } else {
            let file = fs::File::open(&self.file).map_err(wrong)?;
            file.take(LONGEST + 1).read_to_string(&mut text).map_err(wrong)?;
        }
        if text.len() as u64 > LONGEST {
            let limit = ByteSize(LONGEST);
            return Err(Failure::new(format!("{} is longer than {limit}", self.file.display()))
                .reason("ConfigInvalid")
                .remedy(format!("give one service, in a file of at most {limit}")));
        }
        parse(&text, &self.file)
    }
}

fn parse(text: &str, file: &Path) -> Result<Value> {
    let is_json = text.trim_start().starts_with('{');
    let parsed = if is_json {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else {
        toml::from_str::<Value>(text).map_err(|error| error.to_string())
    };
    parsed.map_err(|error| {
        let format = if is_json { "JSON" } else { "TOML" };
        Failure::new(format!("{} is not well-formed {format}: {}", file.display(), error.trim_end()))
            .reason("ConfigInvalid")
            .remedy("correct the line and give the file again")
    })
}

/// A service of flags.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct SpecFlags {
    /// The service's name
    name: String,
    /// The blueprint, as NAME or NAME@VERSION (`steadfast catalog list` has them)
    #[arg(long)]
    blueprint: String,
    /// How many members
    #[arg(long)]
    replicas: Option<u32>,
    /// What an acknowledged write survives: strict, or available
    #[arg(long, value_parser = ["strict", "available"])]
    durability: Option<String>,
    /// What members are spread over: zone, or node
    #[arg(long, value_parser = ["zone", "node"])]
    spread: Option<String>,
    /// The size of a volume of every member
    #[arg(long, value_name = "NAME=SIZE", value_parser = volume)]
    volume: Vec<(VolumeName, ByteSize)>,
    /// How long a lost primary's own return is waited for before another member is promoted
    #[arg(long, value_name = "TIME")]
    promote_after: Option<Span>,
    /// The least fencing level: F1, F2 or F3
    #[arg(long, value_parser = ["F1", "F2", "F3"])]
    fencing: Option<String>,
    /// An option of the blueprint
    #[arg(long, value_name = "NAME=VALUE", value_parser = option)]
    set: Vec<(String, Value)>,
}

impl SpecFlags {
    /// The service file that these flags stand for.
    pub(super) fn spec(&self) -> Value {
        let SpecFlags { name, blueprint, replicas, durability, spread, volume, promote_after, fencing, set } =
            self;
        let mut spec = Map::new();
        spec.insert("apiVersion".to_owned(), json!(ServiceSpec::API_VERSION));
        spec.insert("name".to_owned(), json!(name));
        spec.insert("blueprint".to_owned(), json!(blueprint));
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                spec.insert(key.to_owned(), value);
            }
        };
        put("replicas", replicas.map(|replicas| json!(replicas)));
        put("durability", durability.as_ref().map(|durability| json!(durability)));
        put("placement", spread.as_ref().map(|spread| json!({ "spread": spread })));
        let volumes: Vec<Value> =
            volume.iter().map(|(name, size)| json!({ "name": name, "size": size })).collect();
        put("volumes", (!volumes.is_empty()).then(|| json!(volumes)));
        put("failover", promote_after.map(|after| json!({ "promote_after": after })));
        put("fencing", fencing.as_ref().map(|minimum| json!({ "minimum": minimum })));
        let options: Map<String, Value> = set.iter().cloned().collect();
        put("options", (!options.is_empty()).then_some(Value::Object(options)));
        Value::Object(spec)
    }
}

fn volume(text: &str) -> Result<(VolumeName, ByteSize), String> {
    let (name, size) = text.split_once('=').ok_or("write NAME=SIZE, as in data=20GiB")?;
    Ok((name.parse().map_err(|error: steadfast_core::ids::InvalidId| error.to_string())?, size.parse()?))
}

/// A number or truth value is taken for one, everything else for a text.
fn option(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, as in max_connections=200")?;
    let value = match serde_json::from_str(value) {
        Ok(plain @ (Value::Number(_) | Value::Bool(_))) => plain,
        _ => Value::String(value.to_owned()),
    };
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_and_json_are_the_same_schema() {
        let toml = parse("name = \"orders\"\nreplicas = 3\n[options]\nx = 1\n", Path::new("f")).unwrap();
        let json =
            parse(r#" {"name": "orders", "replicas": 3, "options": {"x": 1}}"#, Path::new("f")).unwrap();
        assert_eq!(toml, json);
    }

    #[test]
    fn a_file_that_does_not_parse_is_named_with_the_line() {
        let error = parse("name = \"orders\"\nreplicas = = 3\n", Path::new("orders.toml")).unwrap_err();
        assert!(error.message.starts_with("orders.toml"), "{error}");
        assert!(error.message.contains("line 2"), "{error}");
    }

    #[test]
    fn flags_make_a_file_that_the_server_would_take() {
        let flags = SpecFlags {
            name: "cache".to_owned(),
            blueprint: "redis".to_owned(),
            replicas: Some(3),
            durability: Some("strict".to_owned()),
            spread: Some("node".to_owned()),
            volume: vec![volume("data=20GiB").unwrap()],
            promote_after: Some("5s".parse().unwrap()),
            fencing: Some("F3".to_owned()),
            set: vec![option("maxmemory=100").unwrap(), option("policy=noeviction").unwrap()],
        };
        let spec = ServiceSpec::from_input(flags.spec()).unwrap();
        assert_eq!(spec.options["maxmemory"], json!(100));
        assert_eq!(spec.options["policy"], json!("noeviction"));
        assert_eq!(spec.volumes[0].size.unwrap().to_string(), "20GiB");
    }
}
