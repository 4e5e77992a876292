//! `steadfast store`: what a store elsewhere needs before servers use it.

use clap::Subcommand;

use crate::daemon::serve::CreateStore;
use crate::exit::{Exit, Result};
use crate::output;

/// What can be done about a store.
#[derive(Debug, Subcommand)]
pub(super) enum StoreVerb {
    /// Make the table in DynamoDB; one that is there is checked, one that was left half-made is finished
    Create(CreateStore),
}

pub(super) async fn run(verb: &StoreVerb) -> Result<Exit> {
    let StoreVerb::Create(wanted) = verb;
    output::line(&crate::daemon::serve::create_store(wanted).await?)?;
    Ok(Exit::Done)
}
