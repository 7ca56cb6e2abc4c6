//! Files that appear whole or not at all.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::Write,
    path::{Path, PathBuf},
};

use super::{ToolError, io};

/// A file that is being written under another name.
pub struct Unpublished {
    path: PathBuf,
    temporary: PathBuf,
    /// `None` once all is written.
    file: Option<File>,
    is_published: bool,
}

impl Unpublished {
    /// Begins a file that will be at `path`.
    pub fn create(path: &Path) -> Result<Self, ToolError> {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".tmp");
        let temporary = path.with_file_name(name);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(io("create", &temporary))?;
        Ok(Self {
            path: path.to_path_buf(),
            temporary,
            file: Some(file),
            is_published: false,
        })
    }

    /// Appends bytes.
    ///
    /// # Panics
    /// After [`sync`](Self::sync).
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ToolError> {
        match &mut self.file {
            Some(file) => file.write_all(bytes).map_err(io("write", &self.temporary)),
            None => panic!("{} is closed already", self.temporary.display()),
        }
    }

    /// Makes what was written durable and closes the file.
    pub fn sync(&mut self) -> Result<(), ToolError> {
        match self.file.take() {
            Some(file) => file.sync_all().map_err(io("sync", &self.temporary)),
            None => Ok(()),
        }
    }

    /// Makes the file durable, gives it its name and makes that durable.
    pub fn publish(mut self) -> Result<(), ToolError> {
        self.sync()?;
        fs::rename(&self.temporary, &self.path).map_err(io("rename", &self.temporary))?;
        self.is_published = true;
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(io("sync", directory))
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        if !self.is_published {
            // What is half written is of no use; if it cannot be removed, its name says what it is.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Refuses the directory if a server holds the lock file in it.
pub fn refuse_locked(lock: &Path, directory: &Path) -> Result<(), ToolError> {
    let Ok(file) = File::open(lock) else {
        // Not there: nobody has ever been running on it, or in a version without.
        return Ok(());
    };
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(ToolError::InUse(directory.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(io("lock", lock)(error)),
    }
}
