//! What templates see of a member.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use steadfast_core::Result;
use steadfast_core::engine::{EngineContext, Peer};

use crate::definition::Definition;

/// Names that templates see, by the parts of [`EngineContext`] and the blueprint they come from.
#[derive(Debug, Clone)]
pub(crate) struct Context(Map<String, Value>);

impl Context {
    /// The context of a member, with its programs where `programs` says.
    pub(crate) fn of(
        definition: &Definition,
        context: &EngineContext,
        programs: &BTreeMap<String, PathBuf>,
    ) -> Result<Self> {
        let format = definition.format();
        let options: Map<String, Value> = format
            .options
            .iter()
            .map(|(name, option)| {
                let value = context.options.get(name).unwrap_or(&option.default);
                (name.clone(), option.plain(value))
            })
            .collect();
        let replicas = u32::try_from(context.peers.len()).unwrap_or(u32::MAX).max(1);
        let others: Vec<Value> =
            context.peers.iter().filter(|other| other.name != context.member.name).map(peer).collect();
        let mut member = peer(&context.member);
        if format.learners {
            member["learner"] = context.learner.into();
        }
        let base = json!({
            "cluster": context.cluster,
            "service": context.service,
            "group": context.group,
            "member": member,
            "peers": context.peers.iter().map(peer).collect::<Vec<_>>(),
            "others": others,
            "replicas": replicas,
            "node": context.node,
            "zone": context.zone,
            "epoch": context.epoch,
            "durability": context.durability,
            "settings": definition.durability(context.durability)?.settings,
            "confirming": definition.confirming(replicas, context.durability)?,
            "options": options,
            "ports": context.ports,
            "volumes": context.volumes,
            "run_dir": context.run_dir,
            "secrets": context.secrets,
            "version": definition.version(),
            "bin": programs,
        });
        let Value::Object(map) = base else { unreachable!("it was written as an object") };
        let mut context = Context(map);
        let dir = context.render(definition, &format.data.dir, "data.dir")?;
        context.set("data_dir", json!(dir));
        context.set("confirmers", json!([]));
        context.apply_vars(definition)?;
        Ok(context)
    }

    /// Renders the blueprint's own texts, which may name everything but each other.
    pub(crate) fn apply_vars(&mut self, definition: &Definition) -> Result<()> {
        let mut rendered = Map::new();
        for (name, template) in &definition.format().vars {
            rendered.insert(name.clone(), self.render(definition, template, "vars")?.into());
        }
        self.set("vars", rendered.into());
        Ok(())
    }

    /// A number of the context.
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.0.get(name).and_then(Value::as_u64).unwrap_or_default()
    }

    pub(crate) fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Leaves these names only.
    pub(crate) fn keep(&mut self, names: &[&str]) {
        self.0.retain(|name, _| names.contains(&name.as_str()));
    }

    pub(crate) fn into_map(self) -> Map<String, Value> {
        self.0
    }

    /// A text of the context.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn value(&self) -> minijinja::Value {
        minijinja::Value::from(minijinja::value::Serde(&self.0))
    }

    /// A template, rendered. `subject` is what error messages call it.
    pub(crate) fn render(&self, definition: &Definition, template: &str, subject: &str) -> Result<String> {
        definition
            .templates()
            .render(template, &self.value())
            .map_err(|error| definition.invalid("render", subject, error.message))
    }

    /// Several templates, rendered.
    pub(crate) fn render_all(
        &self,
        definition: &Definition,
        templates: &[String],
        subject: &str,
    ) -> Result<Vec<String>> {
        let value = self.value();
        templates
            .iter()
            .map(|template| {
                definition
                    .templates()
                    .render(template, &value)
                    .map_err(|error| definition.invalid("render", subject, error.message))
            })
            .collect()
    }

    /// Whether an expression holds.
    pub(crate) fn holds(&self, definition: &Definition, expression: &str, subject: &str) -> Result<bool> {
        definition
            .templates()
            .holds(expression, &self.value())
            .map_err(|error| definition.invalid("evaluate", subject, error.message))
    }
}

/// A peer as templates see it. Its `address` is its host name if it has no static address.
pub(crate) fn peer(peer: &Peer) -> Value {
    json!({
        "name": peer.name,
        "ordinal": peer.ordinal,
        "host": peer.host,
        // For engines whose names take no '-'.
        "ident": peer.name.as_str().replace('-', "_"),
        "address": peer.address.map_or_else(|| peer.host.clone(), |address| address.to_string()),
    })
}
