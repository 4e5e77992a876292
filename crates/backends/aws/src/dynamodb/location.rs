//! Where a store in DynamoDB is, as people write it.

use std::fmt;
use std::str::FromStr;

use steadfast_core::metadata::Key;

/// A store in DynamoDB: `dynamodb://REGION/TABLE[/PREFIX]`.
///
/// Every key lies below the prefix, so that one table serves several stores, each in a partition of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    region: String,
    table: String,
    prefix: Option<Key>,
}

/// A text that names no store in DynamoDB.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLocation {
    /// Another scheme, or none.
    #[error("{0:?} does not begin with dynamodb://")]
    Scheme(String),
    /// A region that is none.
    #[error("{0:?} is not a region, such as eu-central-1")]
    Region(String),
    /// A table that is none.
    #[error("{0:?} is not a table: its name has 3 to 255 characters of A-Z a-z 0-9 - _ .")]
    Table(String),
    /// A prefix that keys cannot lie below.
    #[error("the prefix {0:?} is not made of segments of A-Z a-z 0-9 - _ . : @, joined by '/'")]
    Prefix(String),
}

impl Location {
    /// The region of the table.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The table.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// What every key lies below.
    pub fn prefix(&self) -> Option<&Key> {
        self.prefix.as_ref()
    }

    /// The partition that has all records: the prefix with a slash before it, which no other item of ours begins with.
    pub(crate) fn partition(&self) -> String {
        format!("/{}", self.prefix.as_ref().map_or("", Key::as_str))
    }
}

impl FromStr for Location {
    type Err = InvalidLocation;

    fn from_str(text: &str) -> Result<Self, InvalidLocation> {
        let rest =
            text.strip_prefix("dynamodb://").ok_or_else(|| InvalidLocation::Scheme(text.to_owned()))?;
        let (region, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let (table, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if !region.contains('-') || !region.chars().all(plain) {
            return Err(InvalidLocation::Region(region.to_owned()));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !(3..=255).contains(&table.len()) || !table.chars().all(plain) {
            return Err(InvalidLocation::Table(table.to_owned()));
        }
        let prefix = match prefix.trim_end_matches('/') {
            "" => None,
            prefix => Some(prefix.parse().map_err(|_| InvalidLocation::Prefix(prefix.to_owned()))?),
        };
        Ok(Location { region: region.to_owned(), table: table.to_owned(), prefix })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dynamodb://{}/{}", self.region, self.table)?;
        match &self.prefix {
            Some(prefix) => write!(f, "/{prefix}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_written_as_it_is_read() {
        for (text, written, partition) in [
            ("dynamodb://eu-central-1/steadfast", "dynamodb://eu-central-1/steadfast", "/"),
            ("dynamodb://us-gov-west-1/a.B_c-1/lab/x/", "dynamodb://us-gov-west-1/a.B_c-1/lab/x", "/lab/x"),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!((location.to_string().as_str(), location.partition().as_str()), (written, partition));
            assert_eq!(written.parse::<Location>().unwrap(), location);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let part = |text: &str| text.parse::<Location>().unwrap_err();
        assert_eq!(part("etcd://h"), InvalidLocation::Scheme("etcd://h".to_owned()));
        assert_eq!(part("dynamodb://"), InvalidLocation::Region(String::new()));
        assert_eq!(part("dynamodb://steadfast"), InvalidLocation::Region("steadfast".to_owned()));
        assert_eq!(part("dynamodb://EU-1/abc"), InvalidLocation::Region("EU-1".to_owned()));
        for bad in ["", "ab", "a b", "ü-table", &"x".repeat(256)] {
            assert_eq!(part(&format!("dynamodb://eu-west-1/{bad}")), InvalidLocation::Table(bad.to_owned()));
        }
        assert_eq!(part("dynamodb://eu-west-1/abc/a//b"), InvalidLocation::Prefix("a//b".to_owned()));
    }
}
