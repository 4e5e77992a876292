//! PostgreSQL: role, history, write-ahead log position and standbys of a server.
//!
//! A standby's position counts only once it has replayed all that lies in its own folder: before, it would seem
//! to be behind a standby that has less. It is told by the replication command IDENTIFY_SYSTEM, as no SQL function
//! tells the timeline that a standby replays.

use std::fs;
use std::path::Path;

use serde_json::json;
use steadfast_core::engine::EngineView;
use steadfast_core::model::{Position, Reason, Role};

use super::pgwire::{Client, Row, Side};
use super::{Access, Facts, ProtocolError};
use crate::format::PostgresqlProbe;

/// A position in the write-ahead log.
pub(crate) type Lsn = u64;

/// Everything in one row, in the order of [`Seen`].
const LOOK: &str = "
SELECT pg_is_in_recovery(),
       pg_last_wal_replay_lsn(),
       pg_last_wal_receive_lsn(),
       current_setting('primary_conninfo'),
       current_setting('primary_slot_name'),
       current_setting('synchronous_standby_names'),
       (SELECT status FROM pg_stat_wal_receiver),
       (SELECT latest_end_lsn FROM pg_stat_wal_receiver),
       (SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'),
       (SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum')),
       (SELECT string_agg(slot_name, ',') FROM pg_replication_slots
         WHERE slot_type = 'physical' AND wal_status IS DISTINCT FROM 'lost'),
       (SELECT string_agg(datname, ', ') FROM pg_database
         WHERE datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid))";

pub(super) async fn observe(
    access: &Access,
    probe: &PostgresqlProbe,
    data_dir: &Path,
    confirming: u64,
) -> (EngineView, Facts) {
    match access.within(access.timeout, look(access, &probe.database)).await {
        Ok(seen) => (view(&seen, probe, confirming), facts(&seen)),
        Err(ProtocolError::Refused { code, message }) => (refused(&code, message, data_dir), Facts::new()),
        Err(ProtocolError::Unexpected(message)) => {
            let problem = Some((Reason::EngineUnhealthy, message));
            (EngineView { alive: true, problem, ..EngineView::default() }, Facts::new())
        }
        Err(ProtocolError::TimedOut | ProtocolError::Io(_)) => (EngineView::default(), Facts::new()),
    }
}

/// What a server says of itself.
#[derive(Debug, Default)]
struct Seen {
    system: String,
    timeline: u64,
    /// Flushed on a primary; received and flushed, or replayed, on a standby.
    reached: Lsn,
    in_recovery: bool,
    replayed: Option<Lsn>,
    received: Option<Lsn>,
    conninfo: String,
    slot: String,
    synchronous: String,
    receiver: String,
    primary_end: Option<Lsn>,
    startup_waits: String,
    confirming: u64,
    slots: Vec<String>,
    collations: String,
}

async fn look(access: &Access, database: &str) -> Result<Seen, ProtocolError> {
    let mut client = Client::connect(access, database, Side::Replication).await?;
    let who = identify(&mut client).await?;
    let rows = client.query(LOOK).await?;
    let row = rows.first().ok_or_else(|| ProtocolError::Unexpected("no row".to_owned()))?;
    let text = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
    Ok(Seen {
        system: who.system,
        timeline: who.timeline,
        reached: who.reached,
        in_recovery: text(0) == "t",
        replayed: parse_lsn(&text(1)),
        received: parse_lsn(&text(2)),
        conninfo: text(3),
        slot: text(4),
        synchronous: text(5),
        receiver: text(6),
        primary_end: parse_lsn(&text(7)),
        startup_waits: text(8),
        confirming: text(9).parse().unwrap_or_default(),
        slots: text(10).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        collations: text(11),
    })
}

/// What IDENTIFY_SYSTEM says.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// The identifier that all members of a group share.
    pub(crate) system: String,
    /// The timeline.
    pub(crate) timeline: u64,
    /// How far the log reaches, durably.
    pub(crate) reached: Lsn,
}

