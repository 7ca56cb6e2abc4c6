//! A plain blocking client for what surrounds a measurement: preparing data, an event in the middle of
//! a load, asking a replica how far it is. What is measured under load goes through the generator.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::sys;

/// A connection; every call waits for its reply.
pub struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    out: Vec<u8>,
}

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `+`, `:` or a bulk.
    Text(Vec<u8>),
    /// `-`
    Error(String),
    /// A null of any kind.
    Nil,
    /// An array, a set, a push or a flat map.
    List(Vec<Value>),
}

impl Client {
    /// Connects to a server of this machine.
    ///
    /// # Errors
    /// [`Error::Os`].
    pub fn connect(port: u16) -> Result<Client, Error> {
        Client::connect_for(port, PATIENCE)
    }

    /// As [`Client::connect`], for who waits for a reply no longer than this.
    ///
    /// # Errors
    /// [`Error::Os`].
    pub fn connect_for(port: u16, patience: Duration) -> Result<Client, Error> {
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(Error::os("connecting"))?;
        let tuned = stream.set_nodelay(true).and_then(|()| {
            stream.set_read_timeout(Some(patience))?;
            stream.try_clone()
        });
        let reader = tuned.map_err(Error::os("setting up a connection"))?;
        Ok(Client {
            reader: BufReader::with_capacity(256 << 10, reader),
            stream,
            out: Vec::new(),
        })
    }

    /// Sends one command and waits for its reply, which may be an error reply.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Value, Error> {
        self.out.clear();
        encode(args, &mut self.out);
        self.flush()?;
        self.read()
    }

    /// As [`Client::call`], with an error reply as an error.
    ///
    /// # Errors
    /// Those of the connection; [`Error::Refused`].
    pub fn done<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Value, Error> {
        accepted(self.call(args)?)
    }

    /// Sends `count` commands that `make` appends, a thousand at a time, and waits for all replies.
    ///
    /// # Errors
    /// Those of the connection; [`Error::Refused`] at the first error reply; [`Error::Stopped`].
    pub fn send_all(
        &mut self,
        count: u64,
        mut make: impl FnMut(u64, &mut Vec<u8>),
    ) -> Result<(), Error> {
        let mut next = 0;
        while next < count {
            let last = count.min(next + BATCH);
            self.out.clear();
            (next..last).for_each(|i| make(i, &mut self.out));
            self.flush()?;
            for _ in next..last {
                accepted(self.read()?)?;
            }
            next = last;
            if sys::is_stopped() {
                return Err(Error::Stopped);
            }
        }
        Ok(())
    }

    /// Sends `count` commands that `make` appends and hands over each reply as it comes.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn pipeline(
        &mut self,
        count: usize,
        make: impl Fn(usize, &mut Vec<u8>),
        mut take: impl FnMut(usize, Value),
    ) -> Result<(), Error> {
        self.out.clear();
        (0..count).for_each(|i| make(i, &mut self.out));
        self.flush()?;
        for i in 0..count {
            take(i, self.read()?);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.stream
            .write_all(&self.out)
            .map_err(Error::os("sending a command"))
    }

    fn read(&mut self) -> Result<Value, Error> {
        let mut line = Vec::new();
        let doing = "waiting for a reply";
        let read = self.reader.read_until(b'\n', &mut line);
        if read.map_err(Error::os(doing))? == 0 {
            return Err(Error::Lost {
                link: 0,
                source: None,
            });
        }
        let Some((&kind, rest)) = line
            .strip_suffix(b"\r\n")
            .and_then(|line| line.split_first())
        else {
            return Err(Error::Reply { byte: line[0] });
        };
        let length = || {
            let text = std::str::from_utf8(rest).ok();
            text.and_then(|text| text.parse::<i64>().ok())
        };
        Ok(match (kind, length()) {
            (b'+' | b':' | b',' | b'#', _) => Value::Text(rest.to_vec()),
            (b'-', _) => Value::Error(String::from_utf8_lossy(rest).into_owned()),
            (b'_', _) | (b'$' | b'*', Some(-1)) => Value::Nil,
            (b'$', Some(len @ 0..=LENGTH_MAX)) => {
                let mut body = vec![0; len as usize + 2];
                let read = self.reader.read_exact(&mut body);
                read.map_err(Error::os(doing))?;
                body.truncate(len as usize);
                Value::Text(body)
            }
            (b'*' | b'~' | b'>' | b'%', Some(len @ 0..=LENGTH_MAX)) => {
                let count = if kind == b'%' { 2 * len } else { len };
                Value::List((0..count).map(|_| self.read()).collect::<Result<_, _>>()?)
            }
            _ => return Err(Error::Reply { byte: kind }),
        })
    }
}

/// Appends a command.
pub fn encode<A: AsRef<[u8]>>(args: &[A], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// Asks again every `pause` until `is_there` says so.
///
/// # Errors
/// Those of the question; [`Error::Stuck`] after `limit`; [`Error::Stopped`].
pub fn wait_until(
    limit: Duration,
    pause: Duration,
    mut is_there: impl FnMut() -> Result<bool, Error>,
) -> Result<(), Error> {
    let deadline = Instant::now() + limit;
    while !is_there()? {
        if sys::is_stopped() {
            return Err(Error::Stopped);
        }
        if Instant::now() > deadline {
            return Err(Error::Stuck { outstanding: 1 });
        }
        std::thread::sleep(pause);
    }
    Ok(())
}

fn accepted(value: Value) -> Result<Value, Error> {
    match value {
        Value::Error(first) => Err(Error::Refused { count: 1, first }),
        value => Ok(value),
    }
}

const PATIENCE: Duration = Duration::from_secs(60);
/// Few enough that short replies fit the socket buffers while commands are still being written.
const BATCH: u64 = 1000;
const LENGTH_MAX: i64 = 512 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answering(reply: &'static [u8]) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut bytes = [0; 4096];
            let _ = stream.read(&mut bytes);
            let _ = stream.write_all(reply);
        });
        Client::connect(port).expect("connects")
    }

    #[test]
    fn replies_of_every_kind_are_read() {
        let reply = b"*6\r\n+OK\r\n:-3\r\n$2\r\na\n\r\n$-1\r\n-ERR no\r\n%1\r\n$0\r\n\r\n_\r\n";
        let text = |text: &str| Value::Text(text.into());
        let want = Value::List(vec![
            text("OK"),
            text("-3"),
            text("a\n"),
            Value::Nil,
            Value::Error("ERR no".into()),
            Value::List(vec![text(""), Value::Nil]),
        ]);
        assert_eq!(answering(reply).call(&["X"]).expect("a reply"), want);
        for bad in [&b"?1\r\n"[..], b"$x\r\n", b"$-2\r\n", b"\n", b""] {
            assert!(answering(bad).call(&["X"]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_reply_ends_a_series() {
        let mut client = answering(b"+OK\r\n-ERR full\r\n+OK\r\n");
        let sent = client.send_all(3, |i, out| encode(&["SET", &i.to_string()], out));
        assert!(matches!(sent, Err(Error::Refused { first, .. }) if first == "ERR full"));
    }
}
