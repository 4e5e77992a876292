//! `catalog lint`: everything that can be seen to be wrong with a blueprint without running it, with its line.

mod checks;
mod position;
mod synthetic;
mod texts;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use self::position::Positions;
use crate::definition::{MAIN_FILE, read_folder};
use crate::format::Format;

/// Something wrong in a blueprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { file, line, column, message, remedy } = self;
        write!(f, "{}:{line}:{column}: {message}; {remedy}", file.display())
    }
}

/// Checks the blueprint at `path`: its folder, or a file in it.
///
/// Every template is rendered, for every durability class and for the bounds of every option, with made-up members;
/// names in branches that no rendering takes are checked, too. Nothing is executed.
pub fn lint(path: &Path) -> Vec<Finding> {
    let folder = if path.is_dir() {
        path
    } else if path.extension().is_some_and(|extension| extension == "toml") && !path.ends_with(MAIN_FILE) {
        // The folder's own blueprint, if it has one, is not what was meant.
        return vec![Finding {
            file: path.to_owned(),
            line: 1,
            column: 1,
            message: format!("a blueprint's own file is called {MAIN_FILE}"),
            remedy: "give the blueprint's folder, or that file in it".to_owned(),
        }];
    } else {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    };
    match read_folder(folder) {
        Ok(files) => lint_files(folder, &files),
        Err(finding) => vec![finding],
    }
}

/// Checks the blueprint in these files, which are said to lie in `folder`.
pub(crate) fn lint_files(folder: &Path, files: &BTreeMap<String, String>) -> Vec<Finding> {
    let Some(main) = files.get(MAIN_FILE) else {
        return vec![Finding {
            file: folder.join(MAIN_FILE),
            line: 1,
            column: 1,
            message: "the file is missing".to_owned(),
            remedy: "write it as docs/blueprints.md says".to_owned(),
        }];
    };
    let mut report = Report { folder, files, positions: Positions::of(main), findings: Vec::new() };
    let (_, syntax) = toml::de::DeTable::parse_recoverable(main);
    for error in &syntax {
        report.at_offset(error.span().map_or(0, |span| span.start), error.message(), "correct the TOML");
    }
    if !syntax.is_empty() {
        return report.findings;
    }
    match toml::from_str::<Format>(main) {
        Ok(format) => {
            checks::check(&format, &mut report);
            if report.findings.is_empty() {
                // Templates are tried only on what holds together: otherwise one mistake is told many times.
                texts::check(&format, &mut report);
            }
        }
        Err(error) => report.at_offset(
            error.span().map_or(0, |span| span.start),
            error.message().lines().next().unwrap_or_default(),
            "see docs/blueprints.md for the keys and their types",
        ),
    }
    report.findings
}

/// What has been found so far.
struct Report<'a> {
    folder: &'a Path,
    files: &'a BTreeMap<String, String>,
    positions: Positions,
    findings: Vec<Finding>,
}

impl Report<'_> {
    /// Notes a finding at a key of `blueprint.toml`, as a path (`options.maxmemory.default`).
    fn at(&mut self, key: &str, message: impl fmt::Display, remedy: impl fmt::Display) {
        let offset = self.positions.find(key);
        self.at_offset(offset, format_args!("{key}: {message}"), remedy);
    }

    fn at_offset(&mut self, offset: usize, message: impl fmt::Display, remedy: impl fmt::Display) {
        let (line, column) = self.positions.line_and_column(offset);
        self.add(MAIN_FILE, line, column, message, remedy);
    }

    /// Notes a finding in any file. The same one is not noted twice.
    fn add(
        &mut self,
        file: &str,
        line: usize,
        column: usize,
        message: impl fmt::Display,
        remedy: impl fmt::Display,
    ) {
        let finding = Finding {
            file: self.folder.join(file),
            line,
            column,
            message: message.to_string(),
            remedy: remedy.to_string(),
        };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }
}
