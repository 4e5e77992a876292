//! Following what changes, for as long as the user wants and whatever becomes of the servers.

use std::time::Duration;

use steadfast_api::client::Client;

use super::Global;
use super::wait::Changes;
use crate::exit::Result;
use crate::output::note;

/// The pause before servers that were silent are asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// A reader who goes on with another server when the one that answered is gone.
pub(super) struct Following<'a> {
    global: &'a Global,
    client: Client,
    changes: Changes,
    /// The server that has answered last.
    server: Option<String>,
}

impl<'a> Following<'a> {
    /// Begins with whichever server answers.
    pub(super) async fn begin(global: &'a Global) -> Result<Self> {
        let client = global.client()?;
        let changes = Changes::listen(&client).await;
        Ok(Following { global, client, changes, server: None })
    }

    /// Reads, however long it takes until a server answers once one has: what a server refuses is a failure, its
    /// silence is not. Says when the servers fall silent, and when another one has taken over.
    pub(super) async fn read<T>(&mut self, read: impl AsyncFn(&Client) -> Result<T>) -> Result<T> {
        let mut told = false;
        loop {
            match read(&self.client).await {
                Ok(found) => {
                    let server = self.client.server().to_owned();
                    let before = self.server.replace(server.clone());
                    if told || before.is_some_and(|before| before != server) {
                        note(&format!("connected again, to {server}"));
                    }
                    return Ok(found);
                }
                Err(failure) if failure.is_silence && self.server.is_some() => {
                    if !told {
                        note(&format!("{}; still trying", failure.message));
                        told = true;
                    }
                    tokio::time::sleep(PAUSE).await;
                    self.connect().await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Waits until something may have changed.
    pub(super) async fn change(&mut self) {
        self.changes.next(&self.client).await;
    }

    /// Looks for the servers anew: one that was started again may be somewhere else.
    async fn connect(&mut self) {
        // Where nothing is found, the servers of before are asked again.
        if let Ok(client) = self.global.client() {
            self.client = client;
            self.changes = Changes::listen(&self.client).await;
        }
    }
}
