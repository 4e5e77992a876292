//! The templates and expressions of a blueprint: their names are known, and they render.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};
use steadfast_core::model::Durability;

use super::synthetic::Made;
use super::{Report, checks, synthetic};
use crate::connect::{ConnectContext, names as connect_names};
use crate::context::{Context, peer};
use crate::definition::{Definition, MAIN_FILE};
use crate::format::{Format, Probe};
use crate::template::{Prepared, TemplateError};

/// One template or expression.
struct Text<'a> {
    /// Its key in `blueprint.toml`.
    key: String,
    /// The file it lies in, if not there.
    file: Option<&'a str>,
    source: &'a str,
    kind: Kind,
    /// What it may name.
    scope: Scope,
    /// Whether it may name secrets.
    secrets: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Template,
    Expression,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    /// The member.
    Member,
    /// Before the data folder is known.
    Folder,
    /// The member, without the texts that are being defined.
    Vars,
    /// And the folder in which data is made.
    Making,
    /// And a member to copy from.
    Joining,
    /// The member, and one to follow.
    Following,
    /// And what the engine said.
    Running,
    /// `replicas` alone.
    Rule,
    /// `replicas`, `durability`, `options`.
    Advice,
    /// Clients.
    Client,
}

pub(super) fn check(format: &Format, report: &mut Report<'_>) {
    let definition = match Definition::parse(report.files.clone()) {
        Ok(definition) => definition,
        Err(message) => return report.at("name", message, "correct the file"),
    };
    let files = report.files.clone();
    let texts = collect(format, &files);
    let mut sound = true;
    for text in &texts {
        sound &= names(&definition, format, text, report);
    }
    let is_for_starts = |text: &&Text<'_>| {
        ["files", "start", "actions.before_start", "vars"].iter().any(|part| text.key.starts_with(part))
    };
    if sound
        && format.learners
        && !texts.iter().filter(is_for_starts).any(|text| names_learners(&definition, text))
    {
        let message = "is true, and a learner is started like a voter";
        report.at("learners", message, "name member.learner in [[files]], [start] or actions.before_start");
        sound = false;
    }
    if !sound {
        return;
    }
    let templates = definition.templates();
    let prepared: Vec<(&Text<'_>, Prepared<'_>)> = texts
        .iter()
        .filter_map(|text| {
            let parsed = match text.kind {
                Kind::Template => templates.template(text.source),
                Kind::Expression => templates.expression(text.source),
            };
            // What does not parse was noted with its names.
            Some((text, parsed.ok()?))
        })
        .collect();
    let mut steps = 0;
    for replicas in synthetic::replica_counts(format) {
        for durability in [Durability::Strict, Durability::Available] {
            for options in synthetic::option_sets(format) {
                for learner in [false, true].into_iter().take(1 + usize::from(format.learners)) {
                    let made = Made { replicas, durability, options: &options, learner };
                    steps += try_all(&definition, format, &prepared, &made, report, MOST_STEPS - steps);
                    if steps > MOST_STEPS {
                        return give_up(report);
                    }
                }
            }
        }
    }
    rules(&definition, format, report);
}

/// Renders every text for a made-up member, until it has taken more than `most` steps; gives how many it took.
fn try_all(
    definition: &Definition,
    format: &Format,
    prepared: &[(&Text<'_>, Prepared<'_>)],
    made: &Made<'_>,
    report: &mut Report<'_>,
    most: u64,
) -> u64 {
    // The same for every text of a scope, and there are many texts.
    let mut scopes: BTreeMap<Scope, Result<minijinja::Value, TemplateError>> = BTreeMap::new();
    let mut steps = 0;
    for (text, prepared) in prepared {
        let known = scopes.entry(text.scope).or_insert_with(|| {
            values(definition, format, text.scope, made)
                .map(|map| minijinja::Value::from(minijinja::value::Serde(map)))
        });
        let tried = match known {
            Ok(known) => try_out(prepared, text, known),
            Err(error) => Err(error.clone()),
        };
        match tried {
            Ok(taken) => steps += taken,
            Err(error) => {
                note(report, text, &error);
                steps += error.steps();
            }
        }
        if steps > most {
            break;
        }
    }
    steps
}

/// The most steps of all renderings together: those of an embedded blueprint take some tens of thousands.
const MOST_STEPS: u64 = 2_000_000;

