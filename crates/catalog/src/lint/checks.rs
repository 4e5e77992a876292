//! What must hold of the keys of a blueprint, templates apart.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use steadfast_core::model::{Durability, Leadership, MOST_REPLICAS, Topology};

use super::Report;
use crate::definition::MAIN_FILE;
use crate::format::{Format, History, OptionFormat, OptionType, Orchestrator, Probe, Step, Verb};

pub(super) fn check(format: &Format, report: &mut Report<'_>) {
    versions(format, report);
    replicas(format, report);
    ports_and_volumes(format, report);
    secrets(format, report);
    for (name, option) in &format.options {
        check_option(name, option, report);
    }
    programs(format, report);
    data(format, report);
    files(format, report);
    probe(format, report);
    roles(format, report);
    for (path, step) in steps(format) {
        check_step(format, &path, step, report);
    }
    durability(format, report);
    if format.start.argv.is_empty() {
        report.at("start.argv", "is empty", "give the program and its arguments");
    }
    if format.client.argv.is_empty() {
        report.at("client.argv", "is empty", "give the engine's own client");
    }
    if format.start_deadline.0.is_zero() {
        report.at("start_deadline", "is 0", "give at least 1s");
    }
}

fn versions(format: &Format, report: &mut Report<'_>) {
    if format.versions.is_empty() {
        report.at("versions", "is empty", "name the engine's major versions, as in [\"7\"]");
    }
    let mut seen = BTreeSet::new();
    for (index, version) in format.versions.iter().enumerate() {
        let key = format!("versions[{index}]");
        if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            report.at(
                &key,
                format_args!("{version:?} is not a version"),
                "write digits and dots, as in \"15\"",
            );
        }
        if !seen.insert(version) {
            report.at(&key, format_args!("{version:?} is given twice"), "give each version once");
        }
    }
}

fn replicas(format: &Format, report: &mut Report<'_>) {
    let replicas = format.replicas;
    if replicas.min == 0 {
        report.at("replicas.min", "is 0", "give at least 1");
    }
    if replicas.max > MOST_REPLICAS {
        report.at("replicas.max", format_args!("is more than {MOST_REPLICAS}"), "give less");
    }
    if replicas.min > replicas.max {
        report.at("replicas.max", "is less than replicas.min", "swap the two");
    }
    if !(replicas.min..=replicas.max).contains(&replicas.default) {
        report.at("replicas.default", "is not between min and max", "give a number between the two");
    }
    if replicas.odd && replicas.default.is_multiple_of(2) {
        report.at("replicas.default", "is even, which replicas.odd refuses", "give an odd number");
    }
    if format.topology == Topology::Quorum && !replicas.odd {
        report.at("replicas.odd", "must be true for a quorum", "set odd = true");
    }
}

fn ports_and_volumes(format: &Format, report: &mut Report<'_>) {
    let mut seen = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (index, port) in format.ports.iter().enumerate() {
        let key = format!("ports[{index}]");
        if !seen.insert(&port.name) {
            report.at(&format!("{key}.name"), format_args!("{:?} is given twice", port.name), "rename one");
        }
        if port.port == 0 || !numbers.insert(port.port) {
            report.at(
                &format!("{key}.port"),
                format_args!("{} is not a port of its own", port.port),
                "give each port its own number from 1 to 65535",
            );
        }
    }
    if !format.ports.iter().any(|port| port.client) {
        report.at("ports", "has none for clients", "set client = true for the port that clients use");
    }
    if format.volumes.is_empty() {
        report.at("volumes", "is empty", "name at least one volume for the engine's data");
    }
    let mut seen = BTreeSet::new();
    for (index, volume) in format.volumes.iter().enumerate() {
        if !seen.insert(&volume.name) {
            report.at(
                &format!("volumes[{index}].name"),
                format_args!("{:?} is given twice", volume.name),
                "rename one",
            );
        }
    }
}

