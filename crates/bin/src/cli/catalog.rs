//! The catalog: what is on offer, what a blueprint says, and whether one's own holds.

use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;
use steadfast_api::control::CatalogEntry;
use steadfast_catalog::{Catalog, Finding, MAIN_FILE};
use steadfast_core::control::Blueprints as _;

use super::Global;
use crate::exit::{Context as _, Exit, Failure, Result};
use crate::output::{self, column, note};

/// What can be asked of the catalog.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum CatalogVerb {
    /// List the blueprints that this build has
    List,
    /// Print a blueprint
    Show {
        /// The blueprint, as NAME or NAME@VERSION
        blueprint: String,
    },
    /// Check one's own blueprint: its folder, or its file
    Lint {
        /// The blueprint
        file: PathBuf,
    },
}

pub(super) fn run(global: &Global, verb: &CatalogVerb) -> Result<Exit> {
    match verb {
        CatalogVerb::List => list(global),
        CatalogVerb::Show { blueprint } => show(global, blueprint),
        CatalogVerb::Lint { file } => lint(file),
    }
}

fn list(global: &Global) -> Result<Exit> {
    #[derive(Serialize)]
    struct List {
        items: Vec<CatalogEntry>,
    }
    let entry = |(blueprint, description)| CatalogEntry { blueprint, description };
    let list = List { items: Catalog::embedded().list().into_iter().map(entry).collect() };
    output::show(global.output, &list, || {
        let rows: Vec<Vec<String>> =
            list.items.iter().map(|entry| vec![entry.blueprint.clone(), entry.description.clone()]).collect();
        output::rows(global.output, &[column("BLUEPRINT"), column("DESCRIPTION")], 0, &rows)
    })?;
    Ok(Exit::Done)
}

fn show(global: &Global, blueprint: &str) -> Result<Exit> {
    let (name, version) = match blueprint.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (blueprint, None),
    };
    let catalog = Catalog::embedded();
    let found = catalog.get(name).cloned();
    let found = match version {
        Some(version) => found.and_then(|definition| definition.at_version(version)),
        None => found,
    };
    let definition = found.ok_or_else(|| {
        Failure::new(format!("blueprint {blueprint} does not exist"))
            .remedy("list them: steadfast catalog list")
            .exit(Exit::NotFound)
    })?;
    let stored = definition.stored();
    output::show(global.output, &stored, || {
        let main = stored["files"][MAIN_FILE].as_str().unwrap_or_default();
        main.trim_end().to_owned()
    })?;
    Ok(Exit::Done)
}

fn lint(file: &PathBuf) -> Result<Exit> {
    std::fs::metadata(file)
        .context(format!("read {}", file.display()))
        .map_err(|failure| failure.exit(Exit::NotFound))?;
    let findings = steadfast_catalog::lint(file);
    let [_, ..] = findings.as_slice() else {
        output::line(&format!("{}: nothing is wrong", file.display()))?;
        return Ok(Exit::Done);
    };
    for Finding { file, line, column, message, remedy } in &findings {
        output::line(&format!("{}:{line}:{column}: {message}\n  {remedy}", file.display()))?;
    }
    note(&format!(
        "{} found",
        if findings.len() == 1 { "1 mistake".to_owned() } else { format!("{} mistakes", findings.len()) }
    ));
    Ok(Exit::Error)
}