/// Stops trying: what was found is enough to go on with, or else that it takes so long.
fn give_up(report: &mut Report<'_>) {
    if report.findings.is_empty() {
        report.at(
            "name",
            format_args!("its templates take too long to try: more than {MOST_STEPS} steps for all options"),
            "have them loop less, or give fewer options",
        );
    }
}

/// Confirming replicas are fewer than members, for every number of members.
fn rules(definition: &Definition, format: &Format, report: &mut Report<'_>) {
    for replicas in format.replicas.min..=format.replicas.max {
        for (class, word) in [(Durability::Strict, "strict"), (Durability::Available, "available")] {
            let key = format!("durability.{word}.confirming_replicas");
            match definition.confirming(replicas, class) {
                Ok(confirming) if confirming < replicas.max(1) => {}
                Ok(confirming) => report.at(
                    &key,
                    format_args!("is {confirming} of {replicas} members"),
                    "give a rule that leaves out the primary, as in \"replicas // 2\"",
                ),
                Err(error) => report.at(&key, error.message(), "write an expression over replicas"),
            }
        }
    }
}

/// How many steps it took.
fn try_out(
    prepared: &Prepared<'_>,
    text: &Text<'_>,
    values: &minijinja::Value,
) -> Result<u64, TemplateError> {
    let (rendered, steps) = prepared.text(values)?;
    let is_path =
        text.key.starts_with("files[") && text.key.ends_with(".path") || text.key.ends_with(".write");
    if is_path && !Path::new(&rendered).is_absolute() {
        return Err(TemplateError { line: 1, message: format!("{rendered:?} is not an absolute path") });
    }
    Ok(steps)
}

/// Whether every name in a text is known; secrets only where nobody else sees them.
fn names(definition: &Definition, format: &Format, text: &Text<'_>, report: &mut Report<'_>) -> bool {
    let options = synthetic::option_sets(format).swap_remove(0);
    let replicas = format.replicas.default;
    let made = Made { replicas, durability: Durability::Strict, options: &options, learner: false };
    let known = values(definition, format, text.scope, &made);
    let (known, named) = match (known, named_in(definition, text)) {
        (Ok(known), Ok(named)) => (known, named),
        (Err(error), _) | (_, Err(error)) => {
            note(report, text, &error);
            return false;
        }
    };
    let mut sound = true;
    for name in named {
        if !text.secrets && name.split('.').next() == Some("secrets") {
            sound = false;
            let message =
                format!("names {name}, and everybody on the machine sees arguments and environments");
            let remedy = "put it in a file, or into stdin";
            place(report, text, line_of(text.source, &name), &message, remedy);
        } else if let Err(choice) = lookup(&known, &name) {
            sound = false;
            let remedy = format!("use one of: {choice}");
            place(report, text, line_of(text.source, &name), &format!("{name} is not defined"), &remedy);
        }
    }
    sound
}

/// Whether a text depends on whether the member learns.
fn names_learners(definition: &Definition, text: &Text<'_>) -> bool {
    named_in(definition, text).is_ok_and(|named| named.contains("member.learner"))
}

/// The variables that a text names.
fn named_in(definition: &Definition, text: &Text<'_>) -> Result<BTreeSet<String>, TemplateError> {
    match text.kind {
        Kind::Template => definition.templates().names(text.source),
        Kind::Expression => definition.templates().names_of_expression(text.source),
    }
}

/// Follows a dotted name; if it leads nowhere, what there is instead.
fn lookup(values: &Map<String, Value>, name: &str) -> Result<(), String> {
    let mut table = values;
    for part in name.split('.') {
        match table.get(part) {
            Some(Value::Object(next)) => table = next,
            Some(_) => return Ok(()),
            None => {
                return Err(table
                    .keys()
                    .cloned()
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect::<Vec<_>>()
                    .join(", "));
            }
        }
    }
    Ok(())
}

/// The line of a text on which a dotted name stands: by its last part if it is written in another way.
fn line_of(source: &str, name: &str) -> usize {
    let last = name.rsplit('.').next().unwrap_or(name);
    let found = source.find(name).or_else(|| source.find(last)).unwrap_or_default();
    source[..found].matches('\n').count() + 1
}

fn note(report: &mut Report<'_>, text: &Text<'_>, error: &TemplateError) {
    place(
        report,
        text,
        error.line,
        &error.message,
        "correct the template; docs/blueprints.md lists what it may name",
    );
}

