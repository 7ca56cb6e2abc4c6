//! A desk for tests of commands: shards, a clock that tests move, and text in and out.

use super::{Ctx, Run, Shard, Shards, Table, run, unknown};
use crate::{
    base::{Ms, Position, Rng, parse_u64},
    journal::Stream,
    resp::{Error, Out, OwnedArgs, Proto},
};

/// Runs commands on shards of its own, without connections or cores.
pub struct Desk {
    /// The shards.
    pub shards: Shards,
    /// The database of the next command.
    pub db: usize,
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
            db: 0,
            table: Table::build(),
            rng: Rng::seeded(1),
            now: 1_000_000_000_000,
            proto: Proto::Two,
            dirty: 0,
            blocked: false,
        }
    }

    /// A desk whose shards have streams.
    pub fn recording(count: u32) -> Self {
        let mut desk = Self::with_shards(count);
        for at in 0..count as usize {
            let mut shard = desk.shards.take(at).expect("it was put there");
            let start = Position {
                generation: 1,
                offset: 0,
            };
            shard.stream = Some(Box::new(Stream::new(at as u32, start)));
            desk.shards.put(at, shard);
        }
        desk
    }

    /// Takes the frames of complete units of a shard: those that were written together, in order.
    pub fn units(&mut self, at: usize) -> Vec<Vec<OwnedArgs>> {
        let mut blocks = Vec::new();
        let stream = self.shards.shard(at).stream.as_mut();
        let stream = stream.expect("the desk records");
        while let Some(block) = stream.take_block() {
            blocks.push(frames(block.frames()));
        }
        blocks
    }

    /// Takes the frames of all shards as text.
    pub fn effects(&mut self) -> Vec<String> {
        self.shards.end_unit();
        let units = (0..self.shards.count())
            .flat_map(|at| self.units(at))
            .flatten();
        let text = |frame: OwnedArgs| {
            let words: Vec<_> = frame
                .as_args()
                .iter()
                .map(String::from_utf8_lossy)
                .map(String::from)
                .collect();
            words.join(" ")
        };
        units.map(text).collect()
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
            db: self.db,
            out: &mut out,
            now: self.now,
            rng: &mut self.rng,
            dirty: 0,
            may_block: true,
            block: None,
            from_primary: false,
            arrived: None,
        };
        let _ = run(&mut ctx, spec, function, args);
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

/// The commands of `*2 :offset *argc ($len arg)*` frames.
fn frames(mut bytes: &[u8]) -> Vec<OwnedArgs> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let mut args = OwnedArgs::default();
        assert_eq!(number(&mut bytes, b'*'), 2);
        number(&mut bytes, b':');
        for _ in 0..number(&mut bytes, b'*') {
            let len = number(&mut bytes, b'$');
            args.push(&bytes[..len]);
            bytes = &bytes[len + 2..];
        }
        found.push(args);
    }
    found
}

fn number(bytes: &mut &[u8], sign: u8) -> usize {
    let end = bytes.iter().position(|byte| *byte == b'\r');
    let (line, rest) = bytes.split_at(end.expect("a line end"));
    assert_eq!(line[0], sign);
    *bytes = &rest[2..];
    parse_u64(&line[1..]).expect("a number") as usize
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
