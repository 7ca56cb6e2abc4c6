//! The data directory as the node and the tools find it: locked, of our format, and readable.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, ErrorKind, Read, Seek, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{
    journal::{FileName, meta::Meta},
    recover::{self, Files, RecoverError},
    route::Routing,
};

/// Why a data directory cannot be used.
#[derive(Debug)]
pub enum DataError {
    /// Something the operating system refused.
    Io(&'static str, PathBuf, io::Error),
    /// Another process has it.
    InUse(PathBuf, String),
    /// There is none.
    Missing(PathBuf),
    /// There are files of one, but not the one that says what it is.
    Headless(PathBuf, String),
    /// `ringkeep.meta` is damaged.
    Meta(PathBuf, String),
    /// The data is split into another number of shards.
    Shards {
        /// The directory.
        dir: PathBuf,
        /// As it was made.
        there: u32,
        /// As asked for.
        asked: u32,
    },
    /// Keys are placed in another way.
    Routing(PathBuf),
    /// A file that says what counts in it is damaged, or what it names is missing.
    Bundle(PathBuf, RecoverError),
}

impl std::fmt::Display for DataError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DataError::Io(what, path, error) => {
                write!(out, "cannot {what} {}: {error}", path.display())?;
                match error.kind() {
                    ErrorKind::PermissionDenied => write!(
                        out,
                        "; the directory and its files have to belong to the user that the node runs as"
                    ),
                    ErrorKind::ReadOnlyFilesystem => {
                        write!(out, "; the file system is mounted read-only")
                    }
                    _ => Ok(()),
                }
            }
            DataError::InUse(dir, who) => {
                write!(out, "another node runs on {}{who}", dir.display())
            }
            DataError::Missing(dir) => write!(
                out,
                "{} is no data directory: there is no {} in it",
                dir.display(),
                FileName::Meta
            ),
            DataError::Headless(dir, name) => write!(
                out,
                "{}: {name} is there, but no {}: what made the directory did not come to its end. Import or \
                 copy it again into an empty directory, or put {} back",
                dir.display(),
                FileName::Meta,
                FileName::Meta
            ),
            DataError::Meta(path, why) => write!(out, "{} is damaged: {why}", path.display()),
            DataError::Shards { dir, there, asked } => write!(
                out,
                "{} has {there} shard(s), not {asked}: start with --shards {there}, or change it with \
                 `ringkeep reshard {} --shards {asked}`",
                dir.display(),
                dir.display()
            ),
            DataError::Routing(dir) => write!(
                out,
                "{} was written with another setting of --cluster",
                dir.display()
            ),
            DataError::Bundle(dir, why) => write!(out, "{}: {why}", dir.display()),
        }
    }
}

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// What it is.
    pub meta: Meta,
    /// The machine has not been started anew since a node had the directory last.
    pub is_same_boot: bool,
    /// The names under which files are found that do not have their own yet.
    unnamed: BTreeMap<String, String>,
    lock: File,
}

