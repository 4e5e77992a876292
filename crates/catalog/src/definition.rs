//! A blueprint with all its files, at one version of its engine.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use steadfast_core::engine::{Engine, EngineContext};
use steadfast_core::model::{self, Durability, RollingOrder, StoredPort};
use steadfast_core::{Error, ErrorKind, Result};

use crate::engine::{BlueprintEngine, EngineHost};
use crate::format::{Format, Orchestrator, Rolling, RunAs};
use crate::lint::{self, Finding};
use crate::template::Templates;

/// The file that every blueprint has.
pub const MAIN_FILE: &str = "blueprint.toml";

/// A blueprint with all its files, at one version of its engine. Cheap to clone.
#[derive(Clone)]
pub struct Definition {
    inner: Arc<Inner>,
    version: String,
}

struct Inner {
    format: Format,
    files: BTreeMap<String, String>,
    digest: String,
    templates: Templates,
}

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Definition({}@{})", self.name(), self.version)
    }
}

impl Definition {
    /// The blueprint in these files, by name: `blueprint.toml` and the templates it names.
    ///
    /// # Errors
    /// Everything that [`lint`](crate::lint()) finds.
    pub fn from_files(files: BTreeMap<String, String>) -> Result<Self, Vec<Finding>> {
        let findings = lint::lint_files(Path::new(""), &files);
        if !findings.is_empty() {
            return Err(findings);
        }
        Self::parse(files).map_err(|message| {
            vec![Finding {
                file: MAIN_FILE.into(),
                line: 1,
                column: 1,
                message,
                remedy: "correct the file".to_owned(),
            }]
        })
    }

    /// The blueprint in a folder.
    ///
    /// # Errors
    /// As [`from_files`](Self::from_files), and a folder that cannot be read.
    pub fn from_folder(folder: &Path) -> Result<Self, Vec<Finding>> {
        let files = read_folder(folder).map_err(|finding| vec![finding])?;
        Self::from_files(files).map_err(|findings| {
            findings
                .into_iter()
                .map(|finding| Finding { file: folder.join(&finding.file), ..finding })
                .collect()
        })
    }

    /// The blueprint as [`stored`](Self::stored) wrote it, at its default version.
    ///
    /// # Errors
    /// `Corrupt` if it is not one, or a newer version wrote it.
    pub fn from_stored(stored: &Value) -> Result<Self> {
        let corrupt = |message: String| {
            Error::new(ErrorKind::Corrupt, "catalog", "read", "stored blueprint", message).without_effect()
        };
        let files =
            stored.get("files").cloned().ok_or_else(|| corrupt("it has no files".to_owned())).and_then(
                |files| serde_json::from_value(files).map_err(|error| corrupt(error.to_string())),
            )?;
        Self::parse(files).map_err(corrupt)
    }

    pub(crate) fn parse(files: BTreeMap<String, String>) -> Result<Self, String> {
        let main = files.get(MAIN_FILE).ok_or_else(|| format!("{MAIN_FILE} is missing"))?;
        let format: Format = toml::from_str(main).map_err(|error| error.message().to_owned())?;
        let version = format.versions.first().cloned().ok_or("versions is empty")?;
        let digest = digest(&files);
        let inner = Inner { format, files, digest, templates: Templates::new() };
        Ok(Definition { inner: Arc::new(inner), version })
    }

    /// The same blueprint at another of its versions; `None` if it is not made for that.
    pub fn at_version(&self, version: &str) -> Option<Self> {
        self.format()
            .versions
            .iter()
            .find(|known| *known == version)
            .map(|known| Definition { inner: Arc::clone(&self.inner), version: known.clone() })
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.format().name.as_str()
    }

    /// The engine's major version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The whole format.
    pub fn format(&self) -> &Format {
        &self.inner.format
    }

