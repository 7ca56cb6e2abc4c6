//! The map of the slots, where several nodes share the keys.

use std::{collections::BTreeSet, path::Path};

use super::{Options, StartError};
use crate::{fleet::Map, shard::Fleet};

/// Reads the map, if there is one. What it says of this node must be so, and the members of its range are
/// those that elect a primary.
pub(super) fn read(options: &Options) -> Result<Option<Fleet>, StartError> {
    let Some(path) = &options.map else {
        return Ok(None);
    };
    let fault = |why: String| StartError::Map(path.clone(), why);
    let text =
        std::fs::read_to_string(Path::new(path)).map_err(|error| fault(error.to_string()))?;
    fleet(options, &text).map(Some).map_err(fault)
}

fn fleet(options: &Options, text: &str) -> Result<Fleet, String> {
    let map = Map::read(text).map_err(|fault| fault.to_string())?;
    let id = options.node_id.ok_or("the node has no name")?;
    let fleet = Fleet::new(map, &id).ok_or(format!("it does not list {id}, this node"))?;
    let port = fleet.myself().at.port();
    if port != options.port {
        let is = options.port;
        return Err(format!(
            "it has {port} as the client port of {id}, this node, and it is {is}"
        ));
    }
    let members = &fleet.own_range().members;
    let listed: BTreeSet<&str> = members.iter().map(|member| member.id.as_str()).collect();
    let peers: BTreeSet<&str> = options.peers.iter().map(|peer| peer.id.as_str()).collect();
    if members.len() > 1 && peers.is_empty() {
        return Err(format!(
            "the range of {id} has {} members, which elect a primary: this node needs --peers",
            members.len()
        ));
    }
    if !peers.is_empty()
        && let Some(other) = listed.symmetric_difference(&peers).next()
    {
        return Err(match listed.contains(other) {
            true => format!("it has {other} in the range of {id}, and --peers does not"),
            false => format!("it does not have {other} in the range of {id}, and --peers does"),
        });
    }
    for peer in &options.peers {
        let member = members.iter().find(|member| member.id == peer.id);
        let port = member.map(|member| member.at.port());
        if peer.client_port.is_some() && peer.client_port != port {
            return Err(format!(
                "it has {} as the client port of {}, and --peers has {}",
                port.unwrap_or_default(),
                peer.id,
                peer.client_port.unwrap_or_default()
            ));
        }
    }
    Ok(fleet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Command, World, parse};

    const MAP: &str = "[[range]]\nslots = '0-99'\nmembers = 'a1@10.0.0.1:6001,a2@10.0.0.2:6002'\n\
                       [[range]]\nslots = '100-16383'\nmembers = 'b1@10.0.0.3:6003'\n";

    /// Why a node with these options does not start.
    fn refused(options: &str) -> Option<String> {
        let line = format!("--cluster-map m {options}");
        let args = line.split_whitespace().map(String::from);
        let options = match parse(args, &World::default()) {
            Ok(Command::Serve(options)) => options,
            Ok(other) => panic!("{other:?}"),
            Err(error) => return Some(error.to_string()),
        };
        fleet(&options, MAP).err()
    }

    #[test]
    fn a_map_and_a_node_that_do_not_go_together_are_refused() {
        let peers = "--dir d --peers a1@h:6201:6001,a2@h:6202:6002";
        let with = |rest: &str| refused(&format!("--node-id a1 --port 6001 {rest}"));
        assert_eq!(with(peers), None);
        assert_eq!(refused("--node-id b1 --port 6003"), None);
        let cases = [
            ("--node-id c1 --port 6001", "it does not list c1, this node"),
            (
                "--node-id a1 --port 6009",
                "it has 6001 as the client port of a1, this node, and it is 6009",
            ),
            (
                "--node-id a1 --port 6001",
                "the range of a1 has 2 members, which elect a primary: this node needs --peers",
            ),
            (
                "--node-id a1 --port 6001 --dir d --peers a1@h:1,b1@h:2",
                "it has a2 in the range of a1, and --peers does not",
            ),
            (
                "--node-id a1 --port 6001 --dir d --peers a1@h:1,a2@h:2,b1@h:3",
                "it does not have b1 in the range of a1, and --peers does",
            ),
            (
                "--node-id a1 --port 6001 --dir d --peers a1@h:1,a2@h:2:6009",
                "it has 6002 as the client port of a2, and --peers has 6009",
            ),
            (
                "--port 6001",
                "--cluster-map needs --node-id: which of its nodes is this one?, see --help",
            ),
            (
                "--node-id b1 --port 6003 --cluster",
                "with --cluster-map the client port serves all slots of the node: leave out --cluster, see \
                 --help",
            ),
            (
                "--node-id b1 --port 6003 --replicaof h:1",
                "with --cluster-map the primary of a range is elected: leave out --replicaof, see --help",
            ),
        ];
        for (options, wanted) in cases {
            assert_eq!(refused(options).as_deref(), Some(wanted));
        }
    }
}
