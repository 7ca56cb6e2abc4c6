//! What a member of elections needs before it starts.

use std::{
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use super::{Options, Ports, StartError};
use crate::{
    elect::{self, Ballot, NodeId, Places, SettingsFault, Timings},
    failover::Record,
    shard::{BALLOT, Membership, PLACES, RECORD},
};

/// As in kevy.
const ELECT_ABOVE: u16 = 200;

/// The port of elections, if there are any.
pub(super) fn port(options: &Options) -> Option<u16> {
    if options.node_id.is_none() || options.peers.is_empty() {
        return None;
    }
    options.elect_port.or(options.port.checked_add(ELECT_ABOVE))
}

/// [`port`], where all that it takes is there. What the list says of this node must be so: others find it by
/// that.
pub(super) fn check(
    options: &Options,
    addresses: &[IpAddr],
    replication_port: Option<u16>,
    ports: &mut Ports,
) -> Result<Option<u16>, StartError> {
    let Some(id) = options.node_id.filter(|_| !options.peers.is_empty()) else {
        return Ok(None);
    };
    let fault = |text: String| StartError::Member(text);
    settings(options, id, 0)
        .check()
        .map_err(|wrong| fault(wrong.to_string()))?;
    let own = options.peers.iter().find(|peer| peer.id == id);
    let own = own.ok_or_else(|| fault(SettingsFault::NotListed(id).to_string()))?;
    let port = port(options).ok_or_else(|| fault("no port for them, see --elect-port".into()))?;
    let listed = |what: &str, listed: u16, is: u16| match listed == is {
        true => Ok(()),
        false => Err(fault(format!(
            "the list of peers has {listed} as the {what} port of {id}, this node, and it is {is}"
        ))),
    };
    listed("election", own.elect_port, port)?;
    listed(
        "client",
        own.client_port.unwrap_or(options.port),
        options.port,
    )?;
    let Some(replication_port) = replication_port else {
        return Err(fault(
            "a member serves replicas when it is elected: give it a --replication-port".into(),
        ));
    };
    listed(
        "replication",
        own.stream_base().unwrap_or(0),
        replication_port,
    )?;
    for address in addresses {
        let at = SocketAddr::new(*address, port);
        let taken = ports.take(at);
        taken.map_err(|error| StartError::Listen(at.to_string(), error))?;
    }
    Ok(Some(port))
}

/// What the data directory says, and what the node was told.
pub(super) fn read(options: &Options, dir: &Path, seed: u64) -> Result<Membership, StartError> {
    let ballot = read_file(dir, BALLOT, Ballot::read, TWICE)?.unwrap_or_default();
    let places = read_file(dir, PLACES, Places::read, TWICE)?;
    let Some(id) = options.node_id else {
        return Err(StartError::Member("the node has no name".into()));
    };
    Ok(Membership {
        settings: settings(options, id, seed),
        dir: dir.into(),
        ballot,
        places,
        led: 0,
    })
}

fn settings(options: &Options, id: NodeId, seed: u64) -> elect::Settings {
    let down_after = options.down_after_ms;
    elect::Settings {
        id,
        peers: options.peers.clone(),
        address: format!("{}:{}", options.bind.join(" "), options.port),
        timings: match down_after == Timings::KEVY.down_after {
            true => Timings::KEVY,
            false => Timings::within(down_after),
        },
        check_source: true,
        seed,
    }
}

/// What failovers made of the node.
pub(super) fn read_record(dir: &Path) -> Result<Record, StartError> {
    let record = read_file(dir, RECORD, Record::read, TWO_PRIMARIES)?;
    Ok(record.unwrap_or_default())
}

/// What a damaged file may lead to, and what can be done.
const TWICE: &str = "Without it the node may vote twice in one election. Put back a copy of it, or remove it \
                     once no election of before can be going on any more";
/// See there.
const TWO_PRIMARIES: &str = "Without it there may be two primaries. Put back a copy of it, or remove it \
                             once you know which node is the primary, and start this one accordingly";

/// A file of the directory; none if there is none. Damage is no fresh start.
fn read_file<T, E: std::fmt::Display>(
    dir: &Path,
    name: &str,
    read: impl FnOnce(&[u8]) -> Result<T, E>,
    danger: &str,
) -> Result<Option<T>, StartError> {
    let at = dir.join(name);
    let bytes = match fs::read(&at) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StartError::Member(format!("{}: {error}", at.display()))),
    };
    let content = read(&bytes)
        .map_err(|fault| StartError::Member(format!("{}: {fault}. {danger}", at.display())))?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Command, World, parse};

    /// Why node `a` with this list does not start.
    fn refused(peers: &str) -> Option<String> {
        let args = [
            "--port",
            "6001",
            "--dir",
            "d",
            "--node-id",
            "a",
            "--peers",
            peers,
        ];
        let Ok(Command::Serve(options)) = parse(args.map(String::from), &World::default()) else {
            panic!("{peers} is a list");
        };
        let checked = check(&options, &[], Some(16001), &mut Ports::Beside);
        checked.err().map(|error| error.to_string())
    }

    #[test]
    fn a_list_that_cannot_work_is_refused_before_anything_is_loaded() {
        let wanted = |text: &str| Some(format!("elections: the list of peers {text}"));
        assert_eq!(refused("a@h:6201:6001,b@h:6202:6002,c@h:6203:6003"), None);
        let twice = refused("a@h:6201:6001,b@h:6202:6002,b@h:6203:6003");
        assert_eq!(twice, wanted("names b twice"));
        let absent = refused("b@h:6202:6002,c@h:6203:6003");
        assert_eq!(absent, wanted("does not name a, this node"));
        let other = refused("a@h:6209:6001,b@h:6202:6002");
        let told = "has 6209 as the election port of a, this node, and it is 6201";
        assert_eq!(other, wanted(told));
    }
}
