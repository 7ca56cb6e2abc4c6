//! Small files that say what the large ones are.

use crate::{base::parse_u64, resp::unquote, route::Routing};

/// The files that a Redis log is made of (`appendonly.aof.manifest`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// The snapshot that the log continues, if it does: an RDB file or a log.
    pub base: Option<String>,
    /// Logs in the order in which they were written.
    pub logs: Vec<String>,
}

/// What is wrong with a manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ManifestError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl std::fmt::Display for ManifestError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "line {}: {}", self.line, self.problem)
    }
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`ManifestError`]: which files belong to the log is not known.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        let mut manifest = Self::default();
        let mut last = 0;
        for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let error = |problem| ManifestError {
                line: at + 1,
                problem,
            };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let words = unquote(line).ok_or(error("quotes that do not close"))?;
            let words = words.as_args();
            let (mut file, mut number, mut kind) = (None, None, None);
            for at in (0..words.len()).step_by(2) {
                let value = words.get(at + 1).ok_or(error("a name without a value"))?;
                match words.at(at) {
                    b"file" => file = String::from_utf8(value.to_vec()).ok(),
                    b"seq" => number = parse_u64(value),
                    b"type" => kind = Some(value),
                    // Redis takes names that it does not know.
                    _ => {}
                }
            }
            let (Some(file), Some(number), Some(kind)) = (file, number, kind) else {
                return Err(error("no file, number or type"));
            };
            if file.is_empty() || file.contains('/') {
                return Err(error("the file is not one of this directory"));
            }
            match kind {
                b"b" if manifest.base.is_some() => return Err(error("a second base")),
                b"b" => manifest.base = Some(file),
                b"i" if number <= last => return Err(error("numbers do not ascend")),
                b"i" => {
                    last = number;
                    manifest.logs.push(file);
                }
                b"h" => {}
                _ => return Err(error("a type that is not known")),
            }
        }
        Ok(manifest)
    }
}

/// How a kevy directory splits its keys (`shards.meta`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardsMeta {
    /// How many shards there are.
    pub count: usize,
    /// Which one a key belongs to.
    pub routing: Routing,
}

impl ShardsMeta {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, ManifestError> {
        let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let error = |line, problem| ManifestError { line, problem };
        let count = lines.next().and_then(parse_u64);
        let count = count.filter(|count| (1..=65_536).contains(count));
        let routing = match lines.next() {
            None | Some(b"" | b"kevyhash") => Routing::KevyHash,
            Some(b"slots") => Routing::Slots,
            Some(_) => return Err(error(2, "a way of placing keys that is not known")),
        };
        Ok(Self {
            count: count.ok_or(error(1, "not a number of shards"))? as usize,
            routing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_base_and_logs() {
        let text = b"file a.1.base.rdb seq 1 type b\nfile a.1.incr.aof seq 1 type h\n\
            file \"b \\x41.aof\" seq 2 type i startoffset 7\nfile c.aof seq 3 type i\n";
        let manifest = Manifest::parse(text).expect("is right");
        assert_eq!(manifest.base.as_deref(), Some("a.1.base.rdb"));
        assert_eq!(manifest.logs, ["b A.aof", "c.aof"]);
        for (text, line) in [
            (&b"file a seq 1 type b\nfile b seq 2 type b"[..], 2),
            (b"file a seq 2 type i\nfile b seq 2 type i", 2),
            (b"\nfile ../a seq 2 type i", 2),
            (b"file a seq x type i", 1),
            (b"file a seq 1 type", 1),
            (b"file \"a seq 1 type i", 1),
            (b"file a seq 1 type z", 1),
        ] {
            assert_eq!(Manifest::parse(text).expect_err("is wrong").line, line);
        }
    }

    #[test]
    fn the_second_line_of_shards_meta_may_be_missing() {
        let meta = |text: &[u8]| ShardsMeta::parse(text).map(|meta| (meta.count, meta.routing));
        assert_eq!(meta(b"2\nkevyhash\n"), Ok((2, Routing::KevyHash)));
        assert_eq!(meta(b"3"), Ok((3, Routing::KevyHash)));
        assert_eq!(meta(b"4\nslots\n"), Ok((4, Routing::Slots)));
        assert_eq!(meta(b"0\n").map_err(|error| error.line), Err(1));
        assert_eq!(meta(b"1\nother").map_err(|error| error.line), Err(2));
    }
}
