//! What the simulations of nodes share.

use std::{io, path::Path};

use ringkeep::recover::Files;
use uring::fake::{FakeWorld, Machine};

/// Where nodes keep their data.
pub const DIR: &str = "/data";

/// A node's directory, as it would be read at a start.
pub struct Disk<'a>(pub &'a FakeWorld, pub Machine);

impl Disk<'_> {
    fn file(&self, name: &str) -> io::Result<Vec<u8>> {
        let found = self.0.read_file(self.1, &Path::new(DIR).join(name));
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Files for Disk<'_> {
    fn names(&self) -> io::Result<Vec<String>> {
        let files = self.0.files(self.1).into_iter();
        let names = files.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        Ok(names.collect())
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(self.file(name)?.len() as u64)
    }

    fn read(&self, name: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file(name)?;
        let rest = bytes.get(at as usize..).unwrap_or_default();
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

/// What a node says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    Nil,
    Int(i64),
    Text(String),
    Error(String),
    Many(Vec<Reply>),
}

/// The first reply, if all of it is there, and its length.
pub fn parse(bytes: &[u8]) -> Option<(Reply, usize)> {
    let line_len = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let line = std::str::from_utf8(&bytes[1..line_len]).expect("lines are text");
    let mut len = line_len + 2;
    let number = || line.parse::<i64>().expect("a number");
    let reply = match bytes[0] {
        b'+' => Reply::Text(line.into()),
        b'-' => Reply::Error(line.into()),
        b':' => Reply::Int(number()),
        b'$' if number() < 0 => Reply::Nil,
        b'$' => {
            let end = len + number() as usize;
            let text = bytes.get(len..end)?;
            bytes.get(end..end + 2)?;
            len = end + 2;
            Reply::Text(String::from_utf8_lossy(text).into_owned())
        }
        b'*' if number() < 0 => Reply::Nil,
        b'*' => {
            let mut items = Vec::new();
            for _ in 0..number() {
                let (item, item_len) = parse(&bytes[len..])?;
                items.push(item);
                len += item_len;
            }
            Reply::Many(items)
        }
        other => panic!("{:?} begins no reply", other as char),
    };
    Some((reply, len))
}

/// A request of these words.
pub fn request(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}
