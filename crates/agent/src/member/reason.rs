//! Why something failed, as users are told it.

use steadfast_core::error::{Error, ErrorKind};
use steadfast_core::model::Reason;

/// The code for an error: its own, if its message begins with one, as the engines' do.
pub(super) fn reason_of(error: &Error) -> Reason {
    let code = error.message().split_once(": ").map(|(code, _)| code);
    let own = code.and_then(|code| Reason::ALL.iter().find(|reason| reason.as_str() == code).cloned());
    own.or_else(|| disk_reason(error)).unwrap_or_else(|| match error.kind() {
        ErrorKind::Throttled => Reason::Throttled,
        ErrorKind::Denied => Reason::PermissionDenied,
        ErrorKind::QuotaExceeded => Reason::QuotaReached,
        ErrorKind::Unsupported => Reason::CapabilityMissing,
        ErrorKind::Invalid => Reason::ConfigInvalid,
        ErrorKind::Busy => Reason::VolumeBusy,
        ErrorKind::Internal => Reason::Internal,
        _ if error.backend() == "guards" || error.backend() == "agent" => Reason::EngineUnhealthy,
        _ => Reason::StoreUnavailable,
    })
}

/// The code of a disk that is full or read-only, if that is at the bottom of the error.
fn disk_reason(error: &Error) -> Option<Reason> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            let reason = crate::disk::reason_of(io);
            return [Reason::DiskFull, Reason::DiskReadOnly].contains(&reason).then_some(reason);
        }
        source = cause.source();
    }
    None
}
