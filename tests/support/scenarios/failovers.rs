//! A primary that stays away: who takes over, and who does not.

use nix::sys::signal::Signal;
use steadfast_core::model::{Reason, Role};

use super::crashes::Broken;
use super::{SERVICE, Stage};
use crate::support::cluster::Cluster;
use crate::support::engine::Engine;
use crate::support::{process, until};

/// Breaks a member's data and kills its engine: it stays away until what is given back is dropped.
fn keep_away(stage: &Stage, member: &str) -> Broken {
    let engine = stage.cluster.guard(member).engine();
    let broken = Broken::of(stage, member);
    process::signal(engine, Signal::SIGKILL);
    broken
}

pub fn a_primary_that_stays_away_is_replaced_once_nothing_can_be_lost(engine: &'static Engine) {
    let stage = Stage::on(Cluster::start(), engine, &["--promote-after", "2s"]);
    let old = stage.cluster.leader(SERVICE);
    let broken = keep_away(&stage, old.name.as_str());
    let new = until("another member leads", || match stage.cluster.service(SERVICE).primary {
        Some(primary) if primary != old.name => Ok(primary),
        other => Err(format!("{other:?}")),
    });
    stage.writer.goes_on();
    drop(broken);
    stage.cluster.settled(&stage.identity);
    let view = stage.cluster.service(SERVICE);
    assert_eq!(view.primary, Some(new), "who took over goes on");
    assert!(view.role_term.unwrap() > steadfast_core::ids::RoleTerm(1), "{view:?}");
    stage.end();
}

pub fn nobody_is_promoted_while_it_is_not_proven_that_nothing_is_lost(engine: &'static Engine) {
    let stage = Stage::on(Cluster::start(), engine, &["--promote-after", "2s"]);
    let primary = stage.cluster.leader(SERVICE);
    let follower = stage.follower();
    let away = keep_away(&stage, follower.name.as_str());
    until("the replica is away", || match stage.cluster.guards(follower.name.as_str()).as_slice() {
        [] => Ok(()),
        others => Err(format!("{others:?}")),
    });
    let broken = keep_away(&stage, primary.name.as_str());
    until("users are shown that nothing is proven", || {
        let view = stage.cluster.service(SERVICE);
        let shown = view.conditions.iter().any(|found| found.reason == Some(Reason::DurabilityUnproven));
        if shown { Ok(()) } else { Err(format!("{:?}", view.conditions)) }
    });
    let view = stage.cluster.service(SERVICE);
    assert_eq!(view.primary, None, "{view:?}");
    assert!(view.members.iter().all(|member| member.role != Role::Primary), "{view:?}");
    drop(broken);
    stage.writer.goes_on();
    drop(away);
    // It takes writes before it is recorded that it does.
    until("the old primary, which has every write, leads again", || {
        let view = stage.cluster.service(SERVICE);
        if view.primary.as_ref() == Some(&primary.name) { Ok(()) } else { Err(format!("{view:?}")) }
    });
    assert_eq!(stage.cluster.count_events(SERVICE, &Reason::Promoted), 0, "nobody took over");
    stage.end();
}
