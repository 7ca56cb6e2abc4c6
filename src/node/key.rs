//! The file with the key of the nodes.

use std::{
    fs::File,
    io::{Error, ErrorKind, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use crate::proof::{FILE_MAX, NodeKey};

/// Reads it. What is wrong with the file is told, and nothing of what is in it.
pub(super) fn read(path: &Path) -> Result<NodeKey, String> {
    let mut bytes = Vec::new();
    let mode = look_into(path, &mut bytes);
    let mode = mode.map_err(|error| format!("{}: {error}", path.display()))?;
    if mode & OF_OTHERS != 0 {
        let (path, mode) = (path.display(), mode & 0o7777);
        return Err(format!(
            "{path}: others may read or change it (mode {mode:04o}), say 'chmod 600'"
        ));
    }
    NodeKey::of_file(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// What group and others may do with a file.
const OF_OTHERS: u32 = 0o077;

/// The mode is that of the file that was read, whatever takes its place meanwhile.
fn look_into(path: &Path, bytes: &mut Vec<u8>) -> Result<u32, Error> {
    // Opening a pipe would wait for who writes into it.
    if !path.metadata()?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no file"));
    }
    let file = File::open(path)?;
    let mode = file.metadata()?.mode();
    // One byte more shows that there is more.
    file.take(FILE_MAX as u64 + 1).read_to_end(bytes)?;
    Ok(mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    #[test]
    fn a_key_is_of_its_owner_alone_and_has_its_length() {
        let dir = std::env::temp_dir().join(format!("ringkeep-key-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        let at = dir.join("key");
        let read_as = |text: &str, mode: u32| {
            // Also where it may not be written to any more.
            let _ = fs::remove_file(&at);
            fs::write(&at, text).expect("a file");
            fs::set_permissions(&at, fs::Permissions::from_mode(mode)).expect("a mode");
            read(&at).map(|_| ())
        };
        let secret = "0123456789abcdef\n";
        assert_eq!(read_as(secret, 0o600), Ok(()));
        assert_eq!(read_as(secret, 0o400), Ok(()));
        for mode in [0o640, 0o604, 0o620, 0o602, 0o644] {
            let fault = read_as(secret, mode).expect_err("others see it");
            assert!(
                fault.contains("others may read") && !fault.contains("0123"),
                "{fault}"
            );
        }
        let short = read_as("0123456789abcde\n", 0o600).expect_err("it is short");
        assert!(short.ends_with("16 to 1024 bytes, this one 15"), "{short}");
        assert!(read_as(&"k".repeat(2000), 0o600).is_err());
        assert!(read(&dir).is_err() && read(&dir.join("none")).is_err());
        fs::remove_dir_all(&dir).expect("the folder goes");
    }
}
