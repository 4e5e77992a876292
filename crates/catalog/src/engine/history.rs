//! Whether a member's data is a part of the history of the member it shall follow.
//!
//! PostgreSQL: by the bytes of the write-ahead log. Timelines alone do not tell, since two members promoted from
//! the same place take the same number. So the last record of our log is looked up in the primary's log: it must
//! lie on the timeline that the primary's history has there, and everything from the start of its segment (or of
//! the timeline) up to it must be equal, checksums and times included.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use steadfast_core::engine::Peer;
use steadfast_core::model::Reason;
use steadfast_core::{ErrorKind, Result};

use super::BlueprintEngine;
use super::command::{self, Failure, Invocation};
use crate::failure::coded;
use crate::format::{History, Probe};
use crate::probe::ProtocolError;
use crate::probe::pgwire::{Client, Side};
use crate::probe::postgresql::{Lsn, identify, parse_lsn, show_lsn, single};

/// The part of a record that tells it from every other: its length, predecessor, kind and checksum.
const RECORD_HEADER: u64 = 24;
/// Reading the log since the last checkpoint may take long; the log is bounded by the settings.
const PATIENCE: Duration = Duration::from_secs(1800);
/// How long the primary may take to compare a piece of log, or to write a checkpoint before a rewind.
const PRIMARY_PATIENCE: Duration = Duration::from_secs(600);

/// How a member's data stands to the history of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kinship {
    /// A part of it.
    Same,
    /// A part of it, but the other no longer has what comes next.
    Gone {
        /// How far it reaches.
        from: String,
    },
    /// It has left it.
    Diverged {
        /// Where.
        from: String,
        /// How far it goes on.
        to: String,
    },
    /// It cannot be told now.
    Unknown(String),
}

impl BlueprintEngine {
    /// How the member's data stands to the history of `target`.
    pub(super) async fn kinship(&self, target: &Peer) -> Result<Kinship> {
        let Some(reconcile) = &self.definition.format().reconcile else { return Ok(Kinship::Same) };
        match reconcile.history {
            History::Postgresql => self.postgresql_kinship(target).await,
        }
    }

    async fn postgresql_kinship(&self, target: &Peer) -> Result<Kinship> {
        let Probe::Postgresql(probe) = &self.definition.format().probe else { return Ok(Kinship::Same) };
        let context = self.context()?;
        let dir = PathBuf::from(context.text("data_dir"));
        let access = self.prober.access(target.address)?;
        let known = access.within(access.timeout, Primary::ask(&access, &probe.database)).await;
        let mut primary = match known {
            Ok(Some(primary)) => primary,
            Ok(None) => return Ok(Kinship::Unknown(format!("{} is not a primary yet", target.name))),
            Err(error) => return Ok(Kinship::Unknown(format!("{} cannot be asked: {error}", target.name))),
        };
        let control = self.control(&dir).await?;
        if control.system != primary.system {
            return Err(coded(
                ErrorKind::Stale,
                &Reason::VolumeForeign,
                self.definition.name(),
                "compare",
                self.subject(),
                format_args!(
                    "the data belongs to database system {}, and {} to {}; attach the right volume",
                    control.system, target.name, primary.system
                ),
            )
            .without_effect());
        }
        let Some(end) = self.log_end(&dir, &control).await? else {
            return Ok(Kinship::Unknown("the end of its log is not found".to_owned()));
        };
        let compared = access.within(PRIMARY_PATIENCE, primary.compare(&dir, &control, &end)).await;
        match compared {
            Ok(kinship) => Ok(kinship),
            Err(error) => Ok(Kinship::Unknown(format!("{} cannot be asked: {error}", target.name))),
        }
    }

    /// What the control file says.
    async fn control(&self, dir: &Path) -> Result<Control> {
        let argv = vec![self.program_text("pg_controldata"), dir.display().to_string()];
        let invocation =
            Invocation { argv, user: self.host.user, timeout: PATIENCE, ..Invocation::default() };
        let output = self.program("compare", invocation).await?;
        Control::parse(&output).ok_or_else(|| {
            self.failed(ErrorKind::Corrupt, "compare", "pg_controldata says nothing that is understood")
                .without_effect()
        })
    }

    /// The last record of the log, on the newest timeline that has any.
    async fn log_end(&self, dir: &Path, control: &Control) -> Result<Option<LogEnd>> {
        let wal = dir.join("pg_wal");
        let mut timelines = timelines_of(&wal).map_err(|error| self.disk("compare", &wal, error))?;
        timelines.extend([control.timeline, control.recovered_timeline]);
        timelines.sort_unstable();
        timelines.dedup();
        while let Some(timeline) = timelines.pop() {
            let begin = begin_of(&wal, timeline).unwrap_or_default();
            let start = begin.max(control.redo);
            if let Some(last) = self.last_record(&wal, timeline, start, control.segment).await? {
                return Ok(Some(LogEnd { timeline, begin, last }));
            }
            if timeline <= control.timeline {
                break;
            }
        }
        Ok(None)
    }

