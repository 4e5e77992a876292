//! Why something failed, as users are told it.

use steadfast_core::error::{Error, ErrorKind};
use steadfast_core::model::Reason;

/// The code for an error, and what it says beside that.
pub(super) fn told_of(error: &Error) -> (Reason, String) {
    let text = Reason::of_message(error.message()).map_or(error.message(), |(_, text)| text);
    (reason_of(error), text.to_owned())
}

/// The code for an error: its own, if it has one.
fn reason_of(error: &Error) -> Reason {
    let own = Reason::of_message(error.message()).map(|(code, _)| code);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_an_error_is_told_once() {
        let told =
            |message: &str| told_of(&Error::new(ErrorKind::Busy, "addresses", "assign", "10.0.0.7", message));
        let text = "00:16:3e:00:00:01 answers for it";
        assert_eq!(
            told(&format!("AddressHeldElsewhere: {text}")),
            (Reason::AddressHeldElsewhere, text.to_owned())
        );
        assert_eq!(told("umount: target is busy"), (Reason::VolumeBusy, "umount: target is busy".to_owned()));
    }
}
