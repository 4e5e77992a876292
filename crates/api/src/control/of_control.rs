//! The shipped control plane as the router wants it.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde_json::Value;
use steadfast_core::control::{
    Blueprints, ConnectView, Control, EventView, NodeView, PlanReport, RenderedService, ServiceView, Why,
};
use steadfast_core::ids::{Incarnation, MemberName, NodeName, OperationId, ServiceName};
use steadfast_core::metadata::{Hint, Key};
use steadfast_core::model::Operation;

use super::{
    CatalogEntry, ControlApi, ControlResult, EventFilter, Guard, LogRequest, MemberSecrets, NodeSecrets,
    OperationFilter, PageRequest, SecretValue, WatchEvent,
};

/// Where the output of members is kept: not in the store, so whoever runs the server knows.
pub trait Logs: Debug + Send + Sync + 'static {
    /// A member's output, kept across moves.
    ///
    /// # Errors
    /// `NotFound` if it never had any.
    fn stream(
        &self,
        member: &MemberName,
        request: LogRequest,
    ) -> ControlResult<BoxStream<'static, std::io::Result<Bytes>>>;
}

/// [`Control`] behind the API, for users and for agents.
#[derive(Debug)]
pub struct OfControl {
    control: Control,
    blueprints: Arc<dyn Blueprints>,
    logs: Arc<dyn Logs>,
}

impl OfControl {
    /// `control`, what its catalog offers, and where output is kept.
    pub fn new(control: Control, blueprints: Arc<dyn Blueprints>, logs: Arc<dyn Logs>) -> Self {
        OfControl { control, blueprints, logs }
    }
}

#[async_trait]
impl ControlApi for OfControl {
    async fn plan(&self, spec: Value) -> ControlResult<PlanReport> {
        self.control.plan(spec).await
    }

    async fn apply(&self, spec: Value, with: Guard) -> ControlResult<Operation> {
        self.control.apply(spec, with).await
    }

    async fn services(&self, page: PageRequest) -> ControlResult<Vec<RenderedService>> {
        self.control.rendered_services(page.after.as_deref(), page.limit).await
    }

    async fn service(&self, name: &ServiceName) -> ControlResult<RenderedService> {
        self.control.rendered_service(name).await
    }

    async fn delete(&self, name: &ServiceName, with: Guard) -> ControlResult<Operation> {
        self.control.delete(name, with).await
    }

    async fn undelete(&self, name: &ServiceName, with: Guard) -> ControlResult<Operation> {
        self.control.undelete(name, with).await
    }

    async fn restart(&self, name: &ServiceName, with: Guard) -> ControlResult<Operation> {
        self.control.restart(name, with).await
    }

    async fn stop(&self, name: &ServiceName, with: Guard) -> ControlResult<Operation> {
        self.control.stop(name, with).await
    }

    async fn start(&self, name: &ServiceName, with: Guard) -> ControlResult<Operation> {
        self.control.start(name, with).await
    }

    async fn pause(&self, name: &ServiceName) -> ControlResult<ServiceView> {
        self.control.pause(name).await
    }

    async fn resume(&self, name: &ServiceName) -> ControlResult<ServiceView> {
        self.control.resume(name).await
    }

    async fn operations(&self, filter: OperationFilter, page: PageRequest) -> ControlResult<Vec<Operation>> {
        let mut found = self.control.operations(filter.service.as_ref()).await?;
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found.retain(|operation| {
            filter.state.is_none_or(|state| operation.state == state)
                && page.after.as_deref().is_none_or(|after| operation.id.as_str() > after)
        });
        found.truncate(page.limit);
        Ok(found)
    }

    async fn operation(&self, id: &OperationId) -> ControlResult<Operation> {
        self.control.operation(id).await
    }

    async fn cancel(&self, id: &OperationId) -> ControlResult<Operation> {
        self.control.cancel(id).await
    }

    async fn events(&self, filter: EventFilter) -> ControlResult<Vec<EventView>> {
        let EventFilter { service, member, after, limit } = filter;
        let mut events = self.control.events(service.as_ref(), member.as_ref(), usize::MAX).await?;
        events.retain(|view| after.is_none_or(|after| view.event.seq > after));
        Ok(events.split_off(events.len().saturating_sub(limit)))
    }

