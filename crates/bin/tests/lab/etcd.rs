//! The members of etcd of a [`Lab`], one on each machine.

use std::fs;
use std::process::Command;

use serde_json::Value;

use super::{COUNT, Lab, end, put};
use crate::common::{expect, out};
use crate::network::Network;

impl Lab {
    pub fn start_etcd(&mut self, at: u8) {
        self.start_etcd_in(at, &format!("etcd{at}"), &[]);
    }

    /// The member of etcd of a machine, on this folder.
    fn start_etcd_in(&mut self, at: u8, folder: &str, more: &[&str]) {
        let own = Network::address(at);
        let all: Vec<String> =
            (0..COUNT).map(|at| format!("m{at}=http://{}:2380", Network::address(at))).collect();
        let (client, peer) = (format!("http://{own}:2379"), format!("http://{own}:2380"));
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("m{at}"), "--listen-client-urls", &client]);
        command.args(["--advertise-client-urls", &client, "--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &all.join(",")]);
        command.arg("--data-dir").arg(self.folder.path().join(folder)).args(more);
        let etcd = self.start(at, command);
        put(&mut self.etcds, at, etcd);
    }

    /// Writes down what etcd has, as a backup.
    pub fn back_etcd_up(&self, at: u8) {
        let file = self.folder.path().join("backup");
        fs::remove_file(&file).ok();
        self.etcdctl(at, &["snapshot", "save", file.to_str().unwrap()]);
    }

    /// Puts every member of etcd back to the backup.
    pub fn put_etcd_back(&mut self) {
        for at in 0..COUNT {
            self.kill_etcd(at);
        }
        let all: Vec<String> =
            (0..COUNT).map(|at| format!("m{at}=http://{}:2380", Network::address(at))).collect();
        for at in 0..COUNT {
            let folder = self.folder.path().join(format!("etcd{at}"));
            fs::remove_dir_all(&folder).unwrap();
            let mut command = Command::new("etcdctl");
            command.env("ETCDCTL_API", "3").args(["snapshot", "restore"]);
            command.arg(self.folder.path().join("backup")).arg("--data-dir").arg(folder);
            command.args(["--name", &format!("m{at}"), "--initial-cluster", &all.join(",")]);
            let peer = format!("http://{}:2380", Network::address(at));
            command.args(["--initial-advertise-peer-urls", &peer]);
            expect(&self.machine(at).output(command), 0);
        }
        for at in 0..COUNT {
            self.start_etcd(at);
        }
    }

    /// Has a machine's server take etcd for what it is, as its refusal says.
    pub fn accept_etcd(&mut self, at: u8) {
        self.kill_server(at);
        fs::remove_file(self.data(at).join("store/etcd-revision")).ok();
        self.serve(at, &[]);
    }

    pub fn kill_etcd(&mut self, at: u8) {
        end(&mut self.etcds[usize::from(at)]);
    }

    /// `etcdctl` with the member of a machine.
    pub fn etcdctl(&self, at: u8, arguments: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(arguments);
        command.args(["--endpoints", &format!("http://{}:2379", Network::address(at))]);
        let output = self.machine(at).output(command);
        expect(&output, 0);
        out(&output)
    }

    /// The members of etcd, each with who leads as it says.
    fn etcd_members(&self) -> Vec<(u64, u64)> {
        let member = |at| {
            let told = self.etcdctl(at, &["-w", "json", "endpoint", "status"]);
            let told: Value = serde_json::from_str(&told).unwrap();
            let status = &told[0]["Status"];
            (status["header"]["member_id"].as_u64().unwrap(), status["leader"].as_u64().unwrap())
        };
        (0..COUNT).map(member).collect()
    }

    /// The machine whose etcd member leads.
    pub fn etcd_leader(&self) -> u8 {
        let members = self.etcd_members();
        (0..COUNT).find(|at| members[usize::from(*at)].0 == members[0].1).unwrap()
    }

    /// Has the etcd member of a machine lead the others.
    pub fn lead_etcd(&self, at: u8) {
        let (wanted, _) = self.etcd_members()[usize::from(at)];
        let leads = self.etcd_leader();
        if leads != at {
            self.etcdctl(leads, &["move-leader", &format!("{wanted:x}")]);
        }
    }
}
