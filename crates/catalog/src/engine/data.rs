//! A member's data: made whole or not at all, checked before every start, brought back into line.

use std::fs;
use std::path::{Path, PathBuf};

use steadfast_core::engine::{Peer, WantedRole};
use steadfast_core::model::Reason;
use steadfast_core::{ErrorKind, Result};

use super::history::Kinship;
use super::steps::Extras;
use super::{BlueprintEngine, files, major_matches};
use crate::context::Context;
use crate::failure::coded;
use crate::format::{Reconcile, Step};

/// Where data is made before it takes the data folder's name.
const PARTIAL: &str = ".partial";
/// Says that data is between two histories.
const HALF_REWOUND: &str = ".rewinding";
/// Where old data waits until its new copy is in place.
const ASIDE: &str = ".aside";

/// How data stands to the member it shall follow.
struct Rejoined {
    /// Whether its history is known to be a part of that member's.
    in_line: bool,
    /// What was done to make it so.
    remarks: Vec<(Reason, String)>,
}

impl Rejoined {
    fn with(reason: Reason, text: String) -> Self {
        Rejoined { in_line: true, remarks: vec![(reason, text)] }
    }
}

impl BlueprintEngine {
    /// Makes the data folder by these steps, unless it is complete already.
    pub(super) async fn make_data(
        &self,
        operation: &'static str,
        steps: &[Step],
        from: Option<&Peer>,
    ) -> Result<()> {
        let context = self.context()?;
        let dir = self.settle_folders(operation, &context).await?;
        if dir.join(&self.definition.format().data.complete).exists() {
            return Ok(());
        }
        self.clear_incomplete(operation, &dir)?;
        let partial = files::with_suffix(&dir, PARTIAL);
        self.fill(operation, steps, from, &partial).await?;
        self.io(operation, &dir, files::rename(&partial, &dir)).map(drop)
    }

    /// Checks data before a start, and brings it into line.
    pub(super) async fn bring_into_line(&self, wanted: &WantedRole) -> Result<Vec<(Reason, String)>> {
        const OPERATION: &str = "reconcile";
        let context = self.context()?;
        let dir = self.settle_folders(OPERATION, &context).await?;
        self.check_present(OPERATION, &dir)?;
        self.check_version(OPERATION, &dir)?;
        let rejoined = match (&self.definition.format().reconcile, wanted) {
            (Some(reconcile), WantedRole::Follow(target)) => {
                let rejoined = self.rejoin(reconcile, target, &dir).await?;
                Some((target, rejoined))
            }
            _ => {
                self.refuse_half_rewound(OPERATION, &dir)?;
                None
            }
        };
        let actions = &self.definition.format().actions;
        self.steps("prepare", &actions.before_start, &mut Extras::default()).await?;
        let Some((target, Rejoined { in_line, remarks })) = rejoined else { return Ok(Vec::new()) };
        if in_line {
            let mut extras = Extras { target: Some(target), ..Extras::default() };
            self.steps("prepare", &actions.before_following, &mut extras).await?;
        }
        Ok(remarks)
    }