    /// The SHA-256 over all files, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.inner.digest
    }

    /// As whom the engine runs.
    pub fn run_as(&self) -> &RunAs {
        &self.format().run_as
    }

    /// All files, to be stored under the digest and read by [`from_stored`](Self::from_stored).
    pub fn stored(&self) -> Value {
        json!({ "format": 1, "name": self.name(), "files": self.inner.files })
    }

    /// The facts that planning needs, for a service of `replicas` members.
    ///
    /// # Errors
    /// `Invalid` if the rule for confirming replicas cannot be evaluated.
    pub fn facts(&self, replicas: u32, durability: Durability) -> Result<model::Blueprint> {
        let format = self.format();
        Ok(model::Blueprint {
            name: format.name.clone(),
            version: self.version.clone(),
            digest: self.digest().to_owned(),
            leadership: format.leadership,
            topology: format.topology,
            ports: format
                .ports
                .iter()
                .map(|port| StoredPort { name: port.name.clone(), port: port.port, client: port.client })
                .collect(),
            volumes: format.volumes.iter().map(|volume| (volume.name.clone(), volume.size.0)).collect(),
            confirming_replicas: self.confirming(replicas, durability)?,
            learners: format.learners,
            rolling: match format.rolling {
                Rolling::ReplicasFirst => RollingOrder::ReplicasFirst,
                Rolling::InPlace | Rolling::OneByOne => RollingOrder::InPlace,
            },
            start_deadline_ms: u64::try_from(format.start_deadline.0.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// How many replicas confirm a write besides the primary.
    pub(crate) fn confirming(&self, replicas: u32, durability: Durability) -> Result<u32> {
        let class = self.durability(durability)?;
        self.templates()
            .evaluate(&class.confirming_replicas, &minijinja::context! { replicas })
            .map_err(|error| error.message)
            .and_then(|value| {
                u32::try_from(value.clone()).map_err(|_| format!("{value} is not a number of replicas"))
            })
            .map_err(|message| self.invalid("plan", "confirming_replicas", message))
    }

    /// What a durability class promises, against which failure, and what it does not.
    pub fn guarantee(&self, durability: Durability) -> &str {
        self.format().durability.get(&durability).map_or("", |class| class.guarantee.as_str())
    }

    /// The engine of the member in `context`.
    pub fn engine(&self, context: EngineContext, host: EngineHost) -> Arc<dyn Engine> {
        Arc::new(BlueprintEngine::new(self.clone(), context, host))
    }

    pub(crate) fn durability(&self, class: Durability) -> Result<&crate::format::DurabilityFormat> {
        self.format().durability.get(&class).ok_or_else(|| {
            self.invalid("read", "durability", format_args!("the class {class:?} is not described"))
        })
    }

    pub(crate) fn templates(&self) -> &Templates {
        &self.inner.templates
    }

    pub(crate) fn file(&self, name: &str) -> Result<&str> {
        self.inner
            .files
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| self.invalid("read", name, "the blueprint has no such file"))
    }

    /// The paths at which to look for a program.
    pub(crate) fn program_paths(&self, name: &str) -> Option<Vec<PathBuf>> {
        let program = self.format().programs.get(&Orchestrator::Process)?.get(name)?;
        Some(program.paths.iter().map(|path| path.replace("{version}", &self.version).into()).collect())
    }

    pub(crate) fn invalid(
        &self,
        operation: &'static str,
        subject: impl fmt::Display,
        message: impl fmt::Display,
    ) -> Error {
        Error::new(ErrorKind::Invalid, self.name(), operation, subject, message).without_effect()
    }
}

pub(crate) fn read_folder(folder: &Path) -> Result<BTreeMap<String, String>, Finding> {
    let failed = |path: &Path, error: std::io::Error| Finding {
        file: path.to_owned(),
        line: 1,
        column: 1,
        message: error.to_string(),
        remedy: "give a folder with blueprint.toml and its templates, readable by this user".to_owned(),
    };
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(|error| failed(folder, error))? {
        let path = entry.map_err(|error| failed(folder, error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == MAIN_FILE || name.ends_with(".j2") {
            files.insert(name, fs::read_to_string(&path).map_err(|error| failed(&path, error))?);
        }
    }
    Ok(files)
}

fn digest(files: &BTreeMap<String, String>) -> String {
    let mut hash = Sha256::new();
    for (name, content) in files {
        // With their lengths, so that no two sets of files give the same bytes.
        for part in [name, content] {
            hash.update(part.len().to_be_bytes());
            hash.update(part.as_bytes());
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
