//! A connection to the node that is looked at.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use super::frame::Sample;

/// A node that does not answer for so long is told as one that does not.
const PATIENCE: Duration = Duration::from_secs(2);
/// No node says more.
const ANSWER_MAX: usize = 64 << 20;
/// The variable with the password, and the one with a user if it is not the default one.
const PASSWORD: &str = "RINGKEEP_PASSWORD";
const USER: &str = "RINGKEEP_USER";

pub(super) struct Link {
    /// As it is shown.
    pub place: String,
    to: (String, u16),
    stream: Option<BufReader<TcpStream>>,
}

impl Link {
    pub fn to(host: &str, port: u16) -> Self {
        Self {
            place: match host.contains(':') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            },
            to: (host.into(), port),
            stream: None,
        }
    }

    /// How the node is doing now.
    ///
    /// # Errors
    /// Why that cannot be known. The next time another connection is tried.
    pub fn ask(&mut self) -> Result<Sample, String> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.dial()?,
        };
        let words = [
            "INFO",
            "server",
            "clients",
            "memory",
            "persistence",
            "stats",
            "replication",
            "keyspace",
            "cores",
            "shards",
        ];
        let text = request(&mut stream, &words)?;
        self.stream = Some(stream);
        Ok(Sample::read(&text, Instant::now()))
    }

    fn dial(&self) -> Result<BufReader<TcpStream>, String> {
        let shown = |error: std::io::Error| error.to_string();
        let places = (&self.to.0[..], self.to.1).to_socket_addrs();
        let mut last = "it has no address".to_string();
        for at in places.map_err(shown)? {
            match TcpStream::connect_timeout(&at, PATIENCE) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).map_err(shown)?;
                    stream.set_write_timeout(Some(PATIENCE)).map_err(shown)?;
                    let mut stream = BufReader::new(stream);
                    if let Ok(password) = std::env::var(PASSWORD) {
                        let user = std::env::var(USER).ok();
                        let words = ["AUTH"].into_iter().chain(user.as_deref());
                        let words: Vec<_> = words.chain([&password[..]]).collect();
                        request(&mut stream, &words)?;
                    }
                    return Ok(stream);
                }
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }
}

/// Asks, and reads the answer, which is a text.
fn request(stream: &mut BufReader<TcpStream>, words: &[&str]) -> Result<String, String> {
    let mut bytes = format!("*{}\r\n", words.len());
    for word in words {
        bytes.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    let shown = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::WouldBlock => "it does not answer".to_string(),
        _ => error.to_string(),
    };
    stream
        .get_mut()
        .write_all(bytes.as_bytes())
        .map_err(shown)?;
    let mut line = Vec::new();
    let mut start = stream.by_ref().take(4096);
    start.read_until(b'\n', &mut line).map_err(shown)?;
    let line = String::from_utf8_lossy(&line);
    let (kind, rest) = line.trim_end().split_at_checked(1).unwrap_or_default();
    match (kind, rest.parse::<usize>()) {
        ("+", _) => Ok(rest.to_string()),
        ("-", _) => Err(rest.to_string()),
        ("$", Ok(len)) if len <= ANSWER_MAX => {
            let mut text = vec![0; len + 2];
            stream.read_exact(&mut text).map_err(shown)?;
            text.truncate(len);
            Ok(String::from_utf8_lossy(&text).into_owned())
        }
        ("", _) => Err("it has closed the connection".into()),
        _ => Err("it does not speak the Redis protocol".into()),
    }
}
