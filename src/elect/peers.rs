//! The list of members, as every version of kevy writes it.
//!
//! ```text
//! id@host:elect                    all versions
//! id@host:elect:client             from 2.0 on
//! id@host:elect:client:replbase    from 7.0 on
//! ```
//!
//! Separated by commas, this node included. A host in brackets is an IPv6 address.

use super::NodeId;

/// One member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its name.
    pub id: NodeId,
    /// Name or address of its machine.
    pub host: String,
    /// Where it listens for heartbeats.
    pub elect_port: u16,
    /// Where it serves clients.
    pub client_port: Option<u16>,
    /// Where it feeds the replicas of its shard 0.
    pub stream_port: Option<u16>,
}

impl Peer {
    /// Where replicas find its shard 0, as kevy derives it: what the list says, or the client port and
    /// 10000, or the election port and 10000 if it names none.
    pub fn stream_base(&self) -> Option<u16> {
        let derived = || {
            self.client_port
                .unwrap_or(self.elect_port)
                .checked_add(10_000)
        };
        self.stream_port.or_else(derived)
    }

    /// Where clients are sent that are to go to it: as with kevy its election port if the list has no other.
    pub fn client_place(&self) -> String {
        let port = self.client_port.unwrap_or(self.elect_port);
        match self.host.contains(':') {
            true => format!("[{}]:{port}", self.host),
            false => format!("{}:{port}", self.host),
        }
    }
}

/// Why a list was refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerFault {
    /// Not of the form `id@host:elect[:client[:replbase]]`.
    Form(String),
    /// The part before the `@` is no name of a member.
    Id(String),
    /// A port is no number from 1 to 65535.
    Port(String),
}

impl std::fmt::Display for PeerFault {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Form(peer) => write!(out, "{peer}: a peer is id@host:elect[:client[:replbase]]"),
            Self::Id(peer) => write!(
                out,
                "{peer}: an id is 1 to 32 printable characters of ASCII"
            ),
            Self::Port(peer) => write!(out, "{peer}: a port is a number from 1 to 65535"),
        }
    }
}

impl std::error::Error for PeerFault {}

/// Reads a list. Blanks around a member and empty members are skipped.
///
/// # Errors
/// [`PeerFault`] with the member that is wrong.
pub fn parse_peers(text: &str) -> Result<Vec<Peer>, PeerFault> {
    let members = text.split(',').map(str::trim);
    members
        .filter(|member| !member.is_empty())
        .map(parse_peer)
        .collect()
}

/// Reads one member.
///
/// # Errors
/// [`PeerFault`].
pub fn parse_peer(text: &str) -> Result<Peer, PeerFault> {
    let form = || PeerFault::Form(text.into());
    let (id, place) = text.split_once('@').ok_or_else(form)?;
    let (host, ports) = match place.strip_prefix('[') {
        Some(place) => place.split_once("]:").ok_or_else(form)?,
        None => place.split_once(':').ok_or_else(form)?,
    };
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(form());
    }
    let mut ports = ports.splitn(4, ':').map(|port| match port.parse() {
        Ok(0) | Err(_) => Err(PeerFault::Port(text.into())),
        Ok(port) => Ok(port),
    });
    let peer = Peer {
        id: NodeId::new(id).ok_or_else(|| PeerFault::Id(text.into()))?,
        host: host.into(),
        elect_port: ports.next().ok_or_else(form)??,
        client_port: ports.next().transpose()?,
        stream_port: ports.next().transpose()?,
    };
    match ports.next() {
        None => Ok(peer),
        Some(_) => Err(form()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_of_the_list_is_read() {
        let peers =
            parse_peers("a@10.0.0.1:6579, b@host:6579:6379,,c@[::1]:1:2:3").expect("it is a list");
        let told: Vec<String> = peers
            .iter()
            .map(|peer| {
                let Peer {
                    id,
                    host,
                    elect_port,
                    client_port,
                    stream_port,
                } = peer;
                format!(
                    "{id} {host} {elect_port} {client_port:?} {stream_port:?} {:?}",
                    peer.stream_base()
                )
            })
            .collect();
        let wanted = [
            "a 10.0.0.1 6579 None None Some(16579)",
            "b host 6579 Some(6379) None Some(16379)",
            "c ::1 1 Some(2) Some(3) Some(3)",
        ];
        assert_eq!(told, wanted);
        let places: Vec<String> = peers.iter().map(Peer::client_place).collect();
        assert_eq!(places, ["10.0.0.1:6579", "host:6379", "[::1]:2"]);
        assert_eq!(parse_peers(""), Ok(vec![]));
    }

    #[test]
    fn what_is_no_member_is_named() {
        let fault = |text: &str| parse_peers(text).expect_err(text);
        for text in ["a", "a@h", "a@:1", "a@h h:1", "a@h:1:2:3:4", "a@[::1"] {
            assert_eq!(fault(text), PeerFault::Form(text.into()));
        }
        for text in [
            "@h:1",
            "-@h:1",
            "a b@h:1",
            "abcdefghijklmnopqrstuvwxyz0123456@h:1",
        ] {
            assert_eq!(fault(text), PeerFault::Id(text.into()));
        }
        for text in ["a@h:", "a@h:0", "a@h:65536", "a@h:1:x", "a@h:1:2:-3"] {
            assert_eq!(fault(text), PeerFault::Port(text.into()));
        }
        let high = parse_peers("a@h:60000").expect("it is a list");
        assert_eq!(high[0].stream_base(), None);
    }
}
