//! The file systems that an image can hold: how one is made, known again, checked and mounted.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::system::{CAP_SYS_RESOURCE, has_capability};

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filesystem {
    /// ext4. Where most things are known to work.
    Ext4,
    /// XFS. At least 300 MiB.
    Xfs,
}

/// Where a file system says what it is (`superblock` of each).
struct Mark {
    magic: &'static [u8],
    magic_at: u64,
    uuid_at: u64,
}

/// What a program wants to be told of a mounted file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// The device that it lies on.
    Device,
    /// The folder that it is mounted at.
    Mount,
}

impl Filesystem {
    /// The smallest image that it fits on, in bytes: with a journal, and as its maker demands.
    pub fn least_bytes(self) -> u64 {
        match self {
            Filesystem::Ext4 => 16 << 20,
            Filesystem::Xfs => 300 << 20,
        }
    }

    /// The program that makes one, and what it is told beside the image. Nothing is kept for root: the size is the
    /// member's.
    pub(super) fn maker(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Filesystem::Ext4 => ("mkfs.ext4", &["-q", "-F", "-m", "0"]),
            Filesystem::Xfs => ("mkfs.xfs", &["-q", "-f"]),
        }
    }

    /// The program that repairs what a crash leaves, before it is mounted. XFS does that as it is mounted.
    pub(super) fn repairer(self) -> Option<(&'static str, &'static [&'static str])> {
        match self {
            Filesystem::Ext4 => Some(("fsck.ext4", &["-p"])),
            Filesystem::Xfs => None,
        }
    }

    /// The program that makes a mounted one as large as its device, and whether it is told the device or where that is
    /// mounted.
    pub(super) fn grower(self) -> (&'static str, Named) {
        match self {
            Filesystem::Ext4 => ("resize2fs", Named::Device),
            Filesystem::Xfs => ("xfs_growfs", Named::Mount),
        }
    }

    /// Whether this process may make a mounted one larger. The kernel asks more for ext4 than for mounting it.
    pub(super) fn may_grow_mounted(self) -> bool {
        match self {
            Filesystem::Ext4 => has_capability(CAP_SYS_RESOURCE),
            Filesystem::Xfs => true,
        }
    }

    /// How much room becoming larger by so many bytes takes at once, at most: for tables, where a shared folder that
    /// cannot leave holes has zeros written into them.
    pub(super) fn growth_takes(self, bytes: u64) -> u64 {
        let share = match self {
            Filesystem::Ext4 => 64,
            Filesystem::Xfs => 1024,
        };
        bytes / share + (1 << 20)
    }

    /// The Debian package that has these programs.
    pub(super) fn package(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "e2fsprogs",
            Filesystem::Xfs => "xfsprogs",
        }
    }

    pub(super) fn mount_options(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "loop,nodev,nosuid,noatime,errors=remount-ro",
            // A copy of an image has the identifier of its source, which may still be mounted under this kernel.
            Filesystem::Xfs => "loop,nodev,nosuid,noatime,nouuid",
        }
    }

    fn mark(self) -> Mark {
        match self {
            Filesystem::Ext4 => Mark { magic: &[0x53, 0xef], magic_at: 1024 + 0x38, uuid_at: 1024 + 0x68 },
            Filesystem::Xfs => Mark { magic: b"XFSB", magic_at: 0, uuid_at: 32 },
        }
    }

    /// The identifier of the file system in `image`; none if it holds no such file system.
    pub(super) fn uuid(self, image: &Path) -> io::Result<Option<String>> {
        let file = File::open(image)?;
        let mark = self.mark();
        let mut magic = vec![0; mark.magic.len()];
        let mut uuid = [0; 16];
        let read = file.read_exact_at(&mut magic, mark.magic_at);
        match read.and_then(|()| file.read_exact_at(&mut uuid, mark.uuid_at)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        let text = || uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((magic == mark.magic).then(text))
    }

    /// Its name, as `mount -t` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Filesystem::Ext4 => "ext4",
            Filesystem::Xfs => "xfs",
        }
    }
}