impl DataDir {
    /// Opens a data directory, which is made if it is not there; `wanted` is what a new one becomes.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn open(path: &Path, wanted: Meta) -> Result<Self, DataError> {
        let failed = |what| move |error| DataError::Io(what, path.to_owned(), error);
        fs::create_dir_all(path).map_err(failed("make"))?;
        let (lock, is_same_boot) = Self::lock(path)?;
        let name = path.join(FileName::Meta.to_string());
        let meta = match fs::read(&name) {
            Ok(bytes) => {
                Meta::read(&bytes).map_err(|why| DataError::Meta(name.clone(), why.to_string()))?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if let Some(name) = first_data(path).map_err(failed("read"))? {
                    return Err(DataError::Headless(path.to_owned(), name));
                }
                write_durably(path, FileName::Meta, &wanted.compose())
                    .map_err(|error| DataError::Io("write", name, error))?;
                wanted
            }
            Err(error) => return Err(DataError::Io("read", name, error)),
        };
        let dir = Self {
            path: path.to_owned(),
            meta,
            is_same_boot,
            unnamed: BTreeMap::new(),
            lock,
        };
        let unnamed = dir.unnamed()?;
        dir.name(&unnamed).map_err(failed("tidy up"))?;
        dir.remove_unfinished().map_err(failed("tidy up"))?;
        Ok(dir)
    }

    /// Opens a data directory that is there. Nothing in it is changed but the lock file.
    ///
    /// # Errors
    /// [`DataError`].
    pub fn existing(path: &Path) -> Result<Self, DataError> {
        let name = path.join(FileName::Meta.to_string());
        // Looked at first, so that no lock file is left where there is no data directory.
        if !name.exists() {
            return Err(DataError::Missing(path.to_owned()));
        }
        let (lock, is_same_boot) = Self::lock(path)?;
        let bytes = fs::read(&name).map_err(|error| DataError::Io("read", name.clone(), error))?;
        let meta = Meta::read(&bytes).map_err(|why| DataError::Meta(name, why.to_string()))?;
        let mut dir = Self {
            path: path.to_owned(),
            meta,
            is_same_boot,
            unnamed: BTreeMap::new(),
            lock,
        };
        let unnamed = dir.unnamed()?.snapshots.into_iter();
        dir.unnamed = unnamed
            .map(|name| (name.to_string(), name.unfinished()))
            .collect();
        Ok(dir)
    }

    /// What the node that was here last had not named yet.
    fn unnamed(&self) -> Result<recover::Unnamed, DataError> {
        recover::unnamed(self).map_err(|error| DataError::Bundle(self.path.clone(), error))
    }

    /// Gives files their names, as the node would have done.
    fn name(&self, unnamed: &recover::Unnamed) -> io::Result<()> {
        for name in &unnamed.snapshots {
            let from = self.path.join(name.unfinished());
            fs::rename(from, self.path.join(name.to_string()))?;
        }
        if !unnamed.bundles.is_empty() {
            File::open(&self.path)?.sync_all()?;
        }
        self.remove(&unnamed.bundles)
    }

    /// Where a file is.
    pub(super) fn place(&self, name: &str) -> PathBuf {
        let found = self.unnamed.get(name);
        self.path.join(found.map_or(name, String::as_str))
    }

    /// How keys are placed on its shards.
    ///
    /// # Errors
    /// [`DataError`]: a later version knows.
    pub fn routing(&self) -> Result<Routing, DataError> {
        [Routing::KevyHash, Routing::Slots]
            .into_iter()
            .find(|routing| routing_number(*routing) == self.meta.routing)
            .ok_or_else(|| DataError::Routing(self.path.clone()))
    }

    /// The lock, and whether who had it last ran since the machine was started.
    fn lock(path: &Path) -> Result<(File, bool), DataError> {
        let name = path.join(FileName::Lock.to_string());
        let failed = |error| DataError::Io("lock", name.clone(), error);
        let mut options = File::options();
        options.create(true).truncate(false);
        options.read(true).write(true).mode(0o600);
        let mut file = options.open(&name).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = fs::read_to_string(&name).unwrap_or_default();
                let pid = text.lines().next().and_then(|pid| pid.parse::<u32>().ok());
                let who = pid.map_or_else(String::new, |pid| format!(": process {pid}"));
                return Err(DataError::InUse(path.to_owned(), who));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let mut last = String::new();
        let _ = file.read_to_string(&mut last);
        let boot = sign(&file);
        let is_same_boot = !boot.is_empty() && last.lines().nth(1) == Some(boot.trim());
        Ok((file, is_same_boot))
    }

    /// Lets another process have the directory. Nothing may be written in it from now on.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn let_go(&self) -> io::Result<()> {
        self.lock.unlock()
    }

    /// Takes the directory back; false if another process has it.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn take_back(&self) -> io::Result<bool> {
        match self.lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        sign(&self.lock);
        Ok(true)
    }

    /// Snapshots that were not published are of no use to anybody.
    fn remove_unfinished(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry
                .file_name()
                .to_str()
                .is_some_and(FileName::is_unfinished)
            {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Is the directory one for a node that wants this?
    ///
    /// # Errors
    /// [`DataError`].
    pub fn check(&self, wanted: &Meta) -> Result<(), DataError> {
        if self.meta.shard_count != wanted.shard_count {
            return Err(DataError::Shards {
                dir: self.path.clone(),
                there: self.meta.shard_count,
                asked: wanted.shard_count,
            });
        }
        if self.meta.routing != wanted.routing {
            return Err(DataError::Routing(self.path.clone()));
        }
        Ok(())
    }

    /// Removes files that hold nothing.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn remove(&self, names: &[FileName]) -> io::Result<()> {
        for name in names {
            fs::remove_file(self.path.join(name.to_string()))?;
        }
        Ok(())
    }

    /// Gives back the space behind the first `len` bytes of a file.
    ///
    /// # Errors
    /// What the operating system said.
    pub fn shorten(&self, name: FileName, len: u64) -> io::Result<()> {
        let path = self.path.join(name.to_string());
        File::options().write(true).open(path)?.set_len(len)
    }
}

