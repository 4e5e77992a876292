//! How clients reach a service.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use steadfast_core::Result;
use steadfast_core::control::ConnectView;
use steadfast_core::engine::Peer;
use steadfast_core::ids::ServiceName;

use crate::context::peer;
use crate::definition::Definition;

/// What a client has to know of a service.
#[derive(Clone)]
pub struct ConnectContext {
    /// The service.
    pub service: ServiceName,
    /// Its own DNS name, which stands for all members.
    pub host: String,
    /// The DNS name of its primary, which moves with the role; the service's own where the engine leads itself.
    pub primary: String,
    /// Its members, in order of ordinals.
    pub members: Vec<Peer>,
    /// Its options, defaults filled in.
    pub options: BTreeMap<String, Value>,
    /// Its secrets, in the clear.
    pub secrets: BTreeMap<String, String>,
}

impl std::fmt::Debug for ConnectContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectContext").field("service", &self.service).finish_non_exhaustive()
    }
}

impl Definition {
    /// How clients reach a service of this blueprint. The hosts are those of its members.
    ///
    /// # Errors
    /// `Invalid` if a template of the blueprint cannot be rendered.
    pub fn connect(&self, context: &ConnectContext) -> Result<ConnectView> {
        let values = minijinja::Value::from(minijinja::value::Serde(names(self, context)));
        let render = |template: &str, subject: &str| {
            self.templates()
                .render(template, &values)
                .map_err(|error| self.invalid("connect", subject, error.message))
        };
        let client = &self.format().client;
        let mut env = BTreeMap::new();
        for (name, template) in &client.env {
            env.insert(name.clone(), render(template, "client.env")?);
        }
        Ok(ConnectView {
            uri: render(&client.uri, "client.uri")?,
            env,
            client: client
                .argv
                .iter()
                .map(|argument| render(argument, "client.argv"))
                .collect::<Result<_>>()?,
            hosts: context
                .members
                .iter()
                .filter_map(|member| member.address.map(|address| (member.host.clone(), address)))
                .collect(),
        })
    }
}

/// What the templates of `[client]` may name.
pub(crate) fn names(definition: &Definition, context: &ConnectContext) -> Map<String, Value> {
    let format = definition.format();
    let options: Map<String, Value> = format
        .options
        .iter()
        .map(|(name, option)| {
            let value = context.options.get(name).unwrap_or(&option.default);
            (name.clone(), option.plain(value))
        })
        .collect();
    let programs: Map<String, Value> = format
        .programs
        .values()
        .flat_map(BTreeMap::keys)
        .map(|name| {
            let paths = definition.program_paths(name).unwrap_or_default();
            let path = paths.iter().find(|path| path.exists()).or(paths.first()).cloned();
            (name.clone(), json!(path.unwrap_or_else(|| name.into())))
        })
        .collect();
    let ports: Map<String, Value> =
        format.ports.iter().map(|port| (port.name.clone(), json!(port.port))).collect();
    Map::from_iter([
        ("service".to_owned(), json!(context.service)),
        ("host".to_owned(), json!(context.host)),
        ("primary".to_owned(), json!(context.primary)),
        ("members".to_owned(), context.members.iter().map(peer).collect::<Vec<_>>().into()),
        ("options".to_owned(), options.into()),
        ("ports".to_owned(), ports.into()),
        ("secrets".to_owned(), json!(context.secrets)),
        ("version".to_owned(), json!(definition.version())),
        ("bin".to_owned(), programs.into()),
    ])
}
