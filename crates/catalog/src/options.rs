//! Options: their types, defaults and bounds.

use serde_json::Value;
use steadfast_core::model::{ByteSize, Span};

use crate::format::{OptionFormat, OptionType};

/// A value that an option does not take: what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) problem: String,
    pub(crate) remedy: String,
}

fn refuse(problem: impl Into<String>, remedy: impl Into<String>) -> Refusal {
    Refusal { problem: problem.into(), remedy: remedy.into() }
}

impl OptionFormat {
    /// `value` in its canonical form, if it is of the option's type and within its bounds.
    pub(crate) fn accept(&self, value: &Value) -> Result<Value, Refusal> {
        let accepted = self.typed(value)?;
        let size = self.measure(&accepted);
        if let (Some(size), Some(least)) = (size, self.bound(self.min.as_ref()))
            && size < least
        {
            return Err(refuse(format!("{} is less than the minimum", shown(value)), self.bounds()));
        }
        if let (Some(size), Some(greatest)) = (size, self.bound(self.max.as_ref()))
            && size > greatest
        {
            return Err(refuse(format!("{} is more than the maximum", shown(value)), self.bounds()));
        }
        Ok(accepted)
    }

    /// What templates see: sizes in bytes, lengths of time in milliseconds, everything else as it is.
    pub(crate) fn plain(&self, value: &Value) -> Value {
        match self.kind {
            OptionType::Duration | OptionType::Size => {
                self.measure(value).map_or(Value::Null, |number| Value::from(i64::try_from(number).ok()))
            }
            OptionType::Int | OptionType::Bool | OptionType::String | OptionType::Enum => value.clone(),
        }
    }

    fn typed(&self, value: &Value) -> Result<Value, Refusal> {
        match self.kind {
            OptionType::Int if value.is_i64() => Ok(value.clone()),
            OptionType::Bool if value.is_boolean() => Ok(value.clone()),
            OptionType::String => match value.as_str() {
                Some(text) if text.chars().any(char::is_control) => {
                    Err(refuse("holds a control character", "write it on one line, without tabs"))
                }
                Some(_) => Ok(value.clone()),
                None => Err(self.wrong_type(value)),
            },
            OptionType::Enum => match value.as_str() {
                Some(text) if self.values.iter().any(|known| known == text) => Ok(value.clone()),
                Some(_) => Err(refuse(format!("{} is not one of its values", shown(value)), self.bounds())),
                None => Err(self.wrong_type(value)),
            },
            OptionType::Duration => match value.as_str() {
                Some(text) => text
                    .parse::<Span>()
                    .map(|span| Value::from(span.to_string()))
                    .map_err(|problem| refuse(problem, self.bounds())),
                None => Err(self.wrong_type(value)),
            },
            OptionType::Size => match value.as_str() {
                Some(text) => text
                    .parse::<ByteSize>()
                    .map(|size| Value::from(size.to_string()))
                    .map_err(|problem| refuse(problem, self.bounds())),
                None => Err(self.wrong_type(value)),
            },
            OptionType::Int | OptionType::Bool => Err(self.wrong_type(value)),
        }
    }

    fn wrong_type(&self, value: &Value) -> Refusal {
        refuse(format!("{} is not {}", shown(value), self.kind_in_words()), self.bounds())
    }

    fn kind_in_words(&self) -> &'static str {
        match self.kind {
            OptionType::Int => "a whole number",
            OptionType::Bool => "true or false",
            OptionType::String => "a text in quotes",
            OptionType::Enum => "one of its values in quotes",
            OptionType::Duration => "a length of time in quotes, as in \"30s\"",
            OptionType::Size => "a size in quotes, as in \"512MiB\"",
        }
    }

    /// What it takes, as a remedy.
    fn bounds(&self) -> String {
        if self.kind == OptionType::Enum {
            return format!("use one of: {}", self.values.join(", "));
        }
        let noun = match self.kind {
            OptionType::String => "a text whose length is",
            _ => self.kind_in_words(),
        };
        match (self.min.as_ref().map(shown), self.max.as_ref().map(shown)) {
            (Some(min), Some(max)) => format!("give {noun} from {min} to {max}"),
            (Some(min), None) => format!("give {noun} of at least {min}"),
            (None, Some(max)) => format!("give {noun} of at most {max}"),
            (None, None) => format!("give {}", self.kind_in_words()),
        }
    }

    /// The number by which a value of this option is compared with its bounds.
    pub(crate) fn measure(&self, value: &Value) -> Option<i128> {
        match self.kind {
            OptionType::Int => value.as_i64().map(i128::from),
            OptionType::String => value.as_str().and_then(|text| i128::try_from(text.chars().count()).ok()),
            OptionType::Duration => value
                .as_str()
                .and_then(|text| text.parse::<Span>().ok())
                .and_then(|span| i128::try_from(span.0.as_millis()).ok()),
            OptionType::Size => {
                value.as_str().and_then(|text| text.parse::<ByteSize>().ok()).map(|size| i128::from(size.0))
            }
            OptionType::Bool | OptionType::Enum => None,
        }
    }

    /// A bound as a number: a whole number for texts, a value of the option's own type otherwise.
    pub(crate) fn bound(&self, bound: Option<&Value>) -> Option<i128> {
        let bound = bound?;
        if self.kind == OptionType::String { bound.as_i64().map(i128::from) } else { self.measure(bound) }
    }
}

fn shown(value: &Value) -> String {
    let text: String = value.to_string().chars().take(80).collect();
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn option(toml: &str) -> OptionFormat {
        toml::from_str(&format!("description = 'x'\n{toml}")).unwrap()
    }

    #[test]
    fn values_are_checked_against_type_and_bounds() {
        let int = option("type = 'int'\ndefault = 5\nmin = 1\nmax = 10");
        assert_eq!(int.accept(&json!(10)).unwrap(), json!(10));
        for bad in [json!(0), json!(11), json!("5"), json!(1.5), json!(true)] {
            let refusal = int.accept(&bad).unwrap_err();
            assert!(refusal.remedy.contains("from 1 to 10"), "{refusal:?}");
        }
        let size = option("type = 'size'\ndefault = '64MiB'\nmin = '1MiB'");
        assert_eq!(size.accept(&json!("1024MiB")).unwrap(), json!("1GiB"));
        assert!(size.accept(&json!("1KiB")).unwrap_err().problem.contains("less"));
        assert!(size.accept(&json!(64)).is_err());
        assert_eq!(size.plain(&json!("1MiB")), json!(1_048_576));
        let span = option("type = 'duration'\ndefault = '30s'\nmax = '1h'");
        assert!(span.accept(&json!("2h")).is_err());
        assert_eq!(span.plain(&json!("30s")), json!(30_000));
        let choice = option("type = 'enum'\ndefault = 'a'\nvalues = ['a', 'b']");
        assert!(choice.accept(&json!("c")).unwrap_err().remedy.contains("a, b"));
        let text = option("type = 'string'\ndefault = ''\nmax = 3");
        assert!(text.accept(&json!("abcd")).is_err());
        assert!(text.accept(&json!("a\nb")).unwrap_err().problem.contains("control"));
    }
}
