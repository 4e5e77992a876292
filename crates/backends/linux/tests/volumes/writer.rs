//! Somebody who uses a volume.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

/// How long a block is.
pub const BLOCK: usize = 4096;
/// How many there are in the file.
pub const BLOCKS: u64 = 1024;

/// Somebody who writes blocks, each numbered and on disk before it counts, round and round in one file.
#[derive(Debug)]
pub struct Writer {
    file: PathBuf,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub fn on(mount: &Path) -> Writer {
        let (file, acknowledged, stop) = (mount.join("written"), Arc::default(), Arc::default());
        let mut writer = Writer { file, acknowledged, stop, thread: None };
        let opened = File::create(&writer.file).unwrap();
        let (acknowledged, stop) = (Arc::clone(&writer.acknowledged), Arc::clone(&writer.stop));
        writer.thread = Some(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let number = acknowledged.load(Ordering::Relaxed);
                opened.write_all_at(&block(number), number % BLOCKS * BLOCK as u64).unwrap();
                opened.sync_data().unwrap();
                acknowledged.store(number + 1, Ordering::Relaxed);
            }
        }));
        writer
    }

    /// Waits until more is acknowledged than is now.
    pub async fn goes_on(&self) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        while self.acknowledged.load(Ordering::Relaxed) <= before + 1 {
            assert!(!self.thread.as_ref().unwrap().is_finished(), "it was kept from writing");
            tokio::task::yield_now().await;
        }
    }

    /// How many were acknowledged until now.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Ends it; gives how many were acknowledged.
    pub fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.acknowledged.load(Ordering::Relaxed)
    }
}

pub fn block(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(BLOCK / 8)
}

/// That a file holds the last of so many blocks.
pub fn assert_written(file: &Path, acknowledged: u64) {
    let file = File::open(file).unwrap();
    let mut found = vec![0; BLOCK];
    for number in acknowledged.saturating_sub(BLOCKS)..acknowledged {
        file.read_exact_at(&mut found, number % BLOCKS * BLOCK as u64).unwrap();
        assert_eq!(found, block(number), "block {number}");
    }
}

/// That a file holds the last blocks of the so many that were acknowledged, or ones that were written in their place since.
pub fn assert_written_at_least(file: &Path, acknowledged: u64) {
    let file = File::open(file).unwrap();
    let mut found = vec![0; BLOCK];
    for wanted in acknowledged.saturating_sub(BLOCKS)..acknowledged {
        file.read_exact_at(&mut found, wanted % BLOCKS * BLOCK as u64).unwrap();
        let number = u64::from_le_bytes(found[..8].try_into().unwrap());
        assert_eq!(found, block(number), "a whole block");
        assert!(number >= wanted && number % BLOCKS == wanted % BLOCKS, "{number} in the place of {wanted}");
    }
}
