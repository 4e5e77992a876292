//! The managers of a Docker Swarm as their API tells of them: services with versions, and a task for each, which begins
//! and ends on its node. After `docs/swarm` of Docker's API 1.41 and what engines of 20.10 answer.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};
use steadfast_sim::cast::Model;
use steadfast_sim::model::Truth;
use steadfast_sim::time::Time;
use steadfast_sim::wire::Respond;

/// How long a task takes to run.
const START: Duration = Duration::from_millis(700);

/// A service: what it shall be, and the tasks that came of it.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    id: String,
    /// Grows with every change of anything in the swarm.
    version: u64,
    /// How often it was changed.
    pub(crate) changes: u32,
    pub(crate) spec: Value,
    pub(crate) tasks: Vec<Task>,
}

/// A task of a service.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    id: String,
    pub(crate) node: String,
    spec: Value,
    state: &'static str,
    /// When it runs.
    runs_at: Option<Time>,
}

impl Task {
    pub(crate) fn lives(&self) -> bool {
        matches!(self.state, "preparing" | "running")
    }
}

/// What goes wrong in the swarm by itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Troubles {
    /// When the container of a service's task ends.
    pub(crate) ends: Vec<(Time, &'static str)>,
    /// From when until when this manager is none.
    pub(crate) deposed: Option<(Time, Time)>,
}

/// The swarm.
#[derive(Debug)]
pub(crate) struct Dockerd {
    nodes: u32,
    troubles: Troubles,
    made: u64,
    pub(crate) services: BTreeMap<String, Service>,
}

impl Dockerd {
    /// A swarm of `node-1`, `node-2`…
    pub(crate) fn new(nodes: u32, troubles: Troubles) -> Self {
        Dockerd { nodes, troubles, made: 0, services: BTreeMap::new() }
    }

    /// The swarm's identifier of a node: never its name.
    pub(crate) fn id_of(node: &str) -> String {
        format!("id-of-{node}")
    }

    fn next(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// Makes the task of a service whose template has changed. Whoever runs before goes on until it runs.
    fn make_task(&mut self, now: Time, name: &str) {
        let number = self.next();
        let Some(service) = self.services.get_mut(name) else { return };
        let template = service.spec["TaskTemplate"].clone();
        let constraint = template["Placement"]["Constraints"][0].as_str().unwrap_or_default();
        let node = constraint.strip_prefix("node.id==").unwrap_or_default().to_owned();
        let runs_at = Some(now.plus(START));
        service.tasks.push(Task {
            id: format!("task{number}"),
            node,
            spec: template,
            state: "preparing",
            runs_at,
        });
    }

    fn create(&mut self, now: Time, spec: Value) -> Response<Bytes> {
        let name = spec["Name"].as_str().unwrap_or_default().to_owned();
        if self.services.contains_key(&name) {
            return refused(StatusCode::CONFLICT, "rpc error: name conflicts with an existing object");
        }
        let number = self.next();
        let id = format!("service{number}");
        let service = Service { id: id.clone(), version: number, changes: 0, spec, tasks: Vec::new() };
        self.services.insert(name.clone(), service);
        self.make_task(now, &name);
        answer(StatusCode::CREATED, &json!({ "ID": id }))
    }

    fn update(&mut self, now: Time, id: &str, version: u64, spec: Value) -> Response<Bytes> {
        let number = self.next();
        let Some((name, service)) = self.services.iter_mut().find(|(_, service)| service.id == id) else {
            return refused(StatusCode::NOT_FOUND, "service not found");
        };
        if service.version != version {
            let text = "rpc error: code = Unknown desc = update out of sequence";
            return refused(StatusCode::INTERNAL_SERVER_ERROR, text);
        }
        let differs = service.spec["TaskTemplate"] != spec["TaskTemplate"];
        (service.version, service.spec) = (number, spec);
        service.changes += 1;
        let name = name.clone();
        if differs {
            self.make_task(now, &name);
        }
        answer(StatusCode::OK, &json!({ "Warnings": null }))
    }

    fn nodes(&self) -> Value {
        let node = |number| {
            let name = format!("node-{number}");
            json!({
                "ID": Dockerd::id_of(&name),
                "Description": { "Hostname": name },
                "Status": { "State": "ready" },
            })
        };
        (1..=self.nodes).map(node).collect()
    }

    fn found(&self, request: &Request<Bytes>, path: &[&str]) -> Response<Bytes> {
        let filter = |kind: &str| filter(request, kind);
        let labelled = |spec: &Value| {
            filter("label").is_none_or(|label| {
                let (key, value) = label.split_once('=').unwrap_or_default();
                spec["Labels"][key] == value
            })
        };
        let services = self.services.iter().filter(|(_, service)| labelled(&service.spec));
        match path {
            ["version"] => answer(StatusCode::OK, &json!({ "ApiVersion": "1.41", "MinAPIVersion": "1.12" })),
            ["nodes"] => answer(StatusCode::OK, &self.nodes()),
            ["services"] => answer(StatusCode::OK, &services.map(|(_, service)| told(service)).collect()),
            ["services", name] => match self.services.get(*name) {
                Some(service) => answer(StatusCode::OK, &told(service)),
                None => refused(StatusCode::NOT_FOUND, "service not found"),
            },
            ["tasks"] => {
                let named = |name: &str| filter("service").is_none_or(|wanted| wanted == name);
                let tasks = services.filter(|(name, _)| named(name)).flat_map(|(_, service)| &service.tasks);
                answer(StatusCode::OK, &tasks.map(told_of_task).collect())
            }
            _ => refused(StatusCode::NOT_FOUND, "page not found"),
        }
    }
}

fn told(service: &Service) -> Value {
    json!({ "ID": service.id, "Version": { "Index": service.version }, "Spec": service.spec })
}

fn told_of_task(task: &Task) -> Value {
    json!({ "ID": task.id, "NodeID": task.node, "Spec": task.spec, "Status": { "State": task.state } })
}

fn answer(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    response
}

fn refused(status: StatusCode, message: &str) -> Response<Bytes> {
    answer(status, &json!({ "message": message }))
}

fn query<'a>(request: &'a Request<Bytes>, key: &str) -> Option<&'a str> {
    let pairs = request.uri().query()?.split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key).map(|(_, value)| value)
}