pub(crate) async fn identify(client: &mut Client) -> Result<Identity, ProtocolError> {
    let rows = client.query("IDENTIFY_SYSTEM").await?;
    let found = rows.first().and_then(|row: &Row| {
        let mut columns = row.iter().map(|column| column.clone().unwrap_or_default());
        Some(Identity {
            system: columns.next()?,
            timeline: columns.next()?.parse().ok()?,
            reached: parse_lsn(&columns.next()?)?,
        })
    });
    found.ok_or_else(|| ProtocolError::Unexpected("IDENTIFY_SYSTEM is not understood".to_owned()))
}

fn view(seen: &Seen, probe: &PostgresqlProbe, confirming: u64) -> EngineView {
    let mut view = EngineView { alive: true, ..EngineView::default() };
    let position = Position { timeline: seen.timeline, offset: seen.reached };
    if !seen.collations.is_empty() {
        view.problem = Some((
            Reason::EngineMismatch,
            format!(
                "the collations of {} were made by another version of the C library: rebuild the indexes on \
                 texts (REINDEX), then run ALTER DATABASE ... REFRESH COLLATION VERSION",
                seen.collations
            ),
        ));
    }
    if !seen.in_recovery {
        view.role = Role::Primary;
        view.ready = true;
        view.position = Some(position);
        if seen.confirming < confirming {
            view.problem = Some((
                Reason::SyncStandbyMissing,
                format!("{} of {confirming} confirming replicas stream: writes wait", seen.confirming),
            ));
        }
        return view;
    }
    view.role = Role::Replica;
    view.follows = parse_host(&seen.conninfo);
    let streams = seen.receiver == "streaming";
    let lag = seen.primary_end.zip(seen.replayed).map(|(end, replayed)| end.saturating_sub(replayed));
    view.lag = lag;
    view.ready = streams && view.follows.is_some() && lag.is_some_and(|lag| lag <= probe.ready_lag.0);
    // Once it has received anything, or waits for more, it has replayed what lay in its own folder. What it has
    // received on the next timeline counts when it has been replayed up to there.
    let exhausted = seen.received.is_some()
        || matches!(seen.startup_waits.as_str(), "RecoveryWalStream" | "RecoveryRetrieveRetryInterval");
    if exhausted && seen.received.is_none_or(|received| received <= seen.reached) {
        view.position = Some(position);
    } else {
        view.recovering = seen.replayed;
    }
    view
}

fn facts(seen: &Seen) -> Facts {
    Facts::from([
        ("system".to_owned(), json!(seen.system)),
        ("timeline".to_owned(), json!(seen.timeline)),
        ("in_recovery".to_owned(), json!(seen.in_recovery)),
        ("primary_conninfo".to_owned(), json!(seen.conninfo)),
        ("primary_slot_name".to_owned(), json!(seen.slot)),
        ("synchronous_standby_names".to_owned(), json!(seen.synchronous)),
        ("receiver".to_owned(), json!(seen.receiver)),
        ("confirming".to_owned(), json!(seen.confirming)),
        ("slots".to_owned(), json!(seen.slots)),
    ])
}

/// Facts as a server tells them, for checking the expressions of a blueprint.
pub(super) fn sample() -> Facts {
    facts(&Seen::default())
}

/// A server that answers and lets nobody in.
fn refused(code: &str, message: String, data_dir: &Path) -> EngineView {
    let mut view = EngineView { alive: true, ..EngineView::default() };
    match code {
        // Starting, stopping, or not consistent yet: all are told by the one code.
        "57P03" => {
            if !message.contains("shutting down") {
                view.recovering = Some(replay_progress(data_dir).unwrap_or_default());
            }
        }
        "28P01" | "28000" | "42501" => view.problem = Some((Reason::PermissionDenied, message)),
        _ => view.problem = Some((Reason::EngineUnhealthy, format!("{code} {message}"))),
    }
    view
}

