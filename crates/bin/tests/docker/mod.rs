//! Engines of Docker, each on a machine of its own: a network namespace, with a mount namespace that has a `/run` of its
//! own, so that every path is what it is on a real machine.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "test support: each test file uses its part, and a failure is a panic"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::network::{Machine, eventually};

/// The image that the tests make: Redis, as it is on this machine.
pub const IMAGE: &str = "steadfast-lab-redis";

/// Whether this machine has the engine of Docker; says so if the test is left out for want of it.
pub fn has_docker(test: &str) -> bool {
    let found = ["/usr/sbin/dockerd", "/usr/bin/containerd", "/usr/sbin/iptables"];
    let found = found.iter().all(|program| Path::new(program).exists());
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{test} needs docker.io");
        println!("left out: {test}: docker.io is not installed");
    }
    found
}

/// The namespaces of a machine, and the engine on it.
pub struct Docker {
    /// Keeps the namespaces.
    holder: Child,
    engine: Option<Child>,
    folder: PathBuf,
}

impl Docker {
    /// A machine of this host name, without an engine yet; what the engine keeps is below `folder`.
    pub fn prepare(machine: &Machine, name: &str, folder: PathBuf) -> Docker {
        fs::create_dir_all(&folder).unwrap();
        let mut command = Command::new("unshare");
        let script = format!(
            "mount -t tmpfs tmpfs /run && mkdir -p /run/lock && hostname {name} && touch /run/ready && exec sleep infinity"
        );
        command.args(["--mount", "--uts", "sh", "-c", &script]).stdin(Stdio::null());
        let holder = machine.run(async move { command.spawn().unwrap() });
        let docker = Docker { holder, engine: None, folder };
        eventually("the namespaces", || docker.within("/run/ready").exists().then_some(()));
        docker
    }

    /// A path of this machine as it is seen from outside.
    pub fn within(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.id()))
    }

    /// A program on this machine: to be run by the thread of its network namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.holder.id().to_string(), "--mount", "--uts", "--"]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Starts the engine, and waits for it.
    pub fn start(&mut self, machine: &Machine) {
        let log = fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = self.command("/usr/sbin/dockerd");
        command.arg("--data-root").arg(self.folder.join("data"));
        command.arg("--exec-root").arg(self.folder.join("exec"));
        command.arg("--pidfile").arg(self.folder.join("pid"));
        command.args(["--host", "unix:///run/docker.sock", "--bridge", "none", "--iptables=false"]);
        command.args(["--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"]);
        // What died without a word has left it.
        fs::remove_file(self.folder.join("pid")).ok();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.engine = Some(machine.run(async move { command.spawn().unwrap() }));
        eventually("the engine answers", || self.run(machine, &["version"]).status.success().then_some(()));
    }

    /// Kills the engine where it stands. Its containers live on until it is started again.
    pub fn kill(&mut self) {
        let mut engine = self.engine.take().unwrap();
        let part = fs::read_to_string(self.folder.join("exec/containerd/containerd.pid")).unwrap();
        engine.kill().unwrap();
        engine.wait().unwrap();
        // Its other half dies with it. The next engine would wait for that in vain if it still saw it.
        eventually("all of the engine is dead", || {
            (!Path::new("/proc").join(part.trim()).exists()).then_some(())
        });
    }

    /// The engine's process.
    pub fn process(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.engine.as_ref().unwrap().id()).unwrap())
    }

    /// `docker` on this machine.
    pub fn run(&self, machine: &Machine, arguments: &[&str]) -> Output {
        machine.output(self.docker(arguments))
    }

    /// The same, which must succeed; gives what it printed.
    pub fn expect(&self, machine: &Machine, arguments: &[&str]) -> String {
        let output = self.run(machine, arguments);
        assert!(output.status.success(), "docker {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The same, to be started.
    pub fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("docker");
        command.args(["--host", "unix:///run/docker.sock"]).args(arguments).env_remove("DOCKER_HOST");
        command
    }

    /// Makes the image of Redis. The libraries that the guard needs are among those of Redis.
    pub fn make_image(&self, machine: &Machine) {
        self.make_image_of(machine, "redis-server", IMAGE);
    }

    /// Makes an image of what is on this machine.
    pub fn make_image_of(&self, machine: &Machine, what: &str, name: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/image");
        let make =
            format!("{} {what} | docker --host unix:///run/docker.sock import - {name}", script.display());
        let mut command = self.command("bash");
        command.args(["-euo", "pipefail", "-c", &make]).env_remove("DOCKER_HOST");
        let output = machine.output(command);
        assert!(output.status.success(), "{output:?}");
    }

    /// What is mounted on this machine below this path.
    pub fn mounts_below(&self, path: &str) -> Vec<String> {
        let all = fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).unwrap();
        all.lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|mount| mount.starts_with(path))
            .map(str::to_owned)
            .collect()
    }

    /// The last that the engine said.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("level=debug")).collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if let Some(mut engine) = self.engine.take() {
            // In order: it ends its containers.
            kill(Pid::from_raw(i32::try_from(engine.id()).unwrap()), Signal::SIGTERM).ok();
            engine.wait().ok();
        }
        // What an engine that was killed has left names this folder, which is nobody else's.
        let folder = self.folder.to_str().unwrap().to_owned();
        let ours = |pid: i32| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&folder))
        };
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
            if let Some(pid) = pid.filter(|pid| ours(*pid)) {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
        }
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}