    async fn why(&self, member: &MemberName) -> ControlResult<Why> {
        self.control.why(member).await
    }

    async fn rebuild(&self, member: &MemberName, lost_disk: &NodeName) -> ControlResult<ServiceView> {
        self.control.rebuild(member, lost_disk).await
    }

    async fn connect(&self, service: &ServiceName) -> ControlResult<ConnectView> {
        self.control.connect(service).await
    }

    async fn nodes(&self) -> ControlResult<Vec<NodeView>> {
        Ok(self.control.nodes())
    }

    async fn confirm_dead(&self, node: &NodeName, incarnation: &Incarnation) -> ControlResult<NodeView> {
        self.control.confirm_dead(node, incarnation).await
    }

    async fn catalog(&self) -> ControlResult<Vec<CatalogEntry>> {
        let entry = |(blueprint, description)| CatalogEntry { blueprint, description };
        Ok(self.blueprints.list().into_iter().map(entry).collect())
    }

    async fn secrets(&self, service: &ServiceName) -> ControlResult<Vec<String>> {
        self.control.secrets(service).await
    }

    async fn secret(&self, service: &ServiceName, name: &str) -> ControlResult<SecretValue> {
        let value = self.control.secret(service, name).await?;
        Ok(SecretValue { name: name.to_owned(), value })
    }

    async fn logs(
        &self,
        member: &MemberName,
        request: LogRequest,
    ) -> ControlResult<BoxStream<'static, std::io::Result<Bytes>>> {
        self.logs.stream(member, request)
    }

    async fn watch(&self) -> ControlResult<BoxStream<'static, WatchEvent>> {
        let store = self.control.store();
        let everything = store.records().key(["services"]).and_then(|key| above(&key))?;
        let hints = store.records().db().watch(&everything).await?;
        Ok(hints.filter_map(|hint| async move { event(hint) }).boxed())
    }
}

/// The cluster's own prefix, of which `key` is a direct child.
fn above(key: &Key) -> steadfast_core::Result<Key> {
    let segments: Vec<&str> = key.segments().collect();
    Key::new(&segments[..segments.len() - 1]).map_err(|error| {
        steadfast_core::Error::new(steadfast_core::ErrorKind::Internal, "store", "watch", key, error)
            .without_effect()
    })
}

/// What users are told of a changed record. Most records are nobody's business.
fn event(hint: Hint) -> Option<WatchEvent> {
    let key = match hint {
        Hint::Reset => return Some(WatchEvent::Reset),
        Hint::Changed(key) => key,
    };
    let segments: Vec<&str> = key.segments().skip(2).collect();
    let (kind, name) = match segments.as_slice() {
        ["services", name] => ("service", *name),
        ["members", _, name] => ("member", *name),
        ["operations", id] => ("operation", *id),
        ["nodes", name, _] => ("node", *name),
        _ => return None,
    };
    Some(WatchEvent::Changed { kind: kind.to_owned(), name: name.to_owned() })
}

#[async_trait]
impl NodeSecrets for OfControl {
    async fn secrets(&self, node: &NodeName, member: &MemberName) -> ControlResult<MemberSecrets> {
        Ok(MemberSecrets { secrets: self.control.secrets_for_node(node, member).await? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_told_in_the_words_of_users() {
        let told = |key: &str| event(Hint::Changed(Key::new(key.split('/')).unwrap()));
        let changed = |kind: &str, name: &str| {
            Some(WatchEvent::Changed { kind: kind.to_owned(), name: name.to_owned() })
        };
        assert_eq!(told("steadfast/local/services/orders"), changed("service", "orders"));
        assert_eq!(told("steadfast/local/members/orders/orders-0"), changed("member", "orders-0"));
        assert_eq!(told("steadfast/local/nodes/node-1/status"), changed("node", "node-1"));
        assert_eq!(told("steadfast/local/secrets/x/password"), None);
        assert_eq!(event(Hint::Reset), Some(WatchEvent::Reset));
    }
}