fn secrets(format: &Format, report: &mut Report<'_>) {
    let mut seen = BTreeSet::new();
    for (index, secret) in format.secrets.iter().enumerate() {
        let key = format!("secrets[{index}]");
        if !is_name(secret) {
            report.at(&key, format_args!("{secret:?} is not a name"), NAME_RULE);
        }
        if !seen.insert(secret) {
            report.at(&key, format_args!("{secret:?} is given twice"), "give each secret once");
        }
    }
}

const NAME_RULE: &str = "use a-z, 0-9 and '_', beginning with a letter";

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn check_option(name: &str, option: &OptionFormat, report: &mut Report<'_>) {
    let key = format!("options.{name}");
    if !is_name(name) {
        report.at(&key, format_args!("{name:?} is not a name"), NAME_RULE);
    }
    if option.description.trim().is_empty() {
        report.at(&format!("{key}.description"), "is empty", "say what the option does");
    }
    if option.kind == OptionType::Enum && option.values.is_empty() {
        report.at(&format!("{key}.values"), "is missing", "list the values of the enum");
    }
    if option.kind != OptionType::Enum && !option.values.is_empty() {
        report.at(&format!("{key}.values"), "is for enums only", "remove it, or set type = \"enum\"");
    }
    for (bound, value) in [("min", &option.min), ("max", &option.max)] {
        if value.is_some() && option.bound(value.as_ref()).is_none() {
            report.at(
                &format!("{key}.{bound}"),
                "does not fit the option's type",
                "give a value of that type (a length for strings; enums and booleans have no bounds)",
            );
        }
    }
    if let (Some(min), Some(max)) = (option.bound(option.min.as_ref()), option.bound(option.max.as_ref()))
        && min > max
    {
        report.at(&format!("{key}.max"), "is less than min", "swap the two");
    }
    if let Err(refusal) = option.accept(&option.default) {
        report.at(&format!("{key}.default"), refusal.problem, refusal.remedy);
    }
}

fn programs(format: &Format, report: &mut Report<'_>) {
    let Some(programs) = format.programs.get(&Orchestrator::Process) else {
        report.at("programs", "has no section for process", "add [programs.process.NAME] with paths");
        return;
    };
    let mut told = 0;
    for (name, program) in programs {
        let key = format!("programs.process.{name}");
        if program.paths.is_empty() {
            report.at(&format!("{key}.paths"), "is empty", "list the absolute paths to look at");
        }
        for (index, path) in program.paths.iter().enumerate() {
            if !Path::new(path).is_absolute() {
                report.at(&format!("{key}.paths[{index}]"), "is not absolute", "begin it with /");
            }
        }
        if let Some(version) = &program.version {
            told += 1;
            if version.after.is_empty() {
                report.at(
                    &format!("{key}.version.after"),
                    "is empty",
                    "give the text right before the version in the program's output",
                );
            }
            if version.program.as_ref().is_some_and(|runner| !programs.contains_key(runner)) {
                report.at(&format!("{key}.version.program"), "is no program of this section", "add it");
            }
        }
    }
    if told != 1 {
        report.at(
            "programs.process",
            format_args!("{told} programs tell the version"),
            "give exactly one of them a version table (args, after, until)",
        );
    }
}

fn data(format: &Format, report: &mut Report<'_>) {
    let known = format.volumes.iter().any(|volume| {
        format.data.dir.starts_with(&format!("{{{{ volumes.{} }}}}/", volume.name))
            || format.data.dir.starts_with(&format!("{{{{ volumes[\"{}\"] }}}}/", volume.name))
    });
    if !known {
        report.at(
            "data.dir",
            "is not a folder below one of the blueprint's volumes",
            "write it as \"{{ volumes.NAME }}/FOLDER\"",
        );
    }
    let relative = [
        ("data.complete", Some(&format.data.complete)),
        ("data.version_file", format.data.version_file.as_ref()),
    ];
    for (key, path) in relative {
        if path.is_some_and(|path| path.is_empty() || Path::new(path).is_absolute() || path.contains("..")) {
            report.at(key, "is not a path below data.dir", "write it relative to data.dir");
        }
    }
}

