//! The blueprints on offer.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use steadfast_core::Result;
use steadfast_core::control::{Blueprints, Resolved};
use steadfast_core::ids::{GroupName, MemberName};
use steadfast_core::model::{Durability, GroupSpec, ServiceSpec, SpecError};

use crate::definition::Definition;
use crate::lint::Finding;

/// Each embedded blueprint: its files by name.
const EMBEDDED: &[&[(&str, &str)]] = include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The blueprints on offer, by name.
#[derive(Debug, Clone)]
pub struct Catalog {
    definitions: BTreeMap<String, Definition>,
}

impl Catalog {
    /// The blueprints that come with Steadfast.
    pub fn embedded() -> Self {
        let definitions = EMBEDDED
            .iter()
            .map(|files| {
                let files =
                    files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
                Definition::parse(files).expect("the tests of this crate lint every embedded blueprint")
            })
            .map(|definition| (definition.name().to_owned(), definition))
            .collect();
        Catalog { definitions }
    }

    /// Adds the blueprint in `folder`; one of the same name is replaced.
    ///
    /// # Errors
    /// What [`lint`](crate::lint()) finds; the catalog is unchanged then.
    pub fn add_folder(&mut self, folder: &Path) -> Result<(), Vec<Finding>> {
        let definition = Definition::from_folder(folder)?;
        self.definitions.insert(definition.name().to_owned(), definition);
        Ok(())
    }

    /// The blueprint of this name, at its default version.
    pub fn get(&self, name: &str) -> Option<&Definition> {
        self.definitions.get(name)
    }

    /// Every blueprint, at its default version.
    pub fn definitions(&self) -> impl Iterator<Item = &Definition> {
        self.definitions.values()
    }

    /// The blueprint that a spec names, at the version it names.
    ///
    /// # Errors
    /// What is wrong with the field `blueprint`.
    pub fn find(&self, spec: &ServiceSpec) -> Result<Definition, SpecError> {
        let (name, version) = spec.blueprint_and_version();
        let Some(definition) = self.definitions.get(name) else {
            let known: Vec<&str> = self.definitions.keys().map(String::as_str).collect();
            return Err(SpecError::new(
                "blueprint",
                format!("{name:?} is not in the catalog"),
                format!("use one of: {}", known.join(", ")),
            ));
        };
        match version {
            None => Ok(definition.clone()),
            Some(version) => definition.at_version(version).ok_or_else(|| {
                SpecError::new(
                    "blueprint",
                    format!("{name} has no version {version:?}"),
                    format!("use one of: {}", offers(definition).join(", ")),
                )
            }),
        }
    }
}

