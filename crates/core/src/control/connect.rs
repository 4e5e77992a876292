//! Connecting: how clients reach a service, and its secrets.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;

use serde_json::Value;

use super::change::{internal, no_service};
use super::{ConnectView, Control, ControlError, ControlResult};
use crate::error::Result;
use crate::ids::{MemberName, NodeName, ServiceId, ServiceName};
use crate::metadata::Versioned;
use crate::model::{Blueprint, Reason};

/// What a client's address and command are made of.
#[derive(Clone)]
pub struct ConnectRequest {
    /// The service.
    pub service: ServiceName,
    /// What it has of its blueprint.
    pub blueprint: Blueprint,
    /// The blueprint with all its files.
    pub stored: Value,
    /// The options, defaults filled in.
    pub options: BTreeMap<String, Value>,
    /// Members with their full names and addresses, in order.
    pub members: Vec<(MemberName, String, IpAddr)>,
    /// The service's full name.
    pub host: String,
    /// The full name that follows the primary, if the service has one.
    pub primary: Option<String>,
    /// The secrets, in the clear.
    pub secrets: BTreeMap<String, String>,
}

impl Debug for ConnectRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectRequest").field("service", &self.service).finish_non_exhaustive()
    }
}

/// Knows each engine's clients. The `catalog` crate has the real one.
pub trait Clients: Debug + Send + Sync + 'static {
    /// How to reach a service.
    ///
    /// # Errors
    /// `Invalid` if the blueprint's template cannot be rendered.
    fn connect(&self, request: &ConnectRequest) -> Result<ConnectView>;
}

impl Control {
    /// How to reach a service, its secrets included.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn connect(&self, name: &ServiceName) -> ControlResult<ConnectView> {
        let snapshot = self.controller.observer().glance(name).await?;
        let Some(snapshot) = snapshot.filter(|snapshot| !snapshot.facts.service.deleted) else {
            return Err(no_service(name));
        };
        let facts = &snapshot.facts;
        let zone = &facts.zone;
        let full = |label: &str| {
            zone.child(label).map(|host| host.to_string()).map_err(|error| internal("connect", name, error))
        };
        let mut members = Vec::new();
        for (_, _, member) in facts.service.member_names() {
            let address = facts.members.get(&member).and_then(|found| found.record.address.as_ref());
            if let Some(binding) = address {
                members.push((member.clone(), full(member.as_str())?, binding.address));
            }
        }
        let records = self.store.records();
        let blueprint = facts.revision.blueprint.clone();
        let stored: Option<Versioned<Value>> =
            records.get(&records.key(["blueprints", &blueprint.digest])?).await?;
        let stored =
            stored.ok_or_else(|| internal("connect", name, "its blueprint is not in the store"))?.body;
        let host = full(name.as_str())?;
        let primary = (!facts.service.roles.is_empty()).then(|| format!("primary.{host}"));
        let request = ConnectRequest {
            service: name.clone(),
            blueprint,
            stored,
            options: facts.revision.options.clone(),
            members,
            host: host.clone(),
            primary: primary.clone(),
            secrets: self.open_secrets(&facts.service.id).await?,
        };
        let mut view = self.clients.connect(&request)?;
        view.hosts = request.members.iter().map(|(_, host, address)| (host.clone(), *address)).collect();
        for group in facts.groups() {
            let leader = group.role.and_then(|role| role.leader.as_ref());
            let address = leader
                .and_then(|leader| facts.members.get(leader))
                .and_then(|member| member.record.address.as_ref());
            if let (Some(primary), Some(binding)) = (&primary, address) {
                view.hosts.push((primary.clone(), binding.address));
            }
        }
        view.hosts.extend(request.members.first().map(|(_, _, address)| (host, *address)));
        Ok(view)
    }

    /// The names of a service's secrets.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn secrets(&self, name: &ServiceName) -> ControlResult<Vec<String>> {
        let service = self.live(name).await?.body;
        Ok(self.store.secrets(&service.id).await?.into_iter().map(|(name, _)| name).collect())
    }

    /// One secret of a service, in the clear.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn secret(&self, service: &ServiceName, name: &str) -> ControlResult<String> {
        let found = self.live(service).await?.body;
        let no_secret = || ControlError::NotFound {
            kind: "secret",
            name: name.to_owned(),
            remedy: format!("list them: steadfast secret list {service}"),
        };
        // A name that is no key segment cannot be a secret's.
        let sealed =
            self.store.secret(&found.id, name).await.map_err(|_| no_secret())?.ok_or_else(no_secret)?;
        Ok(self.keys.open(&found.id, name, &sealed)?)
    }

    /// The secrets of `member`'s service, for the node that holds it.
    ///
    /// # Errors
    /// `Refused` unless the member's record names `node` as its holder.
    pub async fn secrets_for_node(
        &self,
        node: &NodeName,
        member: &MemberName,
    ) -> ControlResult<BTreeMap<String, String>> {
        let found = self.find_member(member).await?;
        let holds = found.holder.as_ref().is_some_and(|holder| &holder.node == node);
        if !holds || found.placed_on.as_ref() != Some(node) {
            return Err(ControlError::Refused {
                reason: Reason::PermissionDenied,
                message: format!("{node} does not hold {member}"),
                remedy: "secrets go to the node that holds the member".to_owned(),
            });
        }
        self.open_secrets(&found.service_id).await
    }

    async fn open_secrets(&self, service: &ServiceId) -> ControlResult<BTreeMap<String, String>> {
        let mut open = BTreeMap::new();
        for (name, sealed) in self.store.secrets(service).await? {
            let plain = self.keys.open(service, &name, &sealed)?;
            open.insert(name, plain);
        }
        Ok(open)
    }
}
