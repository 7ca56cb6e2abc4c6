//! A desk for tests of commands: shards, a clock that tests move, and text in and out.

use super::{Ctx, Run, Shard, Shards, Table, run, unknown};
use crate::{
    base::{Ms, Rng},
    resp::{Error, Out, OwnedArgs, Proto},
};

/// Runs commands on shards of its own, without connections or cores.
pub struct Desk {
    shards: Shards,
    table: Table,
    rng: Rng,
    /// The wall clock.
    pub now: Ms,
    /// The protocol of the replies.
    pub proto: Proto,
    /// Changes counted by the last command.
    pub dirty: u64,
    /// Whether the last command blocked.
    pub blocked: bool,
}

impl Desk {
    /// A desk with this many shards at the time 1 000 000 000 000 ms.
    pub fn with_shards(count: u32) -> Self {
        let mut shards = Shards::none_of(count);
        for at in 0..count as usize {
            shards.put(at, Box::new(Shard::new(16, 7)));
        }
        Self {
            shards,
            table: Table::build(),
            rng: Rng::seeded(1),
            now: 1_000_000_000_000,
            proto: Proto::Two,
            dirty: 0,
            blocked: false,
        }
    }

    /// Runs one command given as arguments; the raw reply.
    pub fn send(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let owned = OwnedArgs::copy(args.iter().copied());
        let args = owned.as_args();
        let mut out = Out::new(self.proto);
        self.blocked = false;
        let Some(spec) = self.table.find(args.at(0)) else {
            out.error(&unknown(args));
            return out.to_vec();
        };
        let spec = match spec.name {
            "MEMORY" => &super::MEMORY_USAGE,
            _ => spec,
        };
        if !spec.fits(args.len()) {
            out.error(&Error::arity(spec.name));
            return out.to_vec();
        }
        let Run::Store(function) = spec.run else {
            panic!("{} is no store command", spec.name)
        };
        let mut ctx = Ctx {
            shards: &mut self.shards,
            db: 0,
            out: &mut out,
            now: self.now,
            rng: &mut self.rng,
            dirty: 0,
            may_block: true,
            block: None,
            from_primary: false,
            arrived: None,
        };
        let _ = run(&mut ctx, function, args);
        (self.dirty, self.blocked) = (ctx.dirty, ctx.block.is_some());
        out.to_vec()
    }

    /// Runs one command line split at spaces (`""` is an empty argument); the reply with `\r\n`
    /// shown as a space.
    pub fn say(&mut self, line: &str) -> String {
        let args: Vec<&[u8]> = line
            .split(' ')
            .map(|word| {
                if word == "\"\"" {
                    &[][..]
                } else {
                    word.as_bytes()
                }
            })
            .collect();
        String::from_utf8_lossy(&self.send(&args))
            .trim_end()
            .replace("\r\n", " ")
    }
}

#[test]
fn a_desk_answers() {
    let mut desk = Desk::with_shards(3);
    assert_eq!(desk.say("SET k v"), "+OK");
    assert_eq!(desk.say("get k"), "$1 v");
    assert_eq!(
        desk.say("GET"),
        "-ERR wrong number of arguments for 'get' command"
    );
}