fn files(format: &Format, report: &mut Report<'_>) {
    let mut used = BTreeSet::from([MAIN_FILE]);
    let mut templates: Vec<(String, Option<&String>, Option<&String>)> = Vec::new();
    for (index, file) in format.files.iter().enumerate() {
        let key = format!("files[{index}]");
        match u32::from_str_radix(&file.mode, 8) {
            Ok(mode) if mode <= 0o777 => {}
            _ => report.at(&format!("{key}.mode"), "is no permission in octal", "write it as \"0600\""),
        }
        templates.push((key, file.content.as_ref(), file.template.as_ref()));
    }
    for (path, step) in steps(format) {
        if step.write.is_some() {
            templates.push((path, step.content.as_ref(), step.template.as_ref()));
        }
    }
    for (key, content, template) in templates {
        if content.is_some() == template.is_some() {
            report.at(&key, "needs either template or content", "give one of the two");
        }
        if let Some(name) = template {
            if !report.files.contains_key(name) {
                report.at(
                    &format!("{key}.template"),
                    format_args!("there is no file {name:?} in the blueprint's folder"),
                    "add it; its name ends in .j2",
                );
            }
            used.insert(name);
        }
    }
    let unused: Vec<String> =
        report.files.keys().filter(|name| !used.contains(name.as_str())).cloned().collect();
    for name in unused {
        report.add(
            &name,
            1,
            1,
            "is used by nothing",
            "name it as a template in blueprint.toml, or remove it",
        );
    }
}

fn probe(format: &Format, report: &mut Report<'_>) {
    let (port, password) = match &format.probe {
        Probe::Redis(probe) => (Some(&probe.port), Some(&probe.password)),
        Probe::Postgresql(probe) => (Some(&probe.port), Some(&probe.password)),
        Probe::Zookeeper(probe) | Probe::Tcp(probe) => (Some(&probe.port), None),
        Probe::Http(probe) => (Some(&probe.port), None),
        Probe::Command(_) => (None, None),
    };
    if port.is_some_and(|port| !format.ports.iter().any(|known| known.name == *port)) {
        report.at("probe.port", "is no port of the blueprint", "name one of [[ports]]");
    }
    if password.is_some_and(|password| !format.secrets.contains(password)) {
        report.at("probe.password", "is no secret of the blueprint", "name one of secrets");
    }
}

fn roles(format: &Format, report: &mut Report<'_>) {
    match (format.leadership, &format.roles) {
        (Leadership::Steadfast, None) => report.at(
            "leadership",
            "is steadfast, and [roles] is missing",
            "say with [roles.primary], [roles.follow] and [roles.fenced] how a role is reached",
        ),
        (Leadership::Engine, Some(_)) => {
            report.at("roles", "is given while the engine leads itself", "remove it");
        }
        _ => {}
    }
    if format.leadership == Leadership::Steadfast
        && !matches!(format.probe, Probe::Redis(_) | Probe::Postgresql(_))
    {
        report.at(
            "probe.kind",
            "tells no role, which leadership = \"steadfast\" needs",
            "use redis or postgresql, or an engine that leads itself",
        );
    }
    if let Some(reconcile) = &format.reconcile {
        let needed: &[&str] = match reconcile.history {
            History::Postgresql => &["pg_controldata", "pg_waldump"],
        };
        let programs = format.programs.get(&Orchestrator::Process);
        for name in needed.iter().filter(|name| programs.is_none_or(|known| !known.contains_key(**name))) {
            report.at(
                "reconcile.history",
                format_args!("needs the program {name}"),
                format_args!("add [programs.process.{name}]"),
            );
        }
    }
    learners(format, report);
    if format.actions.initialise.is_empty() {
        report.at("actions.initialise", "is missing", "say how the first data is made");
    }
    if format.actions.join.is_empty() {
        report.at("actions.join", "is missing", "say how a further member's data is made");
    }
}

