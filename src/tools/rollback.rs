//! What a node did that its new primary lacks, as commands.

use std::{
    io::{self, BufWriter, ErrorKind, StdoutLock, Write},
    path::{Path, PathBuf},
};

use super::{Progress, ToolError, input::Input};
use crate::{
    journal::{
        frame::{self, LIBRARIES, NOTE},
        scan::{Scan, Tail},
    },
    resp::Args,
};

/// Prints the commands in rollback files or segments, in their order, with SELECT where the database changes:
/// as `redis-cli --pipe` takes them. True if the files were read to their ends.
///
/// # Errors
/// [`ToolError`]: a file cannot be read, or nothing takes what is printed.
pub fn rollback(paths: &[PathBuf]) -> Result<bool, ToolError> {
    let mut out = BufWriter::new(io::stdout().lock());
    for path in paths {
        print(path, &mut out)?;
    }
    out.flush()
        .map_err(super::io("write", Path::new("standard output")))?;
    Ok(true)
}

fn print(path: &Path, out: &mut BufWriter<StdoutLock<'_>>) -> Result<(), ToolError> {
    let refused = |why: String| ToolError::Refused(path.to_path_buf(), why);
    let (mut input, mut progress) = (Input::open(path)?, Progress::new());
    let (mut scan, mut printer) = (Scan::default(), Printer::default());
    loop {
        let piece = input.next(&mut progress)?;
        if piece.is_empty() {
            break;
        }
        scan.feed(piece);
        while let Some(mut block) = scan.next().map_err(|fault| refused(fault.to_string()))? {
            let mut frames = block.frames();
            while let Some(found) = frames.next().map_err(|fault| refused(fault.to_string()))? {
                printer.take(found.database, found.args);
            }
            match out.write_all(&printer.bytes) {
                // Who reads it has seen enough.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                written => written.map_err(super::io("write", Path::new("standard output")))?,
            }
            printer.bytes.clear();
        }
    }
    let end = scan.finish().map_err(|fault| refused(fault.to_string()))?;
    match end.tail {
        Tail::Clean | Tail::Zeros => Ok(()),
        Tail::Torn(reason) | Tail::Damaged { reason, .. } => Err(refused(format!(
            "byte {}: {reason}: what comes behind is left out",
            end.at
        ))),
    }
}

/// Makes commands of frames.
#[derive(Default)]
struct Printer {
    /// Where the reader of the commands is.
    database: Option<u32>,
    bytes: Vec<u8>,
}

impl Printer {
    fn take(&mut self, database: u32, args: Args<'_>) {
        let name = args.at(0);
        if name == LIBRARIES.as_bytes() {
            for source in args.rest(1).iter() {
                let words: [&[u8]; 4] = [b"FUNCTION", b"LOAD", b"REPLACE", source];
                frame::compose_args(&mut self.bytes, words.into_iter());
            }
            return;
        }
        if name.starts_with(NOTE) {
            return;
        }
        if self.database.replace(database) != Some(database) {
            let digits = database.to_string();
            let words = [b"SELECT", digits.as_bytes()];
            frame::compose_args(&mut self.bytes, words.into_iter());
        }
        frame::compose_args(&mut self.bytes, args.iter());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::OwnedArgs;

    #[test]
    fn frames_become_commands_and_notes_do_not() {
        let mut printer = Printer::default();
        for (database, line) in [
            (0, "SET k v"),
            (0, "RINGKEEP.AT 0 1 2 3"),
            (2, "RINGKEEP.SKIP"),
            (2, "DEL k"),
            (2, "RINGKEEP.LIBRARIES one two"),
            (0, "INCR n"),
        ] {
            let args = OwnedArgs::copy(line.split(' ').map(str::as_bytes));
            printer.take(database, args.as_args());
        }
        let text = String::from_utf8(printer.bytes).expect("text");
        let words: Vec<_> = text
            .split("\r\n")
            .filter(|line| !line.starts_with(['*', '$']) && !line.is_empty())
            .collect();
        assert_eq!(
            words.join(" "),
            "SELECT 0 SET k v SELECT 2 DEL k FUNCTION LOAD REPLACE one FUNCTION LOAD REPLACE two SELECT 0 \
             INCR n"
        );
    }
}
