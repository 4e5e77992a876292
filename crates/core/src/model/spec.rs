//! The service file: what a user asks for.

mod check;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

pub use check::MOST_REPLICAS;

use super::FencingLevel;
use crate::ids::{GroupName, ServiceName, VolumeName};

/// A service file that does not hold: which field, what is wrong, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[error("{field}: {problem}; {remedy}")]
pub struct SpecError {
    /// The field, as a path (`placement.spread`).
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl SpecError {
    /// An error in `field`.
    pub fn new(field: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        SpecError { field: field.into(), problem: problem.into(), remedy: remedy.into() }
    }
}

/// What a service shall be. The same schema in TOML and JSON; stored forms tolerate unknown keys, input is
/// checked by [`ServiceSpec::from_input`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ServiceSpec {
    /// Always `steadfast/v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// The service's name: immutable.
    pub name: ServiceName,
    /// The blueprint and the engine's version, as `NAME@VERSION` or `NAME`.
    pub blueprint: String,
    /// Members of the only group.
    #[serde(default)]
    pub replicas: Option<u32>,
    /// Groups, for services that have several.
    #[serde(default)]
    pub groups: Vec<GroupSpec>,
    /// What an acknowledged write survives.
    #[serde(default)]
    pub durability: Durability,
    /// Where members run.
    #[serde(default)]
    pub placement: PlacementSpec,
    /// Volumes that differ from the blueprint's.
    #[serde(default)]
    pub volumes: Vec<VolumeClaim>,
    /// How sure it must be that an old holder cannot write.
    #[serde(default)]
    pub fencing: FencingSpec,
    /// What happens when a primary is lost.
    #[serde(default)]
    pub failover: FailoverSpec,
    /// The blueprint's options.
    #[serde(default)]
    pub options: BTreeMap<String, Value>,
}

/// A group of like members.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct GroupSpec {
    /// Its name in the blueprint.
    pub name: GroupName,
    /// How many members it has.
    pub replicas: u32,
}

/// What an acknowledged write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Writes block rather than risk loss.
    #[default]
    Strict,
    /// Says what it may lose.
    Available,
}

/// Where members run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PlacementSpec {
    /// What members are spread over.
    #[serde(default)]
    pub spread: Spread,
}

/// What members are spread over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// Over zones, then over nodes.
    #[default]
    Zone,
    /// Over nodes.
    Node,
}

/// A volume of every member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct VolumeClaim {
    /// Its name in the blueprint.
    pub name: VolumeName,
    /// Its size.
    #[serde(default)]
    pub size: Option<ByteSize>,
    /// Its class, mapped by the cluster's configuration.
    #[serde(default = "default_class")]
    pub class: String,
    /// What becomes of it when the service is deleted.
    #[serde(default)]
    pub on_delete: OnDelete,
}

impl VolumeClaim {
    /// The class of a volume that a spec says nothing of, and what becomes of it.
    pub fn usual() -> (String, OnDelete) {
        (default_class(), OnDelete::default())
    }
}

fn default_class() -> String {
    "default".to_owned()
}

/// What becomes of a volume when its service is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnDelete {
    /// It stays, and is listed.
    #[default]
    Keep,
    /// It goes.
    Delete,
}

/// How sure it must be that an old holder cannot write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FencingSpec {
    /// The least level.
    #[serde(default = "default_minimum")]
    pub minimum: FencingLevel,
    /// Whether data may move on an expired lease alone.
    #[serde(default)]
    pub accept_lease: bool,
}

fn default_minimum() -> FencingLevel {
    FencingLevel::F2
}

impl Default for FencingSpec {
    fn default() -> Self {
        FencingSpec { minimum: default_minimum(), accept_lease: false }
    }
}

/// What happens when a primary is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FailoverSpec {
    /// Who decides.
    #[serde(default)]
    pub mode: FailoverMode,
    /// How long the primary's own return is waited for before another member is promoted.
    #[serde(default = "default_promote_after")]
    pub promote_after: Span,
}

fn default_promote_after() -> Span {
    Span(Duration::from_secs(30))
}

impl Default for FailoverSpec {
    fn default() -> Self {
        FailoverSpec { mode: FailoverMode::default(), promote_after: default_promote_after() }
    }
}

/// Who decides about a promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FailoverMode {
    /// Steadfast, by the promotion rule.
    #[default]
    Auto,
    /// An operator.
    Manual,
    /// Nobody: the volume is waited for.
    Off,
}

/// A size in bytes, written `20GiB`, `512MiB` or as a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

const BYTE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse =
            || format!("{text:?} is not a size: write a whole number and a unit, as in 20GiB or 512MiB");
        let (digits, unit) = BYTE_UNITS
            .iter()
            .find_map(|(name, factor)| text.strip_suffix(name).map(|digits| (digits, *factor)))
            .unwrap_or((text, 1));
        let number: u64 = digits.trim_end().parse().map_err(|_| refuse())?;
        number.checked_mul(unit).map(ByteSize).ok_or_else(refuse)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = BYTE_UNITS
            .iter()
            .find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor))
            .unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

/// A length of time, written `30s`, `5m`, `250ms` or `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

const TIME_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse =
            || format!("{text:?} is not a length of time: write a whole number and ms, s, m or h, as in 30s");
        let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(refuse)?;
        let (digits, unit) = text.split_at(split);
        let factor = TIME_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let number: u64 = digits.parse().map_err(|_| refuse())?;
        let millis = factor.and_then(|factor| number.checked_mul(factor)).ok_or_else(refuse)?;
        Ok(Span(Duration::from_millis(millis)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let (unit, factor) = TIME_UNITS
            .iter()
            .rev()
            .find(|(_, factor)| millis >= *factor && millis.is_multiple_of(*factor))
            .unwrap_or(&("ms", 1));
        write!(f, "{}{unit}", millis / factor)
    }
}

macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                crate::text::deserialize(deserializer)
            }
        }
    };
}
serde_as_text!(ByteSize);
serde_as_text!(Span);

#[cfg(feature = "schema")]
crate::schema::text!(ByteSize, "A whole number and a unit, as in 20GiB or 512MiB.");

#[cfg(feature = "schema")]
crate::schema::text!(Span, "A whole number and ms, s, m or h, as in 30s.");

impl ServiceSpec {
    /// The only version of the schema.
    pub const API_VERSION: &'static str = "steadfast/v1";

    /// The blueprint's name and, if the file gives one, the engine version.
    pub fn blueprint_and_version(&self) -> (&str, Option<&str>) {
        match self.blueprint.split_once('@') {
            Some((name, version)) => (name, Some(version)),
            None => (&self.blueprint, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_are_written_as_they_are_read() {
        for text in ["20GiB", "512MiB", "7B", "1TiB"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
        for text in ["30s", "5m", "250ms", "1h"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for bad in ["", "GiB", "-1GiB", "1.5GiB", "99999999999TiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
        for bad in ["", "30", "s", "-1s", "1d", "99999999999999999999h"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }
}
