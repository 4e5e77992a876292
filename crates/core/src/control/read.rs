//! Reading: views of services, members, nodes, operations and events.

use std::sync::Arc;

use super::change::{no_node, no_service};
use super::{Control, ControlError, ControlResult, EventView, MemberView, NodeView, ServiceView};
use crate::controller::{NodeTable, SeenNode, Snapshot};
use crate::ids::{MemberName, NodeName, OperationId, ServiceId, ServiceName};
use crate::metadata::Versioned;
use crate::model::{Event, Member, MemberPhase, MemberStatus, Operation, Role};
use crate::plan::{MemberFacts, plan};
use crate::runtime::Moment;

impl Control {
    /// Services by name, after `after`, at most `limit`. Deleted ones are left out.
    ///
    /// # Errors
    /// What the store says.
    pub async fn services(&self, after: Option<&str>, limit: usize) -> ControlResult<Vec<ServiceView>> {
        let snapshots = self.controller.observer().glances(after, limit).await?;
        Ok(snapshots.iter().map(|snapshot| self.service_view(snapshot)).collect())
    }

    /// A service. A deleted one is shown too, with the volumes it has left.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn service(&self, name: &ServiceName) -> ControlResult<ServiceView> {
        match self.controller.observer().glance(name).await? {
            Some(snapshot) => Ok(self.service_view(&snapshot)),
            None => Err(no_service(name)),
        }
    }

    /// Every node.
    pub fn nodes(&self) -> Vec<NodeView> {
        let table = self.controller.observer().nodes();
        let now = self.env.clock().monotonic();
        table.nodes.iter().map(|(name, node)| node_view(name, node, now)).collect()
    }

    /// A node.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn node(&self, name: &NodeName) -> ControlResult<NodeView> {
        let table = self.controller.observer().nodes();
        let now = self.env.clock().monotonic();
        table.nodes.get(name).map(|node| node_view(name, node, now)).ok_or_else(|| no_node(name))
    }

    /// Operations, newest last.
    ///
    /// # Errors
    /// What the store says.
    pub async fn operations(&self, service: Option<&ServiceName>) -> ControlResult<Vec<Operation>> {
        let mut all: Vec<Operation> = self
            .store
            .operations()
            .await?
            .into_iter()
            .map(|found| found.body)
            .filter(|operation| service.is_none_or(|service| &operation.service == service))
            .collect();
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(all)
    }

    /// An operation.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn operation(&self, id: &OperationId) -> ControlResult<Operation> {
        Ok(Operation::clone(&self.stored_operation(id).await?.body))
    }

    /// Events of a service and its members (or of all services), oldest first, the newest `limit` of them. Those
    /// of one service or member reach back into the archive.
    ///
    /// # Errors
    /// `NotFound` for a service that never was.
    pub async fn events(
        &self,
        service: Option<&ServiceName>,
        member: Option<&MemberName>,
        limit: usize,
    ) -> ControlResult<Vec<EventView>> {
        let services = match service {
            Some(name) => vec![self.store.service(name).await?.ok_or_else(|| no_service(name))?.body],
            None => self.store.services().await?.into_iter().map(|found| Arc::new(found.body)).collect(),
        };
        let mut events = Vec::new();
        for found in services {
            let name = found.name.clone();
            if service.is_some() {
                let archived = self.archived_events(&found.id, member).await?;
                events.extend(archived.into_iter().map(|event| EventView { service: name.clone(), event }));
            }
            if member.is_none() {
                events.extend(
                    found.events.iter().cloned().map(|event| EventView { service: name.clone(), event }),
                );
            }
            for record in self.store.members(&name).await? {
                if member.is_none_or(|member| member == &record.body.name) {
                    let of_member = record.body.events.iter().cloned();
                    events.extend(of_member.map(|event| EventView { service: name.clone(), event }));
                }
            }
        }
        events.sort_by_key(|view| (view.event.at, view.event.seq));
        // An archived event is still in its record until the record gives it up.
        events.dedup_by(|a, b| a.event == b.event);
        let surplus = events.len().saturating_sub(limit);
        Ok(events.split_off(surplus))
    }

    async fn archived_events(
        &self,
        service: &ServiceId,
        member: Option<&MemberName>,
    ) -> ControlResult<Vec<Event>> {
        let mut under = vec!["events", service.as_str()];
        under.extend(member.map(MemberName::as_str));
        let records = self.store.records();
        let chunks: Vec<(_, Versioned<Vec<Event>>)> = records.list(&records.key(under)?).await?;
        Ok(chunks.into_iter().flat_map(|(_, chunk)| chunk.body).collect())
    }

    /// The record of a member, whatever its service.
    pub(super) async fn find_member(&self, name: &MemberName) -> ControlResult<Arc<Member>> {
        // The service is a prefix of the name; the ordinal, and perhaps a group, follow.
        let mut rest = name.as_str();
        while let Some((head, _)) = rest.rsplit_once('-') {
            if let Ok(service) = head.parse::<ServiceName>()
                && let Some(found) = self.store.member(&service, name).await?
            {
                return Ok(found.body);
            }
            rest = head;
        }
        Err(ControlError::NotFound {
            kind: "member",
            name: name.to_string(),
            remedy: "list the services: steadfast list".to_owned(),
        })
    }

    pub(super) fn service_view(&self, snapshot: &Snapshot) -> ServiceView {
        let facts = &snapshot.facts;
        let service = &facts.service;
        let verdict = plan(facts).verdict;
        let table = &snapshot.sight.table;
        let now = self.env.clock().monotonic();
        let members: Vec<MemberView> = service
            .member_names()
            .filter_map(|(_, _, name)| Some(self.member_view(facts.members.get(&name)?, table, now)))
            .collect();
        let role = facts.groups().find_map(|group| group.role.cloned());
        let primary = members.iter().find(|member| member.role == Role::Primary && member.ready);
        let serving = members.iter().filter(|member| member.ready && member.role != Role::Learner).count();
        let blueprint = &facts.revision.blueprint;
        ServiceView {
            name: service.name.clone(),
            blueprint: format!("{}@{}", blueprint.name, blueprint.version),
            index: snapshot.service_version.as_str().to_owned(),
            revision: service.revision,
            desired: service.desired,
            state: verdict.state,
            replicas: service.groups.values().map(|group| group.replicas).sum(),
            serving: u32::try_from(serving).unwrap_or(u32::MAX),
            primary: primary.map(|member| member.name.clone()),
            role_term: role.map(|role| role.term),
            names: facts.names_of_interest().into_iter().map(|(name, _)| name.to_string()).collect(),
            conditions: verdict.conditions,
            // Those that members left behind which the service no longer has, too.
            volumes: facts
                .members
                .values()
                .filter(|member| member.record.service_id == service.id)
                .flat_map(|member| member.record.volumes.iter().filter_map(|binding| binding.id.clone()))
                .collect(),
            members,
            operation: service.operation.clone(),
            spec: facts.revision.spec.clone(),
        }
    }

    fn member_view(&self, member: &MemberFacts, table: &NodeTable, now: Moment) -> MemberView {
        let record = &member.record;
        let node =
            record.placed_on.clone().or_else(|| record.holder.as_ref().map(|holder| holder.node.clone()));
        let seen = node.as_ref().and_then(|node| table.nodes.get(node));
        let status = member.status.as_ref();
        let said = |pick: fn(&MemberStatus) -> MemberPhase| status.map(pick);
        let active =
            matches!(record.phase, MemberPhase::Prepared | MemberPhase::Starting | MemberPhase::Serving);
        MemberView {
            name: record.name.clone(),
            group: record.group.clone(),
            ordinal: record.ordinal,
            host: self
                .controller
                .observer()
                .backends()
                .zone
                .child(&record.name)
                .map(|host| host.to_string())
                .unwrap_or_default(),
            address: record.address.as_ref().map(|binding| binding.address),
            phase: if active { said(|status| status.phase).unwrap_or(record.phase) } else { record.phase },
            role: status.map_or(Role::Unknown, |status| status.role),
            zone: seen.map(|node| node.report.zone.clone()),
            epoch: record.epoch,
            incarnation: status.and_then(|status| status.incarnation.clone()),
            ready: member.is_ready(),
            position: status.and_then(|status| status.position),
            lag: status.and_then(|status| status.lag),
            restarts: status.map_or(0, |status| status.restarts),
            unreleased: record
                .unreleased
                .iter()
                .filter(|holder| record.holder.as_ref() != Some(*holder))
                .cloned()
                .collect(),
            blocked: status.and_then(|status| status.blocked.clone()),
            observed_ms_ago: node.as_ref().and_then(|node| table.age(node, now)),
            // Nothing is to be heard of what nobody may hold any more.
            stale: status.is_none() && !record.unreleased.is_empty(),
            volumes: record.volumes.iter().filter_map(|binding| binding.id.clone()).collect(),
            node,
        }
    }
}

fn node_view(name: &NodeName, node: &SeenNode, now: Moment) -> NodeView {
    NodeView {
        name: name.clone(),
        zone: node.report.zone.clone(),
        health: node.health.clone(),
        stalled: node.stall.as_ref().map(|stall| stall.why.clone()),
        incarnation: node.report.incarnation.clone(),
        members: node
            .status
            .as_ref()
            .map(|status| status.members.keys().cloned().collect())
            .unwrap_or_default(),
        engines: node.report.engines.clone(),
        observed_ms_ago: node.age(now),
    }
}
