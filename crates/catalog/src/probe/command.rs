//! A command that ends with 0 while the engine is healthy.

use std::time::Duration;

use steadfast_core::engine::EngineView;
use steadfast_core::model::Reason;

use crate::engine::EngineHost;
use crate::engine::command::{Failure, Invocation, run};

pub(super) async fn observe(host: &EngineHost, argv: Vec<String>, timeout: Duration) -> EngineView {
    let invocation = Invocation { argv, user: host.user, timeout, ..Invocation::default() };
    match run(&host.environment, invocation).await {
        Ok(_) => EngineView { alive: true, ready: true, ..EngineView::default() },
        Err(Failure::TimedOut) => EngineView::default(),
        Err(failure @ Failure::Missing(_)) => EngineView {
            problem: Some((Reason::EngineMissing, failure.to_string())),
            ..EngineView::default()
        },
        Err(failure) => EngineView {
            problem: Some((Reason::EngineUnhealthy, failure.to_string())),
            ..EngineView::default()
        },
    }
}
