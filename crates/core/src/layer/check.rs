//! Refuses what the backend has declared it cannot do, before it is asked.

use super::{Call, Layer, Needs};
use crate::error::{Error, ErrorKind, Result};

/// What a backend's declared capabilities leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest value, in bytes.
    pub max_value_bytes: usize,
    /// Whether SRV records are kept.
    pub service_records: bool,
    /// Whether volumes can be made larger.
    pub growth: bool,
}

impl Limits {
    /// Nothing is left out.
    pub const NONE: Limits = Limits { max_value_bytes: usize::MAX, service_records: true, growth: true };
}

/// Refuses, with no effect, what is beyond the limits: so no backend can drop it silently.
#[derive(Debug)]
pub struct CapabilityCheck {
    limits: Limits,
}

impl CapabilityCheck {
    /// Refuses what is beyond `limits`.
    pub fn new(limits: Limits) -> Self {
        CapabilityCheck { limits }
    }

    fn refusal(&self, needs: Needs) -> Option<(ErrorKind, String)> {
        let Limits { max_value_bytes, service_records, growth } = self.limits;
        match needs {
            Needs::ValueBytes(bytes) if bytes > max_value_bytes => Some((
                ErrorKind::Invalid,
                format!("the value has {bytes} bytes, and the most is {max_value_bytes}"),
            )),
            Needs::ServiceRecords if !service_records => {
                Some((ErrorKind::Unsupported, "it keeps no SRV records".to_owned()))
            }
            Needs::Growth if !growth => {
                Some((ErrorKind::Unsupported, "CapabilityMissing: it makes no volume larger".to_owned()))
            }
            Needs::Nothing | Needs::ValueBytes(_) | Needs::ServiceRecords | Needs::Growth => None,
        }
    }
}

impl Layer for CapabilityCheck {
    async fn call<'a, T, F, A>(&'a self, call: Call<'a>, attempt: F) -> Result<T>
    where
        T: Send + 'a,
        F: Fn() -> A + Copy + Send + Sync + 'a,
        A: Future<Output = Result<T>> + Send + 'a,
    {
        match self.refusal(call.needs) {
            Some((kind, message)) => {
                Err(Error::new(kind, call.backend, call.operation, call.subject, message).without_effect())
            }
            None => attempt().await,
        }
    }
}