fn place(report: &mut Report<'_>, text: &Text<'_>, line: usize, message: &str, remedy: &str) {
    match text.file {
        Some(file) => report.add(file, line, 1, message, remedy),
        None => {
            let line = report.positions.line_of_text(&text.key) + line - 1;
            let (_, column) = report.positions.line_and_column(report.positions.find(&text.key));
            report.add(MAIN_FILE, line, column, format_args!("{}: {message}", text.key), remedy);
        }
    }
}

/// What a text may name, with made-up values.
fn values(
    definition: &Definition,
    format: &Format,
    scope: Scope,
    made: &Made<'_>,
) -> Result<Map<String, Value>, TemplateError> {
    let broken = |message: String| TemplateError { line: 1, message };
    let member = synthetic::member(format, made).map_err(|error| broken(error.to_string()))?;
    if scope == Scope::Rule {
        return Ok(Map::from_iter([("replicas".to_owned(), json!(made.replicas))]));
    }
    if scope == Scope::Client {
        let context = ConnectContext {
            service: member.service.clone(),
            host: "orders.demo.steadfast.internal".to_owned(),
            primary: "primary.orders.demo.steadfast.internal".to_owned(),
            members: member.peers.clone(),
            options: made.options.clone(),
            secrets: member.secrets.clone(),
        };
        return Ok(connect_names(definition, &context));
    }
    let programs = format
        .programs
        .values()
        .flat_map(|programs| programs.iter())
        .map(|(name, program)| (name.clone(), program.paths.first().cloned().unwrap_or_default().into()))
        .collect();
    let mut context =
        Context::of(definition, &member, &programs).map_err(|error| broken(error.message().to_owned()))?;
    let other = member.peers.get(1).unwrap_or(&member.member);
    match scope {
        Scope::Member | Scope::Rule | Scope::Client => {}
        Scope::Folder => {
            for name in ["data_dir", "vars", "confirmers"] {
                context.remove(name);
            }
        }
        Scope::Vars => context.remove("vars"),
        Scope::Advice => context.keep(&["replicas", "durability", "options"]),
        Scope::Making | Scope::Joining => {
            context.set("dir", json!("/volumes/data/partial"));
            if scope == Scope::Joining {
                context.set("target", peer(other));
            }
        }
        Scope::Following => context.set("target", peer(other)),
        Scope::Running => {
            let (view, facts) = synthetic::seen(format);
            context.set("target", peer(other));
            context.set("confirmers", json!([peer(other)]));
            context.set("view", json!(view));
            if synthetic::tells_facts(format) {
                context.set("facts", json!(facts));
            }
        }
    }
    Ok(context.into_map())
}

/// Every template and expression of the blueprint.
fn collect<'a>(format: &'a Format, files: &'a BTreeMap<String, String>) -> Vec<Text<'a>> {
    let mut texts = Vec::new();
    let mut add = |key: String, source: &'a str, kind: Kind, scope: Scope, secrets: bool| {
        texts.push(Text { key, file: None, source, kind, scope, secrets });
    };
    let (template, expression) = (Kind::Template, Kind::Expression);
    add("data.dir".to_owned(), &format.data.dir, template, Scope::Folder, false);
    for (name, text) in &format.vars {
        add(format!("vars.{name}"), text, template, Scope::Vars, false);
    }
    for (index, argument) in format.start.argv.iter().enumerate() {
        add(format!("start.argv[{index}]"), argument, template, Scope::Member, false);
    }
    for (name, value) in &format.start.env {
        add(format!("start.env.{name}"), value, template, Scope::Member, false);
    }
    for (name, program) in format.programs.values().flatten() {
        for (index, argument) in program.version.iter().flat_map(|version| version.args.iter().enumerate()) {
            let key = format!("programs.process.{name}.version.args[{index}]");
            add(key, argument, template, Scope::Member, false);
        }
    }
    if let Some(cwd) = &format.start.cwd {
        add("start.cwd".to_owned(), cwd, template, Scope::Member, false);
    }
    match &format.probe {
        Probe::Http(probe) => add("probe.path".to_owned(), &probe.path, template, Scope::Member, false),
        Probe::Command(probe) => {
            for (index, argument) in probe.argv.iter().enumerate() {
                add(format!("probe.argv[{index}]"), argument, template, Scope::Member, false);
            }
        }
        Probe::Redis(_) | Probe::Postgresql(_) | Probe::Zookeeper(_) | Probe::Tcp(_) => {}
    }
    for (word, class) in ["strict", "available"].into_iter().zip(format.durability.values()) {
        let key = format!("durability.{word}.confirming_replicas");
        add(key, &class.confirming_replicas, expression, Scope::Rule, false);
    }
    for (index, advice) in format.advice.iter().enumerate() {
        add(format!("advice[{index}].when"), &advice.when, expression, Scope::Advice, false);
    }
    for (index, argument) in format.client.argv.iter().enumerate() {
        add(format!("client.argv[{index}]"), argument, template, Scope::Client, false);
    }
    for (name, value) in &format.client.env {
        add(format!("client.env.{name}"), value, template, Scope::Client, true);
    }
    add("client.uri".to_owned(), &format.client.uri, template, Scope::Client, true);
    if let Some(roles) = &format.roles {
        for (word, role) in
            [("primary", &roles.primary), ("follow", &roles.follow), ("fenced", &roles.fenced)]
        {
            add(format!("roles.{word}.reached"), &role.reached, expression, Scope::Running, false);
            if let Some(needs_restart) = &role.needs_restart {
                let key = format!("roles.{word}.needs_restart");
                add(key, needs_restart, expression, Scope::Running, false);
            }
        }
    }
    config_files(format, files, &mut texts);
    steps(format, files, &mut texts);
    texts
}

