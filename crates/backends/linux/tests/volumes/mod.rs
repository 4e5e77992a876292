//! Two machines that share a folder of volumes. They have one kernel, and each a folder of mounts.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "test support: each test file uses its part, and a failure is a panic"
)]

pub mod killer;
pub mod writer;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use steadfast_backend_embedded::volumes::DirectoryVolumes;
use steadfast_backend_linux::volumes::{Filesystem, ImageVolumes};
use steadfast_core::Environment;
use steadfast_core::ids::{NodeName, VolumeId};
use steadfast_core::volume::{VolumeProvider, VolumeSpec, VolumeStatus};

/// Whether this user and machine can do it; says so if the test is left out for want of that.
pub fn may_mount(test: &str, filesystem: Filesystem) -> bool {
    let program = format!("mkfs.{}", filesystem.as_str());
    let installed = ["/usr/sbin", "/sbin"].iter().any(|folder| Path::new(folder).join(&program).exists());
    let why = match (nix::unistd::geteuid().is_root(), installed) {
        (true, true) => return true,
        (false, _) => "only root mounts".to_owned(),
        (true, false) => format!("{program} is not installed: scripts/install-packages filesystems"),
    };
    assert!(std::env::var_os("CI").is_none(), "{test}: {why}");
    println!("left out: {test}: {why}");
    false
}

pub fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// The folder that is shared, and those of the machines. Unmounts what is left in it.
#[derive(Debug)]
pub struct Lab {
    folder: tempfile::TempDir,
    filesystem: Filesystem,
}

impl Lab {
    pub fn new(filesystem: Filesystem) -> Lab {
        let folder = tempfile::Builder::new().prefix("sf volumes").tempdir().unwrap();
        fs::create_dir(folder.path().join("shared")).unwrap();
        Lab { folder, filesystem }
    }

    /// One whose shared folder shares blocks between files: an XFS of its own.
    pub fn that_shares_blocks(filesystem: Filesystem) -> Lab {
        let lab = Lab::new(filesystem);
        let disk = lab.path().join("disk");
        fs::File::create(&disk).unwrap().set_len(4 << 30).unwrap();
        for (program, arguments) in [("mkfs.xfs", vec!["-q"]), ("mount", vec!["-o", "loop"])] {
            let mut command = Command::new(program);
            command.args(arguments).arg(&disk);
            if program == "mount" {
                command.arg(lab.shared());
            }
            assert!(command.status().unwrap().success(), "{program}");
        }
        lab
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn shared(&self) -> PathBuf {
        self.path().join("shared")
    }

    /// The volumes as the agent of a machine has them.
    pub fn agent(&self, name: &str) -> ImageVolumes {
        agent(self.path(), name, self.filesystem).unwrap()
    }

    /// The volumes as a server has them.
    pub fn server(&self) -> ImageVolumes {
        server(self.path(), self.filesystem)
    }

    pub fn target(&self, name: &str, id: &VolumeId) -> PathBuf {
        self.path().join(name).join(id.as_str())
    }

    /// The files of a volume.
    pub fn volume(&self, id: &VolumeId) -> PathBuf {
        self.shared().join("volumes").join(id.as_str())
    }

    /// The one file that is the volume.
    pub fn image(&self, id: &VolumeId) -> PathBuf {
        let [image] = &self.images(id)[..] else { panic!("{:?}", self.images(id)) };
        image.clone()
    }

    /// Everything in a volume's folder that may be an image of it.
    pub fn images(&self, id: &VolumeId) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.volume(id)).unwrap().map(|entry| entry.unwrap().path());
        let numbered = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.strip_prefix("image.").is_some_and(|rest| rest.parse::<u64>().is_ok())
        };
        entries.filter(numbered).collect()
    }

    pub fn spec(&self) -> VolumeSpec {
        spec(self.filesystem)
    }

    /// What is mounted below a folder.
    pub fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = self.path().to_str().unwrap().replace(' ', "\\040");
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        points.filter(|point| point.starts_with(&own)).map(str::to_owned).collect()
    }

    /// The files of this lab that a loop device has.
    pub fn loops(&self) -> Vec<String> {
        let listed = Command::new("losetup").args(["-l", "-n", "-O", "BACK-FILE"]).output().unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        let own = self.path().to_str().unwrap();
        text.lines().filter(|line| line.contains(own)).map(str::to_owned).collect()
    }

    pub fn assert_nothing_left(&self) {
        assert_eq!((self.mounts(), self.loops()), (Vec::new(), Vec::new()));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for point in self.mounts().iter().rev() {
            // Best effort: what cannot be unmounted was told by the test that failed.
            Command::new("umount").arg("-l").arg(point.replace("\\040", " ")).status().ok();
        }
    }
}

pub fn spec(filesystem: Filesystem) -> VolumeSpec {
    VolumeSpec {
        cluster: "c1".parse().unwrap(),
        member: "m-1".parse().unwrap(),
        member_name: "orders-0".parse().unwrap(),
        name: "data".parse().unwrap(),
        size_bytes: filesystem.least_bytes(),
        class: "default".to_owned(),
        zone: None,
    }
}

fn folders(lab: &Path) -> Arc<dyn VolumeProvider> {
    let environment = Environment::system([3; 32]);
    Arc::new(DirectoryVolumes::open(&lab.join("shared"), environment).unwrap().shared())
}

pub fn server(lab: &Path, filesystem: Filesystem) -> ImageVolumes {
    let volumes = ImageVolumes::recorded(folders(lab), filesystem, Environment::system([5; 32]));
    volumes.with_snapshots(&lab.join("shared/snapshots")).unwrap()
}

pub fn agent(lab: &Path, name: &str, filesystem: Filesystem) -> steadfast_core::Result<ImageVolumes> {
    let environment = Environment::system([4; 32]);
    ImageVolumes::on(folders(lab), filesystem, environment, node(name), &lab.join(name))?
        .with_snapshots(&lab.join("shared/snapshots"))
}

/// Attaches a volume to a machine; gives where it is mounted.
pub async fn attached(agent: &ImageVolumes, name: &str, id: &VolumeId) -> PathBuf {
    agent.begin_attach(id, &node(name)).await.unwrap();
    seen(agent, id).await.device.expect("it is mounted")
}

pub async fn seen(volumes: &ImageVolumes, id: &VolumeId) -> VolumeStatus {
    volumes.describe(id).await.unwrap().unwrap()
}
