//! A small blocking client for both protocol versions.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use crate::node::PATIENCE;

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

pub struct Client {
    socket: Socket,
    buffer: Vec<u8>,
    at: usize,
}

impl Client {
    pub fn tcp(port: u16) -> Client {
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("the node listens");
        socket.set_nodelay(true).expect("a live socket");
        let mut client = Client {
            socket: Socket::Tcp(socket),
            buffer: Vec::new(),
            at: 0,
        };
        client.set_patience(PATIENCE);
        client
    }

    pub fn unix(path: &Path) -> Client {
        let socket = UnixStream::connect(path).expect("the node listens");
        let mut client = Client {
            socket: Socket::Unix(socket),
            buffer: Vec::new(),
            at: 0,
        };
        client.set_patience(PATIENCE);
        client
    }

    pub fn set_patience(&mut self, span: Duration) {
        let done = match &self.socket {
            Socket::Tcp(socket) => socket
                .set_read_timeout(Some(span))
                .and_then(|()| socket.set_write_timeout(Some(span))),
            Socket::Unix(socket) => socket
                .set_read_timeout(Some(span))
                .and_then(|()| socket.set_write_timeout(Some(span))),
        };
        done.expect("a live socket");
    }

    /// Another handle to the same connection, to write from another thread.
    pub fn writer(&self) -> Client {
        let socket = match &self.socket {
            Socket::Tcp(socket) => Socket::Tcp(socket.try_clone().expect("a live socket")),
            Socket::Unix(socket) => Socket::Unix(socket.try_clone().expect("a live socket")),
        };
        Client {
            socket,
            buffer: Vec::new(),
            at: 0,
        }
    }

    /// Finishes sending; replies can still be read.
    pub fn half_close(&self) {
        let done = match &self.socket {
            Socket::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Socket::Unix(socket) => socket.shutdown(Shutdown::Write),
        };
        done.expect("a live socket");
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.try_write(bytes).expect("the node reads");
    }

    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.socket {
            Socket::Tcp(socket) => socket.write_all(bytes),
            Socket::Unix(socket) => socket.write_all(bytes),
        }
    }

    /// Sends a request without waiting for its reply.
    pub fn post(&mut self, args: &[&[u8]]) {
        self.write(&request(args));
    }

    /// The same for a line split at spaces.
    pub fn post_line(&mut self, line: &str) {
        self.write(&request_line(line));
    }

    /// Sends a line split at spaces; its reply as text.
    pub fn say(&mut self, line: &str) -> String {
        self.post_line(line);
        self.reply()
    }

    pub fn send(&mut self, args: &[&[u8]]) -> String {
        self.post(args);
        self.reply()
    }

    /// The next reply as text.
    pub fn reply(&mut self) -> String {
        let mut text = String::new();
        if let Err(error) = self.read_reply(&mut text) {
            panic!("no reply: {error} (after '{text}')");
        }
        text
    }

    /// The next reply, a bulk, as bytes.
    pub fn bulk(&mut self) -> Vec<u8> {
        let line = self.line().expect("a reply comes");
        assert!(line.starts_with('$'), "{line}");
        let len = line[1..].parse().expect("a length");
        self.exactly(len).expect("the rest comes")
    }

    /// True if the node closed the connection; what came before is thrown away.
    pub fn is_closed(&mut self) -> bool {
        loop {
            self.buffer.clear();
            self.at = 0;
            match self.fill() {
                Ok(()) => {}
                Err(error) => {
                    return matches!(
                        error.kind(),
                        io::ErrorKind::UnexpectedEof
                            | io::ErrorKind::ConnectionReset
                            | io::ErrorKind::BrokenPipe
                    );
                }
            }
        }
    }

    /// Reads and throws away this many bytes.
    pub fn skip(&mut self, mut count: usize) {
        while count > 0 {
            if self.at == self.buffer.len() {
                self.buffer.clear();
                self.at = 0;
                self.fill().expect("more comes");
            }
            let part = count.min(self.buffer.len() - self.at);
            self.at += part;
            count -= part;
        }
    }

    fn read_reply(&mut self, text: &mut String) -> io::Result<()> {
        let line = self.line()?;
        let (kind, rest) = line.split_at(1);
        let count = || rest.parse::<i64>().unwrap_or(0);
        match kind {
            "+" | "-" | ":" | "," | "#" | "(" => text.push_str(&line),
            "_" => text.push_str("nil"),
            "$" | "=" if count() < 0 => text.push_str("nil"),
            "$" | "=" => {
                let bytes = self.exactly(count() as usize)?;
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
            "*" if count() < 0 => text.push_str("nil"),
            "*" | "~" | ">" | "%" => {
                let items = if kind == "%" { 2 * count() } else { count() };
                text.push_str(if kind == "*" { "" } else { kind });
                text.push('[');
                for at in 0..items {
                    text.push_str(if at > 0 { " " } else { "" });
                    self.read_reply(text)?;
                }
                text.push(']');
            }
            _ => panic!("no reply starts like '{line}'"),
        }
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            let new = &self.buffer[self.at..];
            if let Some(end) = new.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&new[..end]).into_owned();
                self.at += end + 2;
                return Ok(line);
            }
            self.fill()?;
        }
    }

    fn exactly(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() - self.at < len + 2 {
            self.fill()?;
        }
        let bytes = self.buffer[self.at..self.at + len].to_vec();
        assert_eq!(&self.buffer[self.at + len..self.at + len + 2], b"\r\n");
        self.at += len + 2;
        Ok(bytes)
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        }
        let old = self.buffer.len();
        self.buffer.resize(old + (256 << 10), 0);
        let got = match &mut self.socket {
            Socket::Tcp(socket) => socket.read(&mut self.buffer[old..]),
            Socket::Unix(socket) => socket.read(&mut self.buffer[old..]),
        };
        self.buffer.truncate(old + *got.as_ref().unwrap_or(&0));
        match got {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The bytes of a request.
pub fn request(args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// The bytes of a request given as a line split at spaces.
pub fn request_line(line: &str) -> Vec<u8> {
    let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    request(&args)
}