    /// Where the last whole record at or after `start` begins.
    async fn last_record(&self, wal: &Path, timeline: u64, start: Lsn, segment: u64) -> Result<Option<Lsn>> {
        let Some(newest) = last_segment(wal, timeline, start, segment) else { return Ok(None) };
        // It would wait for the segment after the last one.
        let end = newest + segment;
        // Reading ends with an error where the log ends: its text says after which record.
        let quiet = self.waldump(wal, timeline, start, end, true).await?;
        if let Some(last) = record_before_error(&quiet) {
            return Ok(Some(last));
        }
        // The log ends with its last segment: list that one.
        let listed = self.waldump(wal, timeline, newest.max(start), end, false).await?;
        Ok(listed.lines().rev().find_map(|line| {
            let (_, rest) = line.split_once("lsn: ")?;
            parse_lsn(rest.split(',').next()?)
        }))
    }

    async fn waldump(&self, wal: &Path, timeline: u64, start: Lsn, end: Lsn, quiet: bool) -> Result<String> {
        let mut argv = vec![
            self.program_text("pg_waldump"),
            format!("--path={}", wal.display()),
            format!("--timeline={timeline}"),
            format!("--start={}", show_lsn(start)),
            format!("--end={}", show_lsn(end)),
        ];
        if quiet {
            argv.push("--quiet".to_owned());
        }
        let invocation =
            Invocation { argv, user: self.host.user, timeout: PATIENCE, ..Invocation::default() };
        match command::run(&self.host.environment, invocation).await {
            Ok(said) => Ok(if quiet { said.stderr } else { said.stdout }),
            // It always ends with an error where the log ends.
            Err(Failure::Ended { said, .. }) => Ok(if quiet { said.stderr } else { said.stdout }),
            Err(Failure::Missing(path)) => Err(self.missing("compare", &path)),
            Err(failure) => {
                Err(self.failed(ErrorKind::Unavailable, "compare", format_args!("pg_waldump {failure}")))
            }
        }
    }

    fn program_text(&self, name: &str) -> String {
        self.program_path(name).display().to_string()
    }
}

/// What the control file says.
#[derive(Debug, PartialEq, Eq)]
struct Control {
    system: String,
    redo: Lsn,
    timeline: u64,
    recovered_timeline: u64,
    segment: u64,
}

impl Control {
    fn parse(output: &str) -> Option<Self> {
        let field = |name: &str| {
            output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        Some(Control {
            system: field("Database system identifier")?.to_owned(),
            redo: parse_lsn(field("Latest checkpoint's REDO location")?)?,
            timeline: field("Latest checkpoint's TimeLineID")?.parse().ok()?,
            recovered_timeline: field("Min recovery ending loc's timeline")?.parse().ok()?,
            segment: field("Bytes per WAL segment")?.parse().ok()?,
        })
    }
}

/// The end of our log.
#[derive(Debug)]
struct LogEnd {
    timeline: u64,
    /// Where the timeline begins.
    begin: Lsn,
    /// Where its last record begins.
    last: Lsn,
}

/// The primary, and how its history came about.
struct Primary {
    client: Client,
    system: String,
    timeline: u64,
    reached: Lsn,
    /// Earlier timelines in order, each with the place where it was left.
    branches: Vec<(u64, Lsn)>,
}

impl Primary {
    /// None if it is no primary.
    async fn ask(access: &crate::probe::Access, database: &str) -> Result<Option<Self>, ProtocolError> {
        let mut client = Client::connect(access, database, Side::Replication).await?;
        if single(&client.query("SELECT pg_is_in_recovery()").await?).as_deref() != Some("f") {
            return Ok(None);
        }
        let who = identify(&mut client).await?;
        let branches = if who.timeline > 1 {
            let rows = client.query(&format!("TIMELINE_HISTORY {}", who.timeline)).await?;
            let text = rows.first().and_then(|row| row.get(1).cloned().flatten()).unwrap_or_default();
            parse_history(&text)
        } else {
            Vec::new()
        };
        Ok(Some(Primary {
            client,
            system: who.system,
            timeline: who.timeline,
            reached: who.reached,
            branches,
        }))
    }

    /// The timeline that the history has at `lsn`.
    fn timeline_at(&self, lsn: Lsn) -> u64 {
        self.branches.iter().find(|(_, left)| lsn < *left).map_or(self.timeline, |(timeline, _)| *timeline)
    }

