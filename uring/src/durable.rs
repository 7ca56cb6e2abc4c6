//! Durable writes in each way that a ring offers, one at a time.
//!
//! No node uses this: it is what the `disk` bench measures, so that
//! [`write_durable`](crate::Reactor::write_durable) can be what costs least, and stay so.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};

use crate::bufs::Region;
use crate::caps::Level;
use crate::ring::{Completion, ENTRIES_MIN, Entered, Ring};
use crate::sys;

/// A way to write durably.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DurableHow {
    /// Past the page cache (O_DIRECT). Lengths and offsets must be multiples of the disk's block.
    pub is_direct: bool,
    /// Two operations, a write and an fdatasync that waits for it, instead of one write with RWF_DSYNC.
    pub is_linked: bool,
    /// From memory that is registered with the ring.
    pub is_registered: bool,
}

/// Writes one block over and over. Everything waits.
pub struct DurableWriter {
    ring: Ring,
    file: File,
    block: Region,
    len: u32,
    how: DurableHow,
}

impl DurableWriter {
    /// Opens or creates the file, and makes a ring at the best level for it.
    ///
    /// # Errors
    /// What the ring's making, open or registering said; EINVAL where the file system writes nothing
    /// past its cache.
    pub fn open(path: &Path, how: DurableHow, len: u32) -> io::Result<DurableWriter> {
        let mut options = OpenOptions::new();
        options.write(true).create(true);
        if how.is_direct {
            options.custom_flags(libc::O_DIRECT);
        }
        let file = options.open(path)?;
        let block = Region::new(len as usize)?;
        // SAFETY: the region is ours, that long, and nothing else refers to it yet.
        unsafe { std::ptr::write_bytes(block.at(0), PATTERN, len as usize) };
        let entries = (ENTRIES_MIN, 2 * ENTRIES_MIN);
        let mut ring = Level::ALL
            .into_iter()
            .map(|level| Ring::new(level, entries, true))
            .find_map(Result::ok)
            .ok_or(io::ErrorKind::Unsupported)?;
        if how.is_registered {
            let chunk = libc::iovec {
                iov_base: block.at(0).cast(),
                iov_len: len as usize,
            };
            // SAFETY: fields are dropped in order, the ring before the block.
            unsafe { ring.register_buffers(&[chunk])? };
        }
        Ok(DurableWriter {
            ring,
            file,
            block,
            len,
            how,
        })
    }

    /// Reserves space for the file, durably.
    ///
    /// # Errors
    /// What fallocate or fsync said.
    pub fn reserve(&self, len: u64) -> io::Result<()> {
        sys::reserve(self.file.as_raw_fd(), len)?;
        self.file.sync_all()
    }

    /// Writes the block at `offset` and returns once it is durable.
    ///
    /// # Errors
    /// What the write or the sync said; `WriteZero` if the write was short.
    pub fn write(&mut self, offset: u64) -> io::Result<()> {
        let fd = Fd(self.file.as_raw_fd());
        let rw_flags = if self.how.is_linked {
            0
        } else {
            libc::RWF_DSYNC
        };
        let start = self.block.at(0);
        let write = if self.how.is_registered {
            let write = opcode::WriteFixed::new(fd, start, self.len, 0);
            write.offset(offset).rw_flags(rw_flags).build()
        } else {
            let write = opcode::Write::new(fd, start, self.len);
            write.offset(offset).rw_flags(rw_flags).build()
        };
        let write = write.user_data(WRITE);
        if self.how.is_linked {
            let sync = opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build();
            // SAFETY: the block lives until the ring is gone, and nobody writes to it; a sync points
            // to nothing. Both fit into an empty ring, so that the link holds.
            unsafe {
                self.ring.push(write.flags(squeue::Flags::IO_LINK));
                self.ring.push(sync);
            }
        } else {
            // SAFETY: as above.
            unsafe { self.ring.push(write) };
        }
        self.finish()
    }

    fn finish(&mut self) -> io::Result<()> {
        let mut outcome = Ok(());
        let mut batch = [Completion::default(); 2];
        while self.ring.in_flight() > 0 {
            match self.ring.submit_and_wait(1, None) {
                Ok(Entered::Done | Entered::Busy) => {}
                Err(error) => {
                    // The kernel may read it still.
                    self.block.leak();
                    return Err(error);
                }
            }
            let count = self.ring.reap(&mut batch);
            for completion in &batch[..count] {
                let is_short = completion.mark == WRITE && completion.result < self.len as i32;
                if completion.result < 0 && outcome.is_ok() {
                    outcome = Err(io::Error::from_raw_os_error(-completion.result));
                } else if is_short && outcome.is_ok() {
                    outcome = Err(io::ErrorKind::WriteZero.into());
                }
            }
        }
        outcome
    }
}

const WRITE: u64 = 1;
/// Not zeros, which some disks do not write.
const PATTERN: u8 = 0xa5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_writes_the_same() {
        let path = std::env::temp_dir().join(format!("durable-{}", std::process::id()));
        for bits in 0..8 {
            let how = DurableHow {
                is_direct: bits & 1 != 0,
                is_linked: bits & 2 != 0,
                is_registered: bits & 4 != 0,
            };
            let mut writer = match DurableWriter::open(&path, how, 4096) {
                // A temporary folder in memory may write nothing past the cache, and the memlock limit
                // register nothing.
                Err(_) if how.is_direct || how.is_registered => continue,
                opened => opened.unwrap(),
            };
            writer.reserve(3 * 4096).unwrap();
            writer.write(4096).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            let blocks: Vec<&[u8]> = bytes.chunks(4096).collect();
            assert_eq!(blocks[..2], [[0; 4096], [PATTERN; 4096]], "{how:?}");
            std::fs::remove_file(&path).unwrap();
        }
    }
}
