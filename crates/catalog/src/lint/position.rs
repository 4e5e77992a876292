//! Where the keys of a TOML file are.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

/// Where the keys of a TOML file are.
pub(super) struct Positions {
    text: String,
    offsets: BTreeMap<String, usize>,
}

impl Positions {
    pub(super) fn of(text: &str) -> Self {
        let mut offsets = BTreeMap::new();
        let (table, _) = DeTable::parse_recoverable(text);
        walk_table(table.get_ref(), "", &mut offsets);
        Positions { text: text.to_owned(), offsets }
    }

    /// The offset of a key, or of the nearest table around it that there is.
    pub(super) fn find(&self, key: &str) -> usize {
        let mut path = key;
        loop {
            if let Some(offset) = self.offsets.get(path) {
                return *offset;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return 0,
            }
        }
    }

    /// Line and column, from 1.
    pub(super) fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (line, column)
    }

    /// The line at which the text of a value begins: a multi-line string begins below its quotes.
    pub(super) fn line_of_text(&self, key: &str) -> usize {
        let offset = self.find(key);
        let (line, _) = self.line_and_column(offset);
        let rest = self.text.get(offset..).unwrap_or_default();
        let first = rest.lines().next().unwrap_or_default().trim_end();
        if first.ends_with("\"\"\"") || first.ends_with("'''") { line + 1 } else { line }
    }
}

fn walk_table(table: &DeTable<'_>, path: &str, offsets: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let path =
            if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
        offsets.insert(path.clone(), key.span().start);
        walk_value(value.get_ref(), &path, offsets);
    }
}

fn walk_value(value: &DeValue<'_>, path: &str, offsets: &mut BTreeMap<String, usize>) {
    match value {
        DeValue::Table(table) => walk_table(table, path, offsets),
        DeValue::Array(array) => {
            for (index, element) in array.iter().enumerate() {
                let path = format!("{path}[{index}]");
                offsets.insert(path.clone(), element.span().start);
                walk_value(element.get_ref(), &path, offsets);
            }
        }
        _ => {}
    }
}