fn config_files<'a>(format: &'a Format, files: &'a BTreeMap<String, String>, texts: &mut Vec<Text<'a>>) {
    for (index, file) in format.files.iter().enumerate() {
        let mut add = |name: &str, file: Option<&'a str>, source: &'a str, secrets: bool| {
            texts.push(Text {
                key: format!("files[{index}].{name}"),
                file,
                source,
                kind: Kind::Template,
                scope: Scope::Member,
                secrets,
            });
        };
        add("path", None, &file.path, false);
        if let Some(content) = &file.content {
            add("content", None, content, is_private(&file.mode));
        }
        if let Some((name, source)) = file.template.as_ref().and_then(|name| files.get_key_value(name)) {
            add("template", Some(name), source, is_private(&file.mode));
        }
    }
}

/// Whether only the owner can read a file of this mode.
fn is_private(mode: &str) -> bool {
    u32::from_str_radix(mode, 8).is_ok_and(|mode| mode & 0o077 == 0)
}

fn steps<'a>(format: &'a Format, files: &'a BTreeMap<String, String>, texts: &mut Vec<Text<'a>>) {
    for (path, step) in checks::steps(format) {
        let scope = if path.starts_with("actions.initialise") {
            Scope::Making
        } else if path.starts_with("actions.join") {
            Scope::Joining
        } else if path.starts_with("actions.before_start") {
            Scope::Member
        } else if path.starts_with("actions.before_following") {
            Scope::Following
        } else {
            Scope::Running
        };
        let mut add = |name: String, source: &'a str, kind: Kind, secrets: bool| {
            texts.push(Text { key: format!("{path}.{name}"), file: None, source, kind, scope, secrets });
        };
        for (index, argument) in step.run.iter().flatten().enumerate() {
            add(format!("run[{index}]"), argument, Kind::Template, false);
        }
        for (index, word) in step.redis.iter().flatten().enumerate() {
            add(format!("redis[{index}]"), word, Kind::Template, true);
        }
        for (name, value) in &step.env {
            add(format!("env.{name}"), value, Kind::Template, false);
        }
        let single = [
            ("stdin", &step.stdin, true),
            ("write", &step.write, false),
            ("content", &step.content, true),
            ("mkdir", &step.mkdir, false),
            ("remove", &step.remove, false),
            ("stale_pid", &step.stale_pid, false),
            ("sql", &step.sql, true),
            ("expect", &step.expect, false),
        ];
        for (name, source, secrets) in single {
            if let Some(source) = source {
                add(name.to_owned(), source, Kind::Template, secrets);
            }
        }
        if let Some(when) = &step.when {
            add("when".to_owned(), when, Kind::Expression, false);
        }
        if let Some((name, source)) = step.template.as_ref().and_then(|name| files.get_key_value(name)) {
            texts.push(Text {
                key: format!("{path}.template"),
                file: Some(name),
                source,
                kind: Kind::Template,
                scope,
                secrets: true,
            });
        }
    }
}
