//! Why: one answer to "what is the matter with this member?", from what was seen.

use super::change::no_service;
use super::{Control, ControlResult, Why, WhyLine};
use crate::ids::MemberName;
use crate::model::{Desired, NodeHealth, Reason};
use crate::plan::{Facts, MemberFacts, plan};

impl Control {
    /// Why a member is as it is.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn why(&self, name: &MemberName) -> ControlResult<Why> {
        let record = self.find_member(name).await?;
        let Some(snapshot) = self.controller.observer().glance(&record.service).await? else {
            return Err(no_service(&record.service));
        };
        let facts = &snapshot.facts;
        let Some(member) = facts.members.get(name) else { return Err(no_service(&record.service)) };
        let waits = plan(facts).waits;
        let mut lines = Vec::new();
        let mut next_action = None;
        // First: with a store that takes no writes, the rest is what it looks like from there.
        if let Some(trouble) = self.controller.shards().store_trouble() {
            lines.push(WhyLine { reason: Some(Reason::StoreUnavailable), text: trouble });
            next_action =
                Some("let the store take writes again; what waits for it goes on by itself".to_owned());
        }
        let trouble = facts.service.trouble.as_ref().map(|trouble| &trouble.message);
        for wait in waits.iter().filter(|wait| Some(&wait.message) == trouble) {
            lines.push(WhyLine { reason: Some(wait.reason.clone()), text: wait.message.clone() });
        }
        let blocked = member.status.as_ref().and_then(|status| status.blocked.clone());
        if let Some((reason, message)) = &blocked {
            lines.push(WhyLine { reason: Some(reason.clone()), text: message.clone() });
            next_action = next_action.or_else(|| Some(remedy(reason, message, name)));
        }
        let others = waits.iter().filter(|wait| Some(&wait.message) != trouble);
        for wait in others.filter(|wait| wait.message.contains(name.as_str()) || blocked.is_none()) {
            lines.push(WhyLine { reason: Some(wait.reason.clone()), text: wait.message.clone() });
            next_action = next_action.or_else(|| wait.next_action.clone());
        }
        lines.extend(node_lines(facts, member));
        for holder in
            member.record.unreleased.iter().filter(|holder| member.record.holder.as_ref() != Some(*holder))
        {
            lines.push(WhyLine {
                reason: Some(Reason::FenceUnproven),
                text: format!("earlier holder {holder} is not proven unable to write"),
            });
        }
        let events: Vec<_> = member.record.events.iter().rev().take(5).cloned().collect();
        for event in events.into_iter().rev() {
            lines.push(WhyLine {
                reason: Some(event.reason),
                text: format!("{} (epoch {}) {}", event.at, event.epoch.unwrap_or_default(), event.message),
            });
        }
        Ok(Why {
            member: name.clone(),
            summary: summary(facts, member, blocked.as_ref()),
            lines,
            next_action,
        })
    }
}

fn summary(facts: &Facts, member: &MemberFacts, blocked: Option<&(Reason, String)>) -> String {
    let record = &member.record;
    let node = record.placed_on.as_ref().map_or_else(|| "no node".to_owned(), ToString::to_string);
    let name = &record.name;
    match (&member.status, blocked) {
        (Some(status), _) if status.ready => {
            format!("{name} serves as {} on {node} (epoch {})", status.role, record.epoch)
        }
        (_, Some((reason, message))) => format!("{name} is {} on {node}: {reason}: {message}", record.phase),
        (Some(status), None) => format!("{name} is {} on {node}", status.phase),
        (None, None) if facts.service.desired != Desired::Running => {
            format!("{name} is {}, as the service is wanted {:?}", record.phase, facts.service.desired)
        }
        (None, None) => {
            format!("{name} was last recorded as {} on {node}; nothing fresh is known", record.phase)
        }
    }
}

fn node_lines(facts: &Facts, member: &MemberFacts) -> Vec<WhyLine> {
    let Some(node) = &member.record.placed_on else {
        return vec![WhyLine { reason: None, text: "it is placed on no node".to_owned() }];
    };
    let text = match facts.nodes.get(node).map(|node| &node.health) {
        Some(NodeHealth::Ready) => format!("{node} is ready"),
        Some(NodeHealth::Draining) => format!("{node} is being drained"),
        Some(NodeHealth::Suspect) => format!("{node} has fallen silent; nothing is proven"),
        Some(NodeHealth::Dead(evidence)) => format!("{node} is dead by {evidence}"),
        Some(NodeHealth::Unknown) => format!("nothing is known of {node}"),
        None => format!("{node} is not known to the orchestrator"),
    };
    let mut lines = vec![WhyLine { reason: None, text }];
    if let Some(stall) = facts.nodes.get(node).and_then(|node| node.stall.as_ref()) {
        let text = format!(
            "{node} starts nothing: {}. What runs there goes on; what ends there moves if that lasts for {} s",
            stall.why,
            facts.timers.stall_patience.as_secs()
        );
        lines.push(WhyLine { reason: Some(Reason::OrchestratorUnavailable), text });
    }
    lines
}

const CONFIRM_DEAD: &str = "steadfast node confirm-dead ";

/// The command that resolves what a person must resolve, or shows more of what resolves itself.
fn remedy(reason: &Reason, message: &str, name: &MemberName) -> String {
    match reason {
        // It says itself which.
        Reason::VolumeBusy | Reason::AddressHeldElsewhere
            if let Some((_, node)) = message.rsplit_once(CONFIRM_DEAD) =>
        {
            format!("{CONFIRM_DEAD}{node}")
        }
        Reason::EngineMissing => "install the engine on the node, or add a node that has it".to_owned(),
        Reason::DiskFull => {
            "free space on the volume's file system; the engine starts again by itself".to_owned()
        }
        Reason::DiskReadOnly | Reason::IoError => "look at the node's kernel log and its disk".to_owned(),
        Reason::PortInUse => "stop what listens on the member's address and port".to_owned(),
        _ => format!("steadfast logs {name} --tail 50"),
    }
}