/// How far a server that lets nobody in has replayed, by the title of its startup process: the start of the
/// segment it reads.
fn replay_progress(data_dir: &Path) -> Option<Lsn> {
    let lock = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let pid: u32 = lock.lines().next()?.trim().parse().ok()?;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_ascii_whitespace().find_map(|child| {
        let title = fs::read(format!("/proc/{child}/cmdline")).ok()?;
        let title = String::from_utf8_lossy(&title).into_owned();
        let (_, segment) = title.split_once("recovering ")?;
        segment_start(segment.get(..24)?)
    })
}

/// The first position of a segment, by its file name, for segments of 16 MiB: larger ones make the number smaller
/// than it is, which still grows.
fn segment_start(name: &str) -> Option<Lsn> {
    let log = u64::from_str_radix(name.get(8..16)?, 16).ok()?;
    let segment = u64::from_str_radix(name.get(16..24)?, 16).ok()?;
    Some((log << 32) + (segment << 24))
}

/// A position as PostgreSQL writes it (`16/B374D848`).
pub(crate) fn parse_lsn(text: &str) -> Option<Lsn> {
    let (high, low) = text.trim().split_once('/')?;
    let high = u32::from_str_radix(high, 16).ok()?;
    let low = u32::from_str_radix(low, 16).ok()?;
    Some(u64::from(high) << 32 | u64::from(low))
}

/// A position as PostgreSQL writes it.
pub(crate) fn show_lsn(lsn: Lsn) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)
}

/// The address in a connection string that our own templates wrote.
fn parse_host(conninfo: &str) -> Option<std::net::IpAddr> {
    let (_, rest) = conninfo.split_once("host=")?;
    rest.split_ascii_whitespace().next()?.trim_matches('\'').parse().ok()
}

/// Runs SQL and gives its rows as text: columns joined by `|`, rows by line breaks.
pub(super) async fn sql(access: &Access, database: &str, text: &str) -> Result<String, ProtocolError> {
    let mut client = Client::connect(access, database, Side::Plain).await?;
    let rows = client.query(text).await?;
    let line = |row: &Row| {
        row.iter().map(|column| column.as_deref().unwrap_or_default()).collect::<Vec<_>>().join("|")
    };
    Ok(rows.iter().map(line).collect::<Vec<_>>().join("\n"))
}

/// The first column of the first row.
pub(crate) fn single(rows: &[Row]) -> Option<String> {
    rows.first()?.first()?.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe() -> PostgresqlProbe {
        toml::from_str("port = 'p'\nuser = 'u'\npassword = 'w'\ndatabase = 'd'\nready_lag = '16MiB'").unwrap()
    }

    #[test]
    fn positions_are_read_as_they_are_written() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(show_lsn(parse_lsn(text).unwrap()), text);
        }
        assert_eq!(parse_lsn("16"), None);
        assert_eq!(segment_start("000000020000000A00000003"), Some((10 << 32) + (3 << 24)));
    }

    #[test]
    fn a_standby_tells_no_position_before_it_has_replayed_its_own_log() {
        let mut seen =
            Seen { in_recovery: true, timeline: 2, reached: 100, replayed: Some(100), ..Seen::default() };
        let replaying = view(&seen, &probe(), 0);
        assert_eq!((replaying.position, replaying.recovering), (None, Some(100)));
        seen.startup_waits = "RecoveryRetrieveRetryInterval".to_owned();
        let waiting = view(&seen, &probe(), 0);
        assert_eq!(waiting.position, Some(Position { timeline: 2, offset: 100 }));
        assert_eq!(waiting.recovering, None);
        // Received on a later timeline and not replayed: the position would be too low.
        seen.received = Some(200);
        assert_eq!(view(&seen, &probe(), 0).position, None);
    }

    #[test]
    fn a_primary_without_its_standbys_says_so() {
        let seen = Seen { confirming: 0, ..Seen::default() };
        assert_eq!(view(&seen, &probe(), 1).problem.unwrap().0, Reason::SyncStandbyMissing);
        assert_eq!(view(&seen, &probe(), 0).problem, None);
    }
}