impl Files for DataDir {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = names_in(&self.path)?;
        names.extend(self.unnamed.keys().cloned());
        names.sort();
        Ok(names)
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.place(name))?.len())
    }

    fn read(&self, name: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
        read_at(&self.place(name), at, into)
    }
}

/// A data directory that another process has. Nothing in it is changed, and all of it may change.
#[derive(Debug)]
pub struct Foreign {
    path: PathBuf,
    /// What it is.
    pub meta: Meta,
    number: (u64, u64),
}

impl Foreign {
    /// Looks for a data directory.
    ///
    /// # Errors
    /// What the operating system said; also where there is none.
    pub fn find(path: &Path) -> io::Result<Self> {
        let number = number_of(path)?;
        let meta = fs::read(path.join(FileName::Meta.to_string()))?;
        let meta = Meta::read(&meta).map_err(|why| io::Error::new(ErrorKind::InvalidData, why))?;
        Ok(Self {
            path: path.to_owned(),
            meta,
            number,
        })
    }

    /// Is it still the one that is found under its path?
    pub fn is_there(&self) -> bool {
        number_of(&self.path).is_ok_and(|number| number == self.number)
    }
}

impl Files for Foreign {
    fn names(&self) -> io::Result<Vec<String>> {
        names_in(&self.path)
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.path.join(name))?.len())
    }

    fn read(&self, name: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
        read_at(&self.path.join(name), at, into)
    }
}

fn number_of(dir: &Path) -> io::Result<(u64, u64)> {
    let found = fs::metadata(dir)?;
    Ok((found.dev(), found.ino()))
}

/// A name that is no text is none of ours.
fn names_in(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.extend(entry?.file_name().into_string().ok());
    }
    Ok(names)
}

fn read_at(path: &Path, at: u64, into: &mut [u8]) -> io::Result<usize> {
    let file = File::open(path)?;
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], at + done as u64) {
            Ok(0) => break,
            Ok(len) => done += len,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes into the lock file a number for people who look, and which run of the machine this is, which it
/// returns.
fn sign(mut file: &File) -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let _ = file.set_len(0);
    let _ = file.rewind();
    let _ = writeln!(file, "{}\n{}", std::process::id(), boot.trim());
    boot
}

/// A file in a directory that holds data.
fn first_data(dir: &Path) -> io::Result<Option<String>> {
    let mut names = names_in(dir)?;
    names.sort();
    let is_data = |name: &String| {
        let name = FileName::parse(name);
        name.is_some_and(|name| !matches!(name, FileName::Lock | FileName::Meta))
    };
    Ok(names.into_iter().find(is_data))
}

/// The number under which a way to place keys is kept.
pub fn routing_number(routing: Routing) -> u32 {
    match routing {
        Routing::KevyHash => 0,
        Routing::Slots => 1,
    }
}

/// Writes a file so that after a crash it is there whole or not at all.
///
/// # Errors
/// What the operating system said.
pub fn write_durably(dir: &Path, name: FileName, bytes: &[u8]) -> io::Result<()> {
    let unfinished = dir.join(name.unfinished());
    let mut file = File::create(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, dir.join(name.to_string()))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_without_the_file_that_says_what_it_is_is_refused() {
        let path = std::env::temp_dir().join(format!("ringkeep-headless-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let name = FileName::Snapshot { shard: 0, seq: 1 }.to_string();
        fs::write(path.join(&name), b"").unwrap();
        let meta = Meta {
            shard_count: 2,
            routing: 0,
        };
        let refused = DataDir::open(&path, meta).map(|_| ()).unwrap_err();
        let is_made = path.join(FileName::Meta.to_string()).exists();
        fs::remove_dir_all(&path).unwrap();
        assert_eq!(
            refused.to_string(),
            format!(
                "{}: {name} is there, but no ringkeep.meta: what made the directory did not come to its end. \
                 Import or copy it again into an empty directory, or put ringkeep.meta back",
                path.display()
            )
        );
        assert!(!is_made, "it must not become a directory of another kind");
    }
}