impl Blueprints for Catalog {
    fn resolve(&self, spec: &ServiceSpec) -> Result<Resolved, Vec<SpecError>> {
        let definition = self.find(spec).map_err(|error| vec![error])?;
        let mut problems = Vec::new();
        let groups = groups(&definition, spec, &mut problems);
        let options = options(&definition, spec, &mut problems);
        volumes(&definition, spec, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let replicas = groups.first().map_or(1, |group| group.replicas);
        let wrong = |error: steadfast_core::Error| {
            vec![SpecError::new(
                "blueprint",
                error.message(),
                "correct the blueprint (steadfast catalog lint)",
            )]
        };
        Ok(Resolved {
            blueprint: definition.facts(replicas, spec.durability).map_err(wrong)?,
            warnings: advice(&definition, replicas, spec.durability, &options).map_err(wrong)?,
            groups,
            options,
            secrets: definition.format().secrets.clone(),
            stored: definition.stored(),
        })
    }

    fn list(&self) -> Vec<(String, String)> {
        self.definitions
            .values()
            .flat_map(|definition| {
                offers(definition).into_iter().map(|name| (name, definition.format().description.clone()))
            })
            .collect()
    }

    fn guarantee(&self, spec: &ServiceSpec) -> String {
        self.find(spec).map_or_else(|_| String::new(), |found| found.guarantee(spec.durability).to_owned())
    }
}

fn offers(definition: &Definition) -> Vec<String> {
    definition.format().versions.iter().map(|version| format!("{}@{version}", definition.name())).collect()
}

fn groups(definition: &Definition, spec: &ServiceSpec, problems: &mut Vec<SpecError>) -> Vec<GroupSpec> {
    let rule = definition.format().replicas;
    let (field, replicas) = match &spec.groups[..] {
        [] => ("replicas".to_owned(), spec.replicas.unwrap_or(rule.default)),
        groups => {
            for group in groups.iter().filter(|group| group.name != GroupName::main()) {
                problems.push(SpecError::new(
                    format!("groups.{}", group.name),
                    format!("is no group of the blueprint {}", definition.name()),
                    format!("use the group {}, or give replicas alone", GroupName::DEFAULT),
                ));
            }
            let Some(main) = groups.iter().find(|group| group.name == GroupName::main()) else {
                return Vec::new();
            };
            (format!("groups.{}.replicas", main.name), main.replicas)
        }
    };
    let allowed = if rule.odd {
        let numbers: Vec<String> =
            (rule.min..=rule.max).filter(|number| number % 2 == 1).map(|number| number.to_string()).collect();
        format!("give one of: {}", numbers.join(", "))
    } else {
        format!("give a number from {} to {}", rule.min, rule.max)
    };
    if !(rule.min..=rule.max).contains(&replicas) {
        problems.push(SpecError::new(&field, format!("is {replicas}"), &allowed));
    } else if rule.odd && replicas.is_multiple_of(2) {
        problems.push(SpecError::new(
            &field,
            format!("is {replicas}: an even quorum survives no more failures than one member less"),
            &allowed,
        ));
    }
    if let Err(error) = MemberName::of(&spec.name, &GroupName::main(), replicas.saturating_sub(1)) {
        problems.push(SpecError::new("name", error.to_string(), "give the service a shorter name"));
    }
    vec![GroupSpec { name: GroupName::main(), replicas }]
}

fn options(
    definition: &Definition,
    spec: &ServiceSpec,
    problems: &mut Vec<SpecError>,
) -> BTreeMap<String, Value> {
    let known = &definition.format().options;
    for name in spec.options.keys().filter(|name| !known.contains_key(*name)) {
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        problems.push(SpecError::new(
            format!("options.{name}"),
            format!("is no option of the blueprint {}", definition.name()),
            format!("use one of: {}", names.join(", ")),
        ));
    }
    let mut options = BTreeMap::new();
    for (name, option) in known {
        match option.accept(spec.options.get(name).unwrap_or(&option.default)) {
            Ok(value) => {
                options.insert(name.clone(), value);
            }
            Err(refusal) => {
                problems.push(SpecError::new(format!("options.{name}"), refusal.problem, refusal.remedy));
            }
        }
    }
    options
}

fn volumes(definition: &Definition, spec: &ServiceSpec, problems: &mut Vec<SpecError>) {
    let known = &definition.format().volumes;
    for claim in &spec.volumes {
        if !known.iter().any(|volume| volume.name == claim.name) {
            let names: Vec<&str> = known.iter().map(|volume| volume.name.as_str()).collect();
            problems.push(SpecError::new(
                format!("volumes.{}", claim.name),
                format!("is no volume of the blueprint {}", definition.name()),
                format!("use one of: {}", names.join(", ")),
            ));
        }
    }
}

fn advice(
    definition: &Definition,
    replicas: u32,
    durability: Durability,
    options: &BTreeMap<String, Value>,
) -> Result<Vec<String>> {
    let format = definition.format();
    let plain: BTreeMap<&String, Value> = options
        .iter()
        .filter_map(|(name, value)| format.options.get(name).map(|option| (name, option.plain(value))))
        .collect();
    let context = minijinja::Value::from(minijinja::value::Serde(serde_json::json!({
        "replicas": replicas, "durability": durability, "options": plain,
    })));
    let mut texts = Vec::new();
    for advice in &format.advice {
        if definition
            .templates()
            .holds(&advice.when, &context)
            .map_err(|error| definition.invalid("advise", &advice.when, error.message))?
        {
            texts.push(advice.text.clone());
        }
    }
    Ok(texts)
}