    async fn compare(
        &mut self,
        dir: &Path,
        control: &Control,
        end: &LogEnd,
    ) -> Result<Kinship, ProtocolError> {
        let to = end.last + RECORD_HEADER;
        let expected = self.timeline_at(end.last);
        if expected != end.timeline || to > self.reached {
            let left = self.branches.iter().find(|(timeline, _)| *timeline == end.timeline);
            let from = match left {
                Some((_, left)) => (*left).min(end.last),
                None if expected == end.timeline => self.reached,
                // Our timeline is none of theirs: we left at its beginning at the latest.
                None => end.begin.min(self.branches.last().map_or(end.begin, |(_, left)| *left)),
            };
            return self.diverged(from, to).await;
        }
        let from = (end.last / control.segment * control.segment).max(end.begin);
        match self.equal(dir, control.segment, end.timeline, from, to).await? {
            None => return Ok(Kinship::Gone { from: show_lsn(end.last) }),
            Some(false) => return self.diverged(end.begin, to).await,
            Some(true) => {}
        }
        // The first record of the timeline holds the time of its promotion: it tells apart two that were promoted
        // from the same place.
        let start = end.begin;
        let first_end =
            (start + 2 * RECORD_HEADER).min(start / control.segment * control.segment + control.segment);
        if start > 0 && self.equal(dir, control.segment, end.timeline, start, first_end).await? == Some(false)
        {
            return self.diverged(start, to).await;
        }
        Ok(Kinship::Same)
    }

    async fn diverged(&mut self, from: Lsn, to: Lsn) -> Result<Kinship, ProtocolError> {
        // A rewind reads the primary's control file, which has its timeline only from the next checkpoint on.
        self.client.query("CHECKPOINT").await?;
        Ok(Kinship::Diverged { from: show_lsn(from), to: show_lsn(to) })
    }

    /// Whether a piece of our log, within one segment, is equal to the primary's; none if either has it no more.
    async fn equal(
        &mut self,
        dir: &Path,
        segment: u64,
        timeline: u64,
        from: Lsn,
        to: Lsn,
    ) -> Result<Option<bool>, ProtocolError> {
        let to = to.min(from / segment * segment + segment);
        let (name, offset, length) = (segment_name(timeline, from, segment), from % segment, to - from);
        let Some(ours) = digest(&dir.join("pg_wal").join(&name), offset, length)? else { return Ok(None) };
        let theirs = self
            .client
            .query(&format!(
                "SELECT encode(sha256(pg_read_binary_file('pg_wal/{name}', {offset}, {length}, true)), 'hex')"
            ))
            .await?;
        Ok(single(&theirs).map(|theirs| theirs == ours))
    }
}

fn digest(path: &Path, offset: u64, length: u64) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(Some(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect()))
}

fn segment_name(timeline: u64, lsn: Lsn, segment: u64) -> String {
    let per_log = (1 << 32) / segment;
    let number = lsn / segment;
    format!("{timeline:08X}{:08X}{:08X}", number / per_log, number % per_log)
}

/// The timelines of which there are segments.
fn timelines_of(wal: &Path) -> io::Result<Vec<u64>> {
    let mut timelines = Vec::new();
    for entry in fs::read_dir(wal)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if is_segment(&name)
            && let Ok(timeline) = u64::from_str_radix(&name[..8], 16)
        {
            timelines.push(timeline);
        }
    }
    Ok(timelines)
}

/// The start of the last of a timeline's segments that follow each other from `start` on.
fn last_segment(wal: &Path, timeline: u64, start: Lsn, segment: u64) -> Option<Lsn> {
    let first = start / segment * segment;
    (0..)
        .map(|index| first + index * segment)
        .take_while(|lsn| wal.join(segment_name(timeline, *lsn, segment)).exists())
        .last()
}

fn is_segment(name: &str) -> bool {
    name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Where a timeline begins, by our own copy of its history.
fn begin_of(wal: &Path, timeline: u64) -> Option<Lsn> {
    let text = fs::read_to_string(wal.join(format!("{timeline:08X}.history"))).ok()?;
    parse_history(&text).last().map(|(_, left)| *left)
}

fn parse_history(text: &str) -> Vec<(u64, Lsn)> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            Some((words.next()?.parse().ok()?, parse_lsn(words.next()?)?))
        })
        .collect()
}

/// The record that was read last, by the error that ended the reading.
fn record_before_error(stderr: &str) -> Option<Lsn> {
    let (_, rest) = stderr.split_once("error in WAL record at ")?;
    parse_lsn(rest.split(':').next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_programs_say_is_understood() {
        let control = Control::parse(
            "pg_control version number:            1300\n\
             Database system identifier:           7399\n\
             Latest checkpoint's REDO location:    0/1A4D8E0\n\
             Latest checkpoint's TimeLineID:       2\n\
             Min recovery ending loc's timeline:   0\n\
             Bytes per WAL segment:                16777216\n",
        );
        let wanted = Control {
            system: "7399".to_owned(),
            redo: 0x1A4_D8E0,
            timeline: 2,
            recovered_timeline: 0,
            segment: 16 << 20,
        };
        assert_eq!(control, Some(wanted));
        let stderr = "pg_waldump: error: error in WAL record at 0/15A3F90: invalid record length at 0/15A3FC8: \
                      wanted 24, got 0\n";
        assert_eq!(record_before_error(stderr), parse_lsn("0/15A3F90"));
        assert_eq!(record_before_error("pg_waldump: error: could not find file"), None);
        let history =
            "1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tno recovery target specified\n";
        assert_eq!(parse_history(history), [(1, 0x300_0148), (2, 0x500_0000)]);
        assert_eq!(segment_name(2, 0x1_0300_0148, 16 << 20), "000000020000000100000003");
    }
}
