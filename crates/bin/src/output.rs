//! The one module that prints. Results go to standard output, in the format that was asked for; progress, hints
//! and errors go to standard error.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::{Mutex, OnceLock, PoisonError};

use comfy_table::{CellAlignment, ContentArrangement, Table};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;

use crate::daemon::logging::rotated::RotatedError;
use crate::exit::{Context as _, Exit, Failure, Result};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// JSON, as the API has it.
    Json,
    /// YAML, as the API has it.
    Yaml,
    /// Names only, one a line.
    Name,
}

/// What a column is called, and whether it is shown in the narrow table too.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    name: &'static str,
    wide: bool,
    right: bool,
}

/// A column.
pub(crate) const fn column(name: &'static str) -> Column {
    Column { name, wide: false, right: false }
}

/// A column of numbers.
pub(crate) const fn number(name: &'static str) -> Column {
    Column { name, wide: false, right: true }
}

/// A column that only the wide table has.
pub(crate) const fn wide(name: &'static str) -> Column {
    Column { name, wide: true, right: false }
}

/// A colour with a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// Of less weight.
    Faint,
    /// Of more weight.
    Strong,
}

/// Rows as a table. `name` is the index of the column that names the row.
pub(crate) fn rows(format: Format, columns: &[Column], name: usize, rows: &[Vec<String>]) -> String {
    if format == Format::Name {
        let names: Vec<&str> = rows.iter().filter_map(|row| row.get(name).map(String::as_str)).collect();
        return names.join("\n");
    }
    let shown: Vec<usize> =
        (0..columns.len()).filter(|index| format == Format::Wide || !columns[*index].wide).collect();
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    // Cut at the edge of a terminal; into a file or a pipe every cell goes whole.
    match (format, terminal_width()) {
        (Format::Wide, _) | (_, None) => table.set_content_arrangement(ContentArrangement::Disabled),
        (_, Some(width)) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
    };
    table.set_header(shown.iter().map(|index| columns[*index].name));
    for row in rows {
        table.add_row(shown.iter().map(|index| row.get(*index).map_or("", String::as_str)));
    }
    for (place, index) in shown.iter().enumerate() {
        if let Some(shown) = table.column_mut(place) {
            shown.set_padding((0, 2));
            if columns[*index].right {
                shown.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    let lines: Vec<String> = table.lines().map(|text| text.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// A value as JSON or YAML, or else as `table` has it.
pub(crate) fn text<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce() -> String,
) -> Result<String> {
    Ok(match format {
        Format::Json => serde_json::to_string_pretty(value).context("write JSON")?,
        Format::Yaml => serde_saphyr::to_string(value).context("write YAML")?.trim_end().to_owned(),
        Format::Table | Format::Wide | Format::Name => table(),
    })
}

/// Prints a value as JSON or YAML, or else as `table` has it.
pub(crate) fn show<T: Serialize>(format: Format, value: &T, table: impl FnOnce() -> String) -> Result<()> {
    match text(format, value, table)?.as_str() {
        "" => Ok(()),
        text => line(text),
    }
}

/// Prints a text in place of the last one on a terminal, or below it elsewhere.
pub(crate) fn frame(text: &str) -> Result<()> {
    if io::stdout().is_terminal() {
        // Home, the text, and away with what is left of the last one.
        return raw(format!("\x1b[H\x1b[2J{text}\n").as_bytes());
    }
    raw(format!("{text}\n").as_bytes())
}

/// Prints a line of a stream: one JSON object a line if JSON is asked for.
pub(crate) fn stream_item<T: Serialize>(format: Format, value: &T, text: &str) -> Result<()> {
    match format {
        Format::Json => line(&serde_json::to_string(value).context("write JSON")?),
        Format::Yaml => {
            line(&format!("---\n{}", serde_saphyr::to_string(value).context("write YAML")?.trim_end()))
        }
        Format::Table | Format::Wide | Format::Name => line(text),
    }
}

/// Prints one line of the result.
pub(crate) fn line(text: &str) -> Result<()> {
    raw(format!("{text}\n").as_bytes())
}

/// Prints bytes as they are.
pub(crate) fn raw(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    printed(out.write_all(bytes).and_then(|()| out.flush()))
}

/// What came of printing a result.
pub(crate) fn printed(outcome: io::Result<()>) -> Result<()> {
    match outcome {
        Ok(()) => Ok(()),
        // Whoever reads has seen enough, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new(format!("write to standard output: {error}"))),
    }
}

/// The log that notes go to, of a process whose standard error is one.
static LOG: OnceLock<Mutex<RotatedError>> = OnceLock::new();

/// From now on notes go to a log, which is begun anew when it is full. Said twice, the first holds.
pub(crate) fn note_into(log: RotatedError) {
    LOG.get_or_init(|| Mutex::new(log));
}

/// Waits until whoever reads the results has gone, as `head` does; for ever if they go to a file.
pub(crate) async fn reader_gone() {
    let look = || {
        let out = io::stdout();
        // Asked for nothing, a pipe still tells that nobody reads it any more.
        let mut pipe = [PollFd::new(out.as_fd(), PollFlags::empty())];
        loop {
            match poll(&mut pipe, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                ended => return ended,
            }
        }
    };
    match tokio::task::spawn_blocking(look).await {
        Ok(Ok(_)) => {}
        _ => std::future::pending().await,
    }
}

/// Prints a line of progress or a hint, for people, to standard error. A closed standard error is no failure.
pub(crate) fn note(text: &str) {
    let line = format!("{text}\n");
    match LOG.get() {
        Some(log) => log.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes()),
        None => io::stderr().lock().write_all(line.as_bytes()),
    }
    .ok();
}

/// Prints a failure to standard error, and gives its exit code.
pub(crate) fn failure(failure: &Failure) -> Exit {
    let head = paint_on(Tone::Bad, "error:", io::stderr().is_terminal());
    note(&format!("{head} {failure}"));
    failure.exit
}

/// `text` in a colour, if standard output is a terminal that wants colours.
pub(crate) fn paint(tone: Tone, text: &str) -> String {
    paint_on(tone, text, io::stdout().is_terminal())
}

/// `text` in a colour, if standard error is a terminal that wants colours.
pub(crate) fn paint_note(tone: Tone, text: &str) -> String {
    paint_on(tone, text, io::stderr().is_terminal())
}

fn paint_on(tone: Tone, text: &str, terminal: bool) -> String {
    // https://no-color.org: set and not empty means no colours, whatever its value.
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    if !terminal || refused {
        return text.to_owned();
    }
    let code = match tone {
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "31",
        Tone::Faint => "2",
        Tone::Strong => "1",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// The width of the terminal that results are printed on; none if they go elsewhere.
fn terminal_width() -> Option<u16> {
    let out = io::stdout();
    if !out.is_terminal() {
        return None;
    }
    let asked = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    asked
        .or_else(|| rustix::termios::tcgetwinsize(out).ok().map(|size| size.ws_col))
        .filter(|width| *width > 20)
}

/// An age in the shortest form that still tells: `350ms`, `12s`, `4m`, `3h`, `9d`.
pub(crate) fn age(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis}ms"),
        1_000..120_000 => format!("{}s", millis / 1_000),
        120_000..7_200_000 => format!("{}m", millis / 60_000),
        7_200_000..172_800_000 => format!("{}h", millis / 3_600_000),
        _ => format!("{}d", millis / 86_400_000),
    }
}

/// How long ago something was, by this machine's wall clock.
pub(crate) fn since(at: steadfast_core::runtime::Timestamp) -> String {
    let millis = steadfast_core::runtime::Timestamp::now().as_millisecond() - at.as_millisecond();
    age(u64::try_from(millis).unwrap_or(0))
}

/// A text, or a dash where there is none.
pub(crate) fn or_dash<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let texts: Vec<String> = [350, 12_000, 240_000, 10_800_000, 864_000_000].map(age).into();
        assert_eq!(texts, ["350ms", "12s", "4m", "3h", "10d"]);
    }

    #[test]
    fn nothing_is_painted_off_a_terminal() {
        assert_eq!(paint_on(Tone::Bad, "x", false), "x");
    }
}
