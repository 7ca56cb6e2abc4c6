//! Files in pieces.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use super::{Progress, ToolError, io};

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// A file that is read from its beginning to its end.
pub struct Input {
    path: PathBuf,
    file: File,
    piece: Vec<u8>,
}

impl Input {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self, ToolError> {
        let file = File::open(path).map_err(io("open", path))?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            piece: vec![0; PIECE],
        })
    }

    /// The next bytes; none at the end.
    pub fn next(&mut self, progress: &mut Progress) -> Result<&[u8], ToolError> {
        let len = loop {
            match self.file.read(&mut self.piece) {
                Ok(len) => break len,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io("read", &self.path)(error)),
            }
        };
        progress.bytes(len as u64);
        Ok(&self.piece[..len])
    }
}

/// How long a file is.
pub fn size(path: &Path) -> Result<u64, ToolError> {
    Ok(path.metadata().map_err(io("look at", path))?.len())
}

/// A file whole.
pub fn whole(path: &Path, progress: &mut Progress) -> Result<Vec<u8>, ToolError> {
    let bytes = std::fs::read(path).map_err(io("read", path))?;
    progress.bytes(bytes.len() as u64);
    Ok(bytes)
}
