//! A client that writes to a Redis without end and keeps what was acknowledged, and a look at who can write to a volume.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "test support: each test file uses its part, and a failure is a panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::network::Machine;

/// How long a client waits for anything before it connects anew.
const PATIENCE: Duration = Duration::from_secs(1);

/// A connection to a Redis.
pub struct Redis {
    stream: BufReader<TcpStream>,
}

impl Redis {
    pub fn connect(address: &str, password: &str) -> io::Result<Redis> {
        let address: SocketAddr = format!("{address}:6379").parse().unwrap();
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut redis = Redis { stream: BufReader::new(stream) };
        redis.ask(&["AUTH", password])?;
        Ok(redis)
    }

    /// Asks, and gives what was answered, flat. What the server calls an error is one.
    pub fn ask(&mut self, words: &[&str]) -> io::Result<Vec<String>> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        let mut left = 1usize;
        while left > 0 {
            left -= 1;
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (kind, rest) = line.trim_end().split_at(1);
            match kind {
                "+" | ":" => answer.push(rest.to_owned()),
                "*" => left += rest.parse::<usize>().map_err(io::Error::other)?,
                "$" => {
                    let mut bytes = vec![0; rest.parse::<usize>().map_err(io::Error::other)? + 2];
                    self.stream.read_exact(&mut bytes)?;
                    bytes.truncate(bytes.len() - 2);
                    answer.push(String::from_utf8(bytes).map_err(io::Error::other)?);
                }
                _ => return Err(io::Error::other(line)),
            }
        }
        Ok(answer)
    }
}

/// Does something in the network of a machine.
pub fn on<T: Send + 'static>(machine: &Machine, job: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let network = fs::File::open(format!("/proc/{}/ns/net", machine.thread)).unwrap();
    std::thread::spawn(move || {
        setns(network, CloneFlags::CLONE_NEWNET).unwrap();
        job()
    })
}

/// A client that writes one number after the other.
pub struct Writer {
    name: String,
    /// By number, and when.
    acknowledged: Arc<Mutex<BTreeMap<u64, Instant>>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Writes from a machine to a Redis, whatever becomes of that.
    pub fn start(machine: &Machine, name: &str, address: &str, password: &str) -> Writer {
        let (acknowledged, end) = (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(AtomicBool::new(false)));
        let (name, address, password) = (name.to_owned(), address.to_owned(), password.to_owned());
        let (own, kept, until) = (name.clone(), Arc::clone(&acknowledged), Arc::clone(&end));
        let thread = on(machine, move || {
            let (mut connection, mut number) = (None, 0u64);
            while !until.load(Ordering::Acquire) {
                let Some(redis) = &mut connection else {
                    connection = Redis::connect(&address, &password).ok();
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                };
                number += 1;
                // What is not acknowledged may be there or not.
                match redis.ask(&["SADD", &own, &number.to_string()]) {
                    Ok(_) => drop(kept.lock().unwrap().insert(number, Instant::now())),
                    Err(_) => connection = None,
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Writer { name, acknowledged, end, thread: Some(thread) }
    }

    pub fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// When the first write since `moment` was acknowledged.
    pub fn acknowledged_since(&self, moment: Instant) -> Option<Instant> {
        self.acknowledged.lock().unwrap().values().copied().find(|at| *at >= moment)
    }

    /// What was acknowledged and is not there.
    pub fn missing(&self, redis: &mut Redis) -> io::Result<Vec<u64>> {
        let acknowledged: BTreeSet<u64> = self.acknowledged.lock().unwrap().keys().copied().collect();
        let there = redis.ask(&["SMEMBERS", &self.name])?;
        let there: BTreeSet<u64> = there.iter().map(|number| number.parse().unwrap()).collect();
        Ok(acknowledged.difference(&there).copied().collect())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Looks all the time at which engines have a file of a volume open to write.
pub struct Watch {
    end: Arc<AtomicBool>,
    /// Every time that it was more than one.
    found: Arc<Mutex<Vec<String>>>,
    looks: Arc<std::sync::atomic::AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// How the engine of a volume is known, and what it writes.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// The name of its process.
    pub program: &'static str,
    /// Whether a file of this name is one that it has open for as long as it may write.
    pub file: fn(&str) -> bool,
}

/// Redis: its append-only files.
pub const BY_REDIS: Written = Written { program: "redis-server", file: |name| name.ends_with(".aof") };
/// ZooKeeper: its log.
pub const BY_ZOOKEEPER: Written = Written { program: "java", file: |name| name.starts_with("log.") };

impl Watch {
    /// Over each volume in a folder.
    pub fn over(volumes: PathBuf, written: Written) -> Watch {
        let end = Arc::new(AtomicBool::new(false));
        let found = Arc::new(Mutex::new(Vec::new()));
        let looks = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (until, kept, counted) = (Arc::clone(&end), Arc::clone(&found), Arc::clone(&looks));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Acquire) {
                let writers = writers(&volumes, written);
                if !writers.is_empty() {
                    counted.fetch_add(1, Ordering::AcqRel);
                }
                for (volume, two) in writers.iter().filter(|(_, pids)| pids.len() > 1) {
                    kept.lock().unwrap().push(format!("{volume}: {two:?}"));
                }
                std::thread::sleep(Duration::from_millis(25));
            }
        });
        Watch { end, found, looks, thread: Some(thread) }
    }

    /// How often it has seen a writer, and every time that it has seen two on a volume.
    pub fn found(&self) -> (u64, Vec<String>) {
        (self.looks.load(Ordering::Acquire), self.found.lock().unwrap().clone())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// The engines that have a file of a volume open, by volume; not their children, which save for them.
fn writers(volumes: &Path, written: Written) -> BTreeMap<String, BTreeSet<i32>> {
    let mut files = BTreeMap::new();
    for volume in fs::read_dir(volumes).into_iter().flatten().flatten() {
        let name = volume.file_name().to_string_lossy().into_owned();
        files_below(&volume.path(), &name, written, &mut files);
    }
    let servers = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        (name.trim() == written.program).then_some(pid)
    });
    let servers: BTreeSet<i32> = servers.collect();
    let parent = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    let is_child = |pid: i32| parent(pid).is_some_and(|parent| servers.contains(&parent));
    let mut writers: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for pid in servers.iter().copied().filter(|pid| !is_child(*pid)) {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let open = open.filter_map(|entry| fs::metadata(entry.path()).ok());
        for volume in open.filter_map(|file| files.get(&(file.dev(), file.ino()))) {
            writers.entry(volume.clone()).or_default().insert(pid);
        }
    }
    writers
}

fn files_below(folder: &Path, volume: &str, written: Written, files: &mut BTreeMap<(u64, u64), String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(found) = entry.metadata() else { continue };
        if found.is_dir() {
            files_below(&entry.path(), volume, written, files);
        } else if entry.file_name().to_str().is_some_and(written.file) {
            files.insert((found.dev(), found.ino()), volume.to_owned());
        }
    }
}
