//! Ends waiting for an answer.

use std::time::Duration;

use super::{Access, Call, Layer};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::Environment;

/// Gives up an attempt after a time: `Unavailable`. A write that was given up may have happened, or may yet.
#[derive(Debug)]
pub struct Timeout {
    limit: Duration,
    environment: Environment,
}

impl Timeout {
    /// Waits at most `limit`.
    pub fn new(limit: Duration, environment: Environment) -> Self {
        Timeout { limit, environment }
    }
}

impl Layer for Timeout {
    async fn call<'a, T, F, A>(&'a self, call: Call<'a>, attempt: F) -> Result<T>
    where
        T: Send + 'a,
        F: Fn() -> A + Copy + Send + Sync + 'a,
        A: Future<Output = Result<T>> + Send + 'a,
    {
        if let Some(result) = self.environment.timeout(self.limit, attempt()).await {
            return result;
        }
        let message = format!("no answer within {:?}", self.limit);
        let error = Error::new(ErrorKind::Unavailable, call.backend, call.operation, call.subject, message);
        Err(match call.access {
            Access::Read => error.without_effect(),
            Access::Write => error,
        })
    }
}
