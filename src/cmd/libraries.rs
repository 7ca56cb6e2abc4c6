//! Libraries of functions in the stream of the first shard, and what of them was read from a journal.

use super::{Shard, Shards};
use crate::{journal::frame::LIBRARIES, resp::Args};

/// The shard whose stream has them.
pub const HOME: usize = 0;

/// The words of the frame that says which there are.
pub fn words(sources: &[Vec<u8>]) -> Vec<&[u8]> {
    let name = std::iter::once(LIBRARIES.as_bytes());
    name.chain(sources.iter().map(Vec::as_slice)).collect()
}

impl Shard {
    /// The sources that its journal had, once.
    pub fn take_libraries(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.libraries)
    }

    /// Keeps a source until somebody takes it.
    pub fn add_library(&mut self, source: Vec<u8>) {
        self.libraries.push(source);
    }

    /// Reads them out of a frame; false if it is another one.
    pub(super) fn heed_libraries(&mut self, args: Args<'_>) -> bool {
        let is_it = args.at(0) == LIBRARIES.as_bytes();
        if is_it {
            self.libraries = args.rest(1).iter().map(<[u8]>::to_vec).collect();
        }
        is_it
    }

    /// Notes in the stream which there are, as a unit.
    pub fn tell_libraries(&mut self, sources: &[Vec<u8>]) {
        if self.note_libraries(sources) {
            self.close_unit();
        }
    }

    /// Notes for a snapshot on the disk which there are: in the stream, if that is our own.
    pub fn keep_libraries(&mut self, sources: &[Vec<u8>]) {
        match self
            .stream
            .as_ref()
            .is_some_and(|stream| stream.is_adopted())
        {
            true => self.note_for_disk(&words(sources)),
            false => self.tell_libraries(sources),
        }
    }

    fn note_libraries(&mut self, sources: &[Vec<u8>]) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        stream.note(words(sources).into_iter());
        true
    }
}

impl Shards {
    /// The open unit changed the libraries: these are all there are now. The first shard is here.
    pub fn note_libraries(&mut self, sources: &[Vec<u8>]) {
        if !self.is_muted && self.shard(HOME).note_libraries(sources) {
            self.touched.push(HOME);
        }
    }
}
