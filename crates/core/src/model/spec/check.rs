//! What is wrong with a service file, as far as it shows without the blueprint and the cluster.

use std::time::Duration;

use serde_json::Value;

use super::{ServiceSpec, SpecError};
use crate::model::FencingLevel;

impl ServiceSpec {
    /// The spec in `input`, which came from outside: unknown keys are errors, and so is everything that can be
    /// seen to be wrong without the blueprint and the cluster.
    ///
    /// # Errors
    /// Every problem found, each with its field and remedy.
    pub fn from_input(input: Value) -> Result<Self, Vec<SpecError>> {
        let spec: ServiceSpec = serde_path_to_error::deserialize(&input).map_err(|error| {
            let field = match error.path().to_string().as_str() {
                "." => "service file".to_owned(),
                path => path.to_owned(),
            };
            let problem = error.into_inner().to_string();
            vec![SpecError::new(field, problem, "correct the value and apply the file again")]
        })?;
        let canonical = serde_json::to_value(&spec).map_err(|error| {
            vec![SpecError::new(
                "service file",
                error.to_string(),
                "correct the value and apply the file again",
            )]
        })?;
        let mut problems = Vec::new();
        unknown_keys(&input, &canonical, "", &mut problems);
        spec.check(&mut problems);
        if problems.is_empty() { Ok(spec) } else { Err(problems) }
    }

    fn check(&self, problems: &mut Vec<SpecError>) {
        if self.api_version != Self::API_VERSION {
            problems.push(SpecError::new(
                "apiVersion",
                format!("{:?} is not a version this build knows", self.api_version),
                format!("write apiVersion = {:?}", Self::API_VERSION),
            ));
        }
        if self.replicas.is_some() && !self.groups.is_empty() {
            problems.push(SpecError::new("replicas", "is given beside [[groups]]", "give one of the two"));
        }
        if self.replicas == Some(0) || self.groups.iter().any(|group| group.replicas == 0) {
            problems.push(SpecError::new(
                "replicas",
                "is 0",
                "give at least 1, or stop or delete the service",
            ));
        }
        if self.replicas.is_some_and(|n| n > MOST_REPLICAS)
            || self.groups.iter().any(|group| group.replicas > MOST_REPLICAS)
        {
            problems.push(SpecError::new(
                "replicas",
                format!("is more than {MOST_REPLICAS}"),
                format!("give at most {MOST_REPLICAS} members a group"),
            ));
        }
        for (index, group) in self.groups.iter().enumerate() {
            if self.groups[..index].iter().any(|other| other.name == group.name) {
                problems.push(SpecError::new(
                    format!("groups.{}", group.name),
                    "is given twice",
                    "give each group once",
                ));
            }
        }
        for (index, volume) in self.volumes.iter().enumerate() {
            if self.volumes[..index].iter().any(|other| other.name == volume.name) {
                problems.push(SpecError::new(
                    format!("volumes.{}", volume.name),
                    "is given twice",
                    "give each volume once",
                ));
            }
            if volume.size.is_some_and(|size| size.0 < LEAST_VOLUME_BYTES) {
                problems.push(SpecError::new(
                    format!("volumes.{}.size", volume.name),
                    "is less than 1MiB",
                    "give a size with its unit, as in 20GiB",
                ));
            }
        }
        if self.fencing.accept_lease && self.fencing.minimum > FencingLevel::F1 {
            problems.push(SpecError::new(
                "fencing.accept_lease",
                format!(
                    "is true while fencing.minimum is {}, which a lease does not reach",
                    self.fencing.minimum
                ),
                "set fencing.minimum = \"F1\", or accept_lease = false",
            ));
        }
        if self.failover.promote_after.0 < Duration::from_secs(1) {
            problems.push(SpecError::new(
                "failover.promote_after",
                "is less than 1s",
                "give at least 1s: a member's own return is usually faster than a promotion",
            ));
        }
    }
}

/// The most members of one group.
pub const MOST_REPLICAS: u32 = 1000;
const LEAST_VOLUME_BYTES: u64 = 1 << 20;

/// The keys of `input` that the canonical form does not have. Below `options` the blueprint decides.
fn unknown_keys(input: &Value, canonical: &Value, path: &str, problems: &mut Vec<SpecError>) {
    match (input, canonical) {
        (Value::Object(input), Value::Object(canonical)) => {
            for (key, value) in input {
                let plain = !key.is_empty()
                    && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
                let shown = if plain { key.clone() } else { format!("{key:?}") };
                let path = if path.is_empty() { shown } else { format!("{path}.{shown}") };
                match canonical.get(key) {
                    None => {
                        let known: Vec<&str> = canonical.keys().map(String::as_str).collect();
                        problems.push(SpecError::new(
                            path,
                            "is not a key of the service file",
                            format!("use one of: {}", known.join(", ")),
                        ));
                    }
                    Some(_) if path == "options" => {}
                    Some(known) => unknown_keys(value, known, &path, problems),
                }
            }
        }
        (Value::Array(input), Value::Array(canonical)) => {
            for (index, (value, known)) in input.iter().zip(canonical).enumerate() {
                unknown_keys(value, known, &format!("{path}[{index}]"), problems);
            }
        }
        // Keys may be given by their order alone in some formats. Here nobody could tell one from another.
        (Value::Array(_), Value::Object(_)) => {
            let field = if path.is_empty() { "service file" } else { path };
            let remedy = "write each key with its value, as in { minimum = \"F1\" }";
            problems.push(SpecError::new(field, "is a list, and takes keys", remedy));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn minimal() -> Value {
        json!({"apiVersion": "steadfast/v1", "name": "orders", "blueprint": "redis@7", "replicas": 3})
    }

    #[test]
    fn a_minimal_file_takes_its_defaults() {
        let spec = ServiceSpec::from_input(minimal()).unwrap();
        assert_eq!(spec.fencing.minimum, FencingLevel::F2);
        assert_eq!(spec.failover.promote_after.0, Duration::from_secs(30));
        assert_eq!(spec.blueprint_and_version(), ("redis", Some("7")));
    }

    #[test]
    fn a_list_where_keys_belong_is_refused() {
        let mut input = minimal();
        input["fencing"] = json!(["F1", true]);
        input["volumes"] = json!([["data", "20GiB"]]);
        let problems = ServiceSpec::from_input(input).unwrap_err();
        let fields: Vec<&str> = problems.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["fencing", "volumes[0]"]);
        let all = json!(["steadfast/v1", "orders", "redis@7"]);
        assert_eq!(ServiceSpec::from_input(all).unwrap_err()[0].field, "service file");
    }

    #[test]
    fn unknown_keys_are_errors_that_name_their_path() {
        let mut input = minimal();
        input["placement"] = json!({"spreed": "zone"});
        input["colour"] = json!("red");
        input["options"] = json!({"anything": 1});
        input[""] = json!(1);
        input["placement.spread"] = json!("zone");
        let fields: Vec<String> =
            ServiceSpec::from_input(input).unwrap_err().into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["\"\"", "colour", "placement.spreed", "\"placement.spread\""]);
    }

    #[test]
    fn zero_replicas_and_a_lease_below_the_minimum_are_refused() {
        let mut input = minimal();
        input["replicas"] = json!(0);
        input["fencing"] = json!({"minimum": "F2", "accept_lease": true});
        let fields: Vec<String> =
            ServiceSpec::from_input(input).unwrap_err().into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["replicas", "fencing.accept_lease"]);
    }
}