    /// Makes the data's history a part of `target`'s.
    async fn rejoin(&self, reconcile: &Reconcile, target: &Peer, dir: &Path) -> Result<Rejoined> {
        const OPERATION: &str = "rejoin";
        let mark = files::with_suffix(dir, HALF_REWOUND);
        if mark.exists() {
            self.clone_anew(target, dir).await?;
            let text = format!("copied anew from {}: an earlier rewinding was cut short", target.name);
            return Ok(Rejoined::with(Reason::Recloned, text));
        }
        let (from, to) = match self.kinship(target).await? {
            Kinship::Same => return Ok(Rejoined { in_line: true, remarks: Vec::new() }),
            Kinship::Unknown(why) => {
                // It starts as a standby all the same, and is looked at again when it is told to follow.
                tracing::info!(member = self.subject(), why, "the history is not compared yet");
                return Ok(Rejoined { in_line: false, remarks: Vec::new() });
            }
            Kinship::Gone { from } => {
                self.clone_anew(target, dir).await?;
                let text =
                    format!("copied anew from {}, which no longer has what follows {from}", target.name);
                return Ok(Rejoined::with(Reason::Recloned, text));
            }
            Kinship::Diverged { from, to } => (from, to),
        };
        let given_up = format!("what was written here alone is given up, from {from} to {to}");
        self.io(OPERATION, &mark, files::write(&mark, "", 0o600, self.host.user))?;
        let mut extras = Extras { target: Some(target), ..Extras::default() };
        let rewound = if reconcile.rewind.is_empty() {
            Err(self.failed(ErrorKind::Unsupported, OPERATION, "the engine cannot rewind"))
        } else {
            self.rewind(&reconcile.rewind, target, &mut extras).await
        };
        match rewound {
            Ok(()) => {
                self.io(OPERATION, &mark, files::remove_file(&mark))?;
                let text = format!("rewound to the history of {}: {given_up}", target.name);
                Ok(Rejoined::with(Reason::Rewound, text))
            }
            Err(error) => {
                self.clone_anew(target, dir).await?;
                let text = format!("copied anew from {}: {given_up} ({})", target.name, error.message());
                Ok(Rejoined::with(Reason::Recloned, text))
            }
        }
    }

    /// Rewinds, and looks whether that brought the data into line: two members promoted from the same place look
    /// alike to the engine's own program, which then does nothing.
    async fn rewind(&self, steps: &[Step], target: &Peer, extras: &mut Extras<'_>) -> Result<()> {
        self.steps("rewind", steps, extras).await?;
        match self.kinship(target).await? {
            Kinship::Same => Ok(()),
            other => {
                let message = format!("the engine's own rewinding left it as {other:?}");
                Err(self.failed(ErrorKind::Unsupported, "rewind", message))
            }
        }
    }

    /// Copies the data from `target` and puts the copy in the old data's place, which is kept until then.
    async fn clone_anew(&self, target: &Peer, dir: &Path) -> Result<()> {
        const OPERATION: &str = "reclone";
        let partial = files::with_suffix(dir, PARTIAL);
        files::remove_folder(&partial).await.map_err(|error| self.disk(OPERATION, &partial, error))?;
        self.fill(OPERATION, &self.definition.format().actions.join, Some(target), &partial).await?;
        let aside = files::with_suffix(dir, ASIDE);
        self.io(OPERATION, &aside, files::rename(dir, &aside))?;
        self.io(OPERATION, dir, files::rename(&partial, dir))?;
        let mark = files::with_suffix(dir, HALF_REWOUND);
        self.io(OPERATION, &mark, files::remove_file(&mark))?;
        files::remove_folder(&aside).await.map_err(|error| self.disk(OPERATION, &aside, error))
    }

    fn refuse_half_rewound(&self, operation: &'static str, dir: &Path) -> Result<()> {
        if !files::with_suffix(dir, HALF_REWOUND).exists() {
            return Ok(());
        }
        Err(coded(
            ErrorKind::Corrupt,
            &Reason::VolumeCorrupt,
            self.definition.name(),
            operation,
            self.subject(),
            "its rewinding was cut short: it can only be copied anew, from a primary",
        )
        .without_effect())
    }

    /// Undoes what an earlier run left half done.
    async fn settle_folders(&self, operation: &'static str, context: &Context) -> Result<PathBuf> {
        let dir = PathBuf::from(context.text("data_dir"));
        let aside = files::with_suffix(&dir, ASIDE);
        if aside.exists() {
            if dir.exists() {
                // The new copy is in place.
                files::remove_folder(&aside).await.map_err(|error| self.disk(operation, &aside, error))?;
            } else {
                self.io(operation, &dir, files::rename(&aside, &dir))?;
            }
        }
        let partial = files::with_suffix(&dir, PARTIAL);
        files::remove_folder(&partial).await.map_err(|error| self.disk(operation, &partial, error))?;
        Ok(dir)
    }

