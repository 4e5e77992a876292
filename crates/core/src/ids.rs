//! Names and identifiers: parsed once, at the border, and never again.
//!
//! Every identifier is a newtype without `From<String>`: the only way in is [`FromStr`](std::str::FromStr)
//! (serde goes the same way), which checks length and alphabet and answers with an [`InvalidId`] that names
//! the kind, the offending text and the rule.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that is not a valid identifier of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?} is not valid: {rule}")]
pub struct InvalidId {
    kind: &'static str,
    text: String,
    rule: &'static str,
}

impl InvalidId {
    /// The kind of identifier that was asked for, in the words users see ("service name").
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The rule that the text breaks.
    pub fn rule(&self) -> &'static str {
        self.rule
    }

    fn new(kind: &'static str, text: &str, rule: &'static str) -> Self {
        // An identifier in an error message must not flood a terminal.
        let text = text.chars().take(80).collect();
        InvalidId { kind, text, rule }
    }
}

fn is_label(text: &str, longest: usize) -> bool {
    let bytes = text.as_bytes();
    (1..=longest).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last().is_some_and(|b| *b != b'-')
}

fn is_token(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'@'))
}

fn ends_in_ordinal(text: &str) -> bool {
    text.rsplit_once('-')
        .is_some_and(|(_, tail)| !tail.is_empty() && tail.bytes().all(|b| b.is_ascii_digit()))
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok($name(text.into())) } else { Err(InvalidId::new($kind, text, $rule)) }
            }
        }

        crate::text::is_text!($name);

        #[cfg(feature = "schema")]
        crate::schema::text!($name, $rule);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

identifier!(
    /// A cluster: one DNS zone, one key prefix.
    ClusterName, "cluster name",
    "use 1 to 40 characters of a-z, 0-9 and '-', beginning with a letter, not ending with '-'",
    |text| is_label(text, 40)
);
identifier!(
    /// A service. It may not end in `-<digits>`: that is how its members are called.
    ServiceName, "service name",
    "use 1 to 40 characters of a-z, 0-9 and '-', beginning with a letter, not ending with '-' or '-<digits>' \
     (which names a member)",
    |text| is_label(text, 40) && !ends_in_ordinal(text)
);
identifier!(
    /// A group of like members within a service (`shard0`, `config`).
    GroupName, "group name",
    "use 1 to 12 characters of a-z, 0-9 and '-', beginning with a letter, not ending with '-' or '-<digits>'",
    |text| is_label(text, 12) && !ends_in_ordinal(text)
);
identifier!(
    /// A member's name, which is also its DNS label: `orders-0`, `orders-shard0-2`.
    MemberName, "member name",
    "use SERVICE-ORDINAL or SERVICE-GROUP-ORDINAL, at most 63 characters",
    |text| is_label(text, 63) && ends_in_ordinal(text)
);
identifier!(
    /// A node: a machine that runs members.
    NodeName, "node name",
    "use 1 to 63 characters of a-z, 0-9 and '-', beginning with a letter, not ending with '-'",
    |text| is_label(text, 63)
);
identifier!(
    /// A zone: nodes that may fail together.
    ZoneName, "zone name",
    "use 1 to 63 characters of a-z, 0-9 and '-', beginning with a letter, not ending with '-'",
    |text| is_label(text, 63)
);
identifier!(
    /// A volume's name within a member (`data`, `journal`).
    VolumeName, "volume name",
    "use 1 to 20 characters of a-z, 0-9 and '-', beginning with a letter, not ending with '-'",
    |text| is_label(text, 20)
);
identifier!(
    /// A blueprint's name, without its version.
    BlueprintName, "blueprint name",
    "use 1 to 40 characters of a-z, 0-9 and '-', beginning with a letter, not ending with '-'",
    |text| is_label(text, 40)
);
identifier!(
    /// One `serve` process, for as long as it lives.
    ServerId, "server id", "use 1 to 63 characters of A-Z, a-z, 0-9, '-', '_', '.', ':'",
    |text| is_token(text, 63)
);
identifier!(
    /// The immutable identity of a service: a name that is used again gets a new one.
    ServiceId, "service id", "use 1 to 63 characters of A-Z, a-z, 0-9, '-', '_', '.', ':'",
    |text| is_token(text, 63)
);
identifier!(
    /// The immutable identity of a member, written on its volumes.
    MemberId, "member id", "use 1 to 63 characters of A-Z, a-z, 0-9, '-', '_', '.', ':'",
    |text| is_token(text, 63)
);
identifier!(
    /// A volume as its provider knows it.
    VolumeId, "volume id", "use 1 to 127 characters of A-Z, a-z, 0-9, '-', '_', '.', ':'",
    |text| is_token(text, 127)
);
identifier!(
    /// A snapshot's name, one of its volume's (`before-upgrade`).
    SnapshotName, "snapshot name",
    "use 1 to 40 characters of a-z, 0-9 and '-', beginning with a letter, not ending with '-'",
    |text| is_label(text, 40)
);
identifier!(
    /// A snapshot as its provider knows it.
    SnapshotId, "snapshot id", "use 1 to 170 characters of A-Z, a-z, 0-9, '-', '_', '.', ':'",
    |text| is_token(text, 170)
);
identifier!(
    /// A durable operation.
    OperationId, "operation id", "use 1 to 63 characters of A-Z, a-z, 0-9, '-', '_', '.', ':'",
    |text| is_token(text, 63)
);
identifier!(
    /// One life of a process or machine: two incarnations of one node never share it.
    Incarnation, "incarnation", "use 1 to 63 characters of A-Z, a-z, 0-9, '-', '_', '.', ':'",
    |text| is_token(text, 63)
);
identifier!(
    /// One attempt to write one record. Seeing one's own in the record settles an unknown outcome.
    WriteId, "write id", "use 1 to 63 characters of A-Z, a-z, 0-9, '-', '_', '.', ':'",
    |text| is_token(text, 63)
);

