//! The limit: a RESP responder that stores nothing. It reads, counts commands and answers, in the
//! way a node on this kernel can do best; what it spends per request no node can undercut.

use std::io::{self, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::resp::Commands;
use crate::ring::{Event, Link, Payload, Ring, Sizes, Wait};
use crate::sys;

/// How the responder is run.
pub struct Config {
    /// Address to listen on.
    pub bind: String,
    /// Port to listen on; 0 lets the kernel choose.
    pub port: u16,
    /// Core to run on.
    pub cpu: Option<usize>,
    /// Bytes of the bulk that answers commands starting with G.
    pub bulk: usize,
    /// Congestion control.
    pub congestion: String,
}

/// Serves until a signal, or until `stop` says so. Calls `ready` with the port once it listens.
///
/// # Errors
/// [`Error::Kernel`] on an unfit kernel, [`Error::Os`] when the port is taken.
pub fn serve(
    config: &Config,
    ready: impl FnOnce(u16),
    stop: impl Fn() -> bool,
) -> Result<(), Error> {
    if let Some(id) = config.cpu {
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
    let mut ring = Ring::new(Sizes::default())?;
    let listener =
        TcpListener::bind((config.bind.as_str(), config.port)).map_err(Error::os("listening"))?;
    sys::tune_listener(&listener).map_err(Error::os("setting listener options"))?;
    if let Err(e) = sys::set_congestion_control(&listener, &config.congestion) {
        let _ = writeln!(
            io::stderr(),
            "limit: congestion control stays the system's, {} refused: {e}",
            config.congestion
        );
    }
    let port = listener
        .local_addr()
        .map_err(Error::os("reading the port"))?
        .port();
    ring.listen(listener).map_err(Error::os("accepting"))?;
    ready(port);

    let replies = CannedReplies::new(config.bulk);
    let mut clients: Vec<Client> = Vec::new();
    let mut touched: Vec<Link> = Vec::new();
    let mut broken: Vec<Link> = Vec::new();
    while !stop() {
        ring.turn(Wait::Up(IDLE), |event| match event {
            Event::Accepted(link) => {
                if clients.len() <= link {
                    clients.resize_with(link + 1, Client::default);
                }
                clients[link] = Client::default();
            }
            Event::Received(link, bytes) => {
                // A receive may complete in the same turn as its accept is told.
                if clients.len() <= link {
                    clients.resize_with(link + 1, Client::default);
                }
                let client = &mut clients[link];
                let owed = &mut client.owed;
                if client
                    .commands
                    .feed(bytes, |name| owed.add(name == b'g', &replies))
                    .is_err()
                {
                    broken.push(link);
                }
                client.touch(link, &mut touched);
            }
            Event::Sent(link, payload) => {
                let client = &mut clients[link];
                if let Payload::Own(buffer) = payload {
                    client.owed.spare = buffer;
                }
                client.touch(link, &mut touched);
            }
            Event::Gone(link, _) => clients[link] = Client::default(),
        })
        .map_err(Error::os("io_uring_enter"))?;
        for link in touched.drain(..) {
            let client = &mut clients[link];
            client.touched = false;
            if ring.can_send(link)
                && let Some(payload) = client.owed.take(&replies)
            {
                ring.send(link, payload).map_err(Error::os("sending"))?;
            }
        }
        for link in broken.drain(..) {
            ring.close(link);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Client {
    commands: Commands,
    owed: Owed,
    touched: bool,
}

impl Client {
    fn touch(&mut self, link: Link, touched: &mut Vec<Link>) {
        if !self.touched {
            self.touched = true;
            touched.push(link);
        }
    }
}

/// What a client still has to be told: a run of equal replies, which costs no copying, or a mixture
/// written out. The mixture comes second.
#[derive(Default)]
struct Owed {
    run: usize,
    run_is_bulk: bool,
    mixed: Vec<u8>,
    spare: Vec<u8>,
}

impl Owed {
    #[inline]
    fn add(&mut self, is_bulk: bool, replies: &CannedReplies) {
        if !self.mixed.is_empty() || (self.run > 0 && self.run_is_bulk != is_bulk) {
            self.mixed.extend_from_slice(replies.of(is_bulk).one());
        } else {
            self.run += 1;
            self.run_is_bulk = is_bulk;
        }
    }

    fn take(&mut self, replies: &CannedReplies) -> Option<Payload> {
        if self.run == 0 {
            if self.mixed.is_empty() {
                return None;
            }
            let mut next = std::mem::take(&mut self.spare);
            next.clear();
            return Some(Payload::Own(std::mem::replace(&mut self.mixed, next)));
        }
        let canned = replies.of(self.run_is_bulk);
        let count = self.run.min(canned.count());
        if !self.mixed.is_empty() {
            // One send for all: the run is written before the mixture.
            let mut all = std::mem::take(&mut self.spare);
            all.clear();
            for _ in 0..self.run {
                all.extend_from_slice(canned.one());
            }
            all.append(&mut self.mixed);
            self.run = 0;
            return Some(Payload::Own(all));
        }
        self.run -= count;
        Some(Payload::Shared {
            bytes: Arc::clone(&canned.many),
            len: count * canned.len,
        })
    }
}

struct CannedReplies {
    ok: Canned,
    bulk: Canned,
}

impl CannedReplies {
    fn new(bulk: usize) -> CannedReplies {
        let mut reply = format!("${bulk}\r\n").into_bytes();
        reply.resize(reply.len() + bulk, b'x');
        reply.extend_from_slice(b"\r\n");
        CannedReplies {
            ok: Canned::new(b"+OK\r\n"),
            bulk: Canned::new(&reply),
        }
    }

    fn of(&self, is_bulk: bool) -> &Canned {
        if is_bulk { &self.bulk } else { &self.ok }
    }
}

/// One reply, many times over.
struct Canned {
    many: Arc<[u8]>,
    len: usize,
}

impl Canned {
    fn new(reply: &[u8]) -> Canned {
        let count = (CANNED_LEN / reply.len()).max(1);
        Canned {
            many: reply.repeat(count).into(),
            len: reply.len(),
        }
    }

    fn one(&self) -> &[u8] {
        &self.many[..self.len]
    }

    fn count(&self) -> usize {
        self.many.len() / self.len
    }
}

/// Long enough for the deepest pipeline that fits a receive buffer many times over.
const CANNED_LEN: usize = 1 << 20;
/// How often an idle responder looks for a signal.
const IDLE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owed_replies_keep_their_order_across_kinds() {
        let replies = CannedReplies::new(2);
        let bytes = |names: &[u8]| {
            let mut owed = Owed::default();
            names
                .iter()
                .for_each(|name| owed.add(*name == b'g', &replies));
            let mut out = Vec::new();
            while let Some(payload) = owed.take(&replies) {
                out.extend_from_slice(match &payload {
                    Payload::Own(bytes) => bytes,
                    Payload::Shared { bytes, len } => &bytes[..*len],
                });
            }
            String::from_utf8_lossy(&out).into_owned()
        };
        assert_eq!(bytes(b"ss"), "+OK\r\n+OK\r\n");
        assert_eq!(bytes(b"gs"), "$2\r\nxx\r\n+OK\r\n");
        assert_eq!(bytes(b"sgs"), "+OK\r\n$2\r\nxx\r\n+OK\r\n");
        assert_eq!(bytes(b""), "");
        assert_eq!(bytes(&vec![b's'; 300_000]).len(), 1_500_000);
    }
}