    /// Runs the steps that make data in the folder `partial`.
    async fn fill(
        &self,
        operation: &'static str,
        steps: &[Step],
        from: Option<&Peer>,
        partial: &Path,
    ) -> Result<()> {
        self.io(operation, partial, files::make_folder(partial, self.host.user))?;
        let mut extras = Extras { dir: Some(partial), target: from, ..Extras::default() };
        self.steps(operation, steps, &mut extras).await?;
        let complete = &self.definition.format().data.complete;
        if partial.join(complete).exists() {
            Ok(())
        } else {
            Err(self.failed(
                ErrorKind::Internal,
                operation,
                format_args!("the steps ended without {complete}: the blueprint is wrong"),
            ))
        }
    }

    /// Removes a data folder that holds configuration files at most. Anything else may be somebody's data.
    fn clear_incomplete(&self, operation: &'static str, dir: &Path) -> Result<()> {
        use steadfast_core::engine::Engine as _;
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.disk(operation, dir, error)),
        };
        let ours: Vec<PathBuf> = self.config()?.into_iter().map(|file| file.path).collect();
        for entry in entries {
            let path = entry.map_err(|error| self.disk(operation, dir, error))?.path();
            if !ours.contains(&path) {
                return Err(coded(
                    ErrorKind::Corrupt,
                    &Reason::VolumeCorrupt,
                    self.definition.name(),
                    operation,
                    self.subject(),
                    format_args!(
                        "{} holds {} but not {}; look at it, and move it away if it can be given up",
                        dir.display(),
                        path.display(),
                        self.definition.format().data.complete,
                    ),
                )
                .without_effect());
            }
            self.io(operation, &path, files::remove_file(&path))?;
        }
        self.io(operation, dir, fs::remove_dir(dir)).map(drop)
    }

    fn check_present(&self, operation: &'static str, dir: &Path) -> Result<()> {
        let data = &self.definition.format().data;
        let complete = dir.join(&data.complete).exists();
        // One that learns is being filled by the others: what it has of its data it may have lost again.
        let present = self.context.learner
            || data.present_any.is_empty()
            || data.present_any.iter().any(|name| is_present(dir, name));
        if complete && present {
            return Ok(());
        }
        let missing = if complete { data.present_any.join(" or ") } else { data.complete.clone() };
        Err(coded(
            ErrorKind::Corrupt,
            &data.lost,
            self.definition.name(),
            operation,
            self.subject(),
            format_args!("{} must hold data and has no {missing}; bring the volume back", dir.display()),
        )
        .without_effect())
    }

    fn check_version(&self, operation: &'static str, dir: &Path) -> Result<()> {
        let Some(name) = &self.definition.format().data.version_file else { return Ok(()) };
        let path = dir.join(name);
        let found = fs::read_to_string(&path).map_err(|error| self.disk(operation, &path, error))?;
        let found = found.trim();
        if major_matches(found, self.definition.version()) {
            return Ok(());
        }
        Err(coded(
            ErrorKind::Unsupported,
            &Reason::EngineMismatch,
            self.definition.name(),
            operation,
            self.subject(),
            format_args!(
                "the data was made by version {found}, and version {} is to run on it; use blueprint {}@{found}",
                self.definition.version(),
                self.definition.name(),
            ),
        )
        .without_effect())
    }
}

/// Whether there is a file of this name; one that ends in `*` stands for all that begin so.
fn is_present(dir: &Path, name: &str) -> bool {
    let Some(prefix) = name.strip_suffix('*') else { return dir.join(name).exists() };
    let (folder, beginning) = prefix.rsplit_once('/').unwrap_or(("", prefix));
    fs::read_dir(dir.join(folder)).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(beginning))
    })
}
