//! The file of users: read at the start and by ACL LOAD, written by ACL SAVE. Both may block, so a thread
//! does them while the connection that asked waits; inside EXEC, which cannot wait, the core does.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use uring::SocketId;

use super::{
    conn::{Conn, Hold},
    shared::Shared,
    state::State,
};
use crate::{
    acl::Users,
    resp::{Error, Out},
};

const NO_FILE: Error = Error::fixed(
    "ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL \
     SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in \
     order to store users in the Redis configuration.",
);
const NOT_SAVED: Error = Error::fixed(
    "ERR There was an error trying to save the ACLs. Please check the server logs for more information",
);
/// Who may read a file that was not there before: it has hashes of passwords.
const MODE: u32 = 0o600;

/// What is done with the file.
enum Work {
    Load,
    Save(Vec<u8>),
}

/// What came of it.
enum Outcome {
    Read(Result<Users, Vec<String>>),
    Written(io::Result<()>),
}

/// Work of a thread, and who waits for it.
pub(super) struct Pending {
    conn: SocketId,
    slot: u64,
    done: mpsc::Receiver<Outcome>,
}

/// Reads the file.
///
/// # Errors
/// What is wrong with it, or why it cannot be read.
pub fn read_users(path: &Path) -> Result<Users, Vec<String>> {
    let name = path.display().to_string();
    let text = fs::read(path).map_err(|error| {
        vec![format!(
            "Error loading ACLs, opening file '{name}': {error}. "
        )]
    })?;
    Users::read(&text, &name)
}

/// Puts a new content in the place of the old one, so that one of the two is there whatever happens.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mode = fs::metadata(path).map_or(MODE, |old| old.permissions().mode());
    let written = write_beside(&beside, text, mode).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        // The error that counts is told; this one is of something that may not be there.
        let _ = fs::remove_file(&beside);
        return written;
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn write_beside(beside: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let mut how = OpenOptions::new();
    how.write(true).create(true).truncate(true).mode(MODE);
    let mut file = how.open(beside)?;
    file.write_all(text)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

fn carry_out(path: &Path, work: Work) -> Outcome {
    match work {
        Work::Load => Outcome::Read(read_users(path)),
        Work::Save(text) => Outcome::Written(replace(path, &text)),
    }
}

impl Shared {
    fn file_of_users(&self) -> Result<PathBuf, Error> {
        self.acl_file.clone().ok_or(NO_FILE)
    }
}

impl State {
    /// ACL LOAD, ACL SAVE.
    pub(super) fn use_acl_file(
        &mut self,
        conn: &mut Conn,
        is_load: bool,
        may_wait: bool,
    ) -> Result<(), Error> {
        let path = self.shared.file_of_users()?;
        let work = match is_load {
            true => Work::Load,
            false => Work::Save(self.users.text()),
        };
        if !may_wait {
            let outcome = carry_out(&path, work);
            self.end_acl_work(outcome, Some(conn))?;
            conn.out.ok();
            return Ok(());
        }
        let (sender, done) = mpsc::channel();
        let thread = thread::Builder::new().name("acl-file".into());
        let spawned = thread.spawn(move || {
            // Nobody hears it if the node stops meanwhile.
            let _ = sender.send(carry_out(&path, work));
        });
        spawned.map_err(|error| Error::text(format!("ERR no thread for the file: {error}")))?;
        let slot = conn.open_slot();
        conn.hold = Hold::Gather;
        let conn = conn.socket;
        self.acl_work.push(Pending { conn, slot, done });
        Ok(())
    }

    /// Answers those whose ACL LOAD or ACL SAVE is over.
    pub(super) fn answer_acl_work(&mut self) {
        if self.acl_work.is_empty() {
            return;
        }
        for pending in std::mem::take(&mut self.acl_work) {
            let outcome = match pending.done.try_recv() {
                Ok(outcome) => outcome,
                Err(mpsc::TryRecvError::Empty) => {
                    self.acl_work.push(pending);
                    continue;
                }
                Err(mpsc::TryRecvError::Disconnected) => {
                    Outcome::Written(Err(io::ErrorKind::Other.into()))
                }
            };
            let done = self.end_acl_work(outcome, None);
            if let Some(mut conn) = self.take_conn(pending.conn) {
                let mut out = Out::new(conn.out.proto);
                match done {
                    Ok(()) => out.ok(),
                    Err(error) => out.error(&error),
                }
                conn.fill_slot(pending.slot, out);
                self.wake(&mut conn);
                self.put_conn(conn);
            }
        }
    }

    fn end_acl_work(&mut self, outcome: Outcome, current: Option<&mut Conn>) -> Result<(), Error> {
        match outcome {
            Outcome::Written(Ok(())) => Ok(()),
            Outcome::Written(Err(error)) => {
                super::log(&format!("ACL SAVE: {error}"));
                Err(NOT_SAVED)
            }
            Outcome::Read(Ok(users)) => {
                let done: Result<(), Error> = self
                    .shared
                    .change_users(|before| Ok(users.replacing(before)));
                self.heed_users(current);
                done
            }
            Outcome::Read(Err(errors)) => {
                for error in &errors {
                    super::log(&format!("ACL LOAD: {}", error.trim_end()));
                }
                Err(Users::refused(&errors))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_what_cannot_be_read_says_so() {
        let dir = std::env::temp_dir().join(format!("ringkeep-acl-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        let path = dir.join("users.acl");
        let errors = read_users(&path).expect_err("it is not there");
        assert!(errors[0].starts_with("Error loading ACLs, opening file '"));
        let text = Users::default().text();
        replace(&path, &text).expect("written");
        let mode =
            |path: &Path| fs::metadata(path).map_or(0, |data| data.permissions().mode() & 0o777);
        assert_eq!(mode(&path), MODE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
        replace(&path, b"user bob on\n").expect("written");
        assert_eq!(mode(&path), 0o644);
        assert_eq!(fs::read(&path).expect("it is there"), b"user bob on\n");
        assert_eq!(fs::read_dir(&dir).expect("a folder").count(), 1);
        assert!(read_users(&path).is_ok_and(|users| users.get(b"bob").is_some()));
        assert!(replace(&dir.join("none/users.acl"), b"").is_err());
        fs::remove_dir_all(&dir).expect("it is ours");
    }
}