/// The value of a filter: `filters={"label":["a=b"]}`.
fn filter(request: &Request<Bytes>, kind: &str) -> Option<String> {
    let filters = url_decoded(query(request, "filters")?);
    let filters: Value = serde_json::from_str(&filters).ok()?;
    filters[kind][0].as_str().map(str::to_owned)
}

fn url_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit =
            |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).unwrap_or_default();
        bytes.push(match byte {
            b'%' => (digit(rest.next()) * 16 + digit(rest.next())) as u8,
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap_or_default()
}

impl Model for Dockerd {
    fn next_due(&self) -> Option<Time> {
        let tasks = self.services.values().flat_map(|service| &service.tasks);
        let starts = tasks.filter_map(|task| task.runs_at);
        starts.chain(self.troubles.ends.iter().map(|(at, _)| *at)).min()
    }

    fn advance(&mut self, now: Time, _: &mut Truth) {
        for service in self.services.values_mut() {
            let due = |task: &Task| task.runs_at.is_some_and(|at| at <= now);
            let Some(first) = service.tasks.iter().position(due) else { continue };
            service.tasks[first].runs_at = None;
            // The last one that was made is the one that goes on: `start-first`.
            let last = service.tasks.len() - 1;
            for (index, task) in service.tasks.iter_mut().enumerate().filter(|(_, task)| task.lives()) {
                match (index == first, index < last) {
                    (true, false) => task.state = "running",
                    (_, true) => (task.state, task.runs_at) = ("shutdown", None),
                    (false, false) => {}
                }
            }
        }
        let (ended, later) = self.troubles.ends.drain(..).partition(|(at, _)| *at <= now);
        self.troubles.ends = later;
        let ended: Vec<(Time, &str)> = ended;
        for (_, name) in ended {
            let tasks = self.services.get_mut(name).into_iter().flat_map(|service| &mut service.tasks);
            for task in tasks.filter(|task| task.lives()) {
                (task.state, task.runs_at) = ("failed", None);
            }
        }
    }
}

impl Respond for Dockerd {
    fn respond(&mut self, now: Time, request: &Request<Bytes>) -> Response<Bytes> {
        let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
        let path = match &path[..] {
            [version, rest @ ..] if version.starts_with("v1.") => rest,
            path => path,
        };
        if path != ["version"] && self.troubles.deposed.is_some_and(|(from, to)| from <= now && now < to) {
            let text = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state.";
            return refused(StatusCode::SERVICE_UNAVAILABLE, text);
        }
        let spec = || serde_json::from_slice(request.body()).unwrap_or_default();
        match (request.method(), path) {
            (&Method::GET, path) => self.found(request, path),
            (&Method::POST, ["services", "create"]) => self.create(now, spec()),
            (&Method::POST, ["services", id, "update"]) => {
                let version = query(request, "version").and_then(|version| version.parse().ok());
                self.update(now, id, version.unwrap_or_default(), spec())
            }
            (&Method::DELETE, ["services", name]) => match self.services.remove(*name) {
                Some(_) => answer(StatusCode::OK, &Value::Null),
                None => refused(StatusCode::NOT_FOUND, "service not found"),
            },
            _ => refused(StatusCode::NOT_FOUND, "page not found"),
        }
    }
}