/// Only a quorum has votes to be without, and only some probes tell who has none.
fn learners(format: &Format, report: &mut Report<'_>) {
    if !format.learners {
        return;
    }
    if format.leadership != Leadership::Engine || format.topology != Topology::Quorum {
        let remedy = "remove it: it is for a quorum that elects its own leader";
        report.at("learners", "is true, and members have no votes", remedy);
    }
    if !matches!(format.probe, Probe::Zookeeper(_)) {
        let remedy = "use the probe zookeeper, or remove it";
        report.at("learners", "is true, and the probe does not tell a learner from a voter", remedy);
    }
}

/// Every step with its path in the file.
pub(super) fn steps(format: &Format) -> Vec<(String, &Step)> {
    let mut lists: BTreeMap<&str, &[Step]> = BTreeMap::from([
        ("actions.initialise", &format.actions.initialise[..]),
        ("actions.join", &format.actions.join[..]),
        ("actions.before_start", &format.actions.before_start[..]),
        ("actions.before_following", &format.actions.before_following[..]),
    ]);
    if let Some(reconcile) = &format.reconcile {
        lists.insert("reconcile.rewind", &reconcile.rewind);
    }
    if let Some(roles) = &format.roles {
        lists.insert("roles.primary.steps", &roles.primary.steps);
        lists.insert("roles.follow.steps", &roles.follow.steps);
        lists.insert("roles.fenced.steps", &roles.fenced.steps);
    }
    lists
        .into_iter()
        .flat_map(|(path, steps)| {
            steps.iter().enumerate().map(move |(index, step)| (format!("{path}[{index}]"), step))
        })
        .collect()
}

fn check_step(format: &Format, path: &str, step: &Step, report: &mut Report<'_>) {
    let verb = match step.verb() {
        Ok(verb) => verb,
        Err(problem) => {
            report.at(path, problem, "give one of run, write, mkdir, remove, stale_pid, redis, sql, observe");
            return;
        }
    };
    let speaks = match verb {
        Verb::Redis(_) => matches!(format.probe, Probe::Redis(_)),
        Verb::Sql(_) => matches!(format.probe, Probe::Postgresql(_)),
        _ => true,
    };
    if !speaks {
        report.at(path, "speaks another protocol than the probe", "use the probe's, or run a program");
    }
    if !matches!(verb, Verb::Run(_)) && (step.stdin.is_some() || !step.env.is_empty()) {
        report.at(path, "has stdin or env without run", "remove them");
    }
    if !matches!(verb, Verb::Write(_)) && (step.content.is_some() || step.template.is_some()) {
        report.at(path, "has content or template without write", "remove them");
    }
    if step.within.is_some() && step.expect.is_none() {
        report.at(path, "has within without expect", "remove it, or say what is expected");
    }
    if let Verb::Run([]) | Verb::Redis([]) = verb {
        report.at(path, "is empty", "give the program or command, and its arguments");
    }
    if path.starts_with("actions") && matches!(verb, Verb::Redis(_) | Verb::Sql(_) | Verb::Observe) {
        report.at(path, "talks to an engine that does not run yet", "use run, write, mkdir or remove");
    }
}

fn durability(format: &Format, report: &mut Report<'_>) {
    let mut keys: Option<Vec<&String>> = None;
    for (class, word) in [(Durability::Strict, "strict"), (Durability::Available, "available")] {
        let key = format!("durability.{word}");
        let Some(described) = format.durability.get(&class) else {
            report.at(&key, "is missing", "describe both strict and available");
            continue;
        };
        if described.guarantee.trim().is_empty() {
            report.at(
                &format!("{key}.guarantee"),
                "is empty",
                "say what is promised, against which failure, and what is not",
            );
        }
        let these: Vec<&String> = described.settings.keys().collect();
        if keys.as_ref().is_some_and(|keys| *keys != these) {
            report.at(
                &format!("{key}.settings"),
                "has other keys than the other class",
                "give both the same keys",
            );
        }
        keys = Some(these);
    }
}