/// The position of a member in its group, from 0. Not reused until the member is released.
pub type Ordinal = u32;

impl MemberName {
    /// The name of a member: `SERVICE-ORDINAL`, or `SERVICE-GROUP-ORDINAL` outside the default group.
    ///
    /// # Errors
    /// If the parts together are longer than a DNS label.
    pub fn of(service: &ServiceName, group: &GroupName, ordinal: Ordinal) -> Result<Self, InvalidId> {
        if group.as_str() == GroupName::DEFAULT {
            format!("{service}-{ordinal}").parse()
        } else {
            format!("{service}-{group}-{ordinal}").parse()
        }
    }
}

impl GroupName {
    /// The group of a service that declares none.
    pub const DEFAULT: &'static str = "main";

    /// The group of a service that declares none.
    pub fn main() -> Self {
        GroupName(Self::DEFAULT.into())
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub fn next(self) -> Self {
                $name(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// How often a member has changed hands. Raised by compare-and-swap before any side effect of a claim.
    Epoch
);
counter!(
    /// How often the leadership of a service has changed hands. Raised before anything is promoted.
    RoleTerm
);
counter!(
    /// How often it has changed who counts in a group. Raised before anybody begins or ceases to.
    MembershipTerm
);
counter!(
    /// The number of a spec revision of a service, from 1.
    Revision
);
counter!(
    /// How often a member was told to start anew: a task of a lower generation is stopped and started.
    Generation
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_labels() {
        for good in ["a", "orders", "my-db", "x9"] {
            assert!(good.parse::<ServiceName>().is_ok(), "{good}");
        }
        for bad in
            ["", "-a", "a-", "A", "a_b", "9a", "a.b", "orders-0", "!!bad name_/..", "é", &"a".repeat(41)]
        {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_member_is_named_after_its_service_group_and_ordinal() {
        let service: ServiceName = "orders".parse().unwrap();
        assert_eq!(MemberName::of(&service, &GroupName::main(), 2).unwrap().as_str(), "orders-2");
        assert_eq!(
            MemberName::of(&service, &"shard".parse().unwrap(), 0).unwrap().as_str(),
            "orders-shard-0"
        );
    }

    #[test]
    fn an_error_names_the_kind_and_the_rule() {
        let error = "Orders!".parse::<ServiceName>().unwrap_err().to_string();
        assert!(error.contains("service name \"Orders!\" is not valid"), "{error}");
        assert!(error.contains("a-z"), "{error}");
    }
}
