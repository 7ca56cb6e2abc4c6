//! Commands: one row per command in its family's table, one function that runs it on stores.

mod bitmaps;
mod book;
#[cfg(test)]
mod cover;
mod ctx;
mod describe;
mod digest;
mod dump;
pub mod effects;
pub mod events;
mod expiry;
mod float80;
mod geo;
mod hashes;
mod hyperloglog;
mod keys;
pub mod libraries;
mod lists;
mod noted;
mod scan;
mod scripts;
mod session;
mod sets;
mod sort;
mod spec;
mod streams;
mod strings;
#[cfg(test)]
pub mod testing;
mod upstream;
mod walk;
mod zsets;

pub use book::Page;
pub use ctx::{Block, Ctx, OnTimeout, Shard, Shards, Tracking, int, parse_timeout, select};
pub use describe::{command, help, in_category, pages, subcommand};
pub use digest::Digest;
pub use keys::{DEBUG_OBJECT, KEYS_IN_SLOT, MEMORY_USAGE};
pub use noted::Walker;
pub use session::Verb;
pub use spec::{Keys, Run, Spec, flag, unknown_subcommand};
pub use upstream::{Adoption, Upstream};
pub use walk::{ShardSlice, ShardWalk};

use crate::resp::{Args, Error};

/// All families in the order of COMMAND's reply.
static FAMILIES: &[(&str, &[Spec])] = &[
    ("string", strings::COMMANDS),
    ("bitmap", bitmaps::COMMANDS),
    ("generic", keys::COMMANDS),
    ("generic", dump::COMMANDS),
    ("generic", sort::COMMANDS),
    ("hash", hashes::COMMANDS),
    ("list", lists::COMMANDS),
    ("set", sets::COMMANDS),
    ("sorted-set", zsets::COMMANDS),
    ("geo", geo::COMMANDS),
    ("hyperloglog", hyperloglog::COMMANDS),
    ("stream", streams::COMMANDS),
    ("scripting", scripts::COMMANDS),
    ("server", session::COMMANDS),
];

/// Every command with the group that COMMAND DOCS names.
pub fn all() -> impl Iterator<Item = (&'static str, &'static Spec)> {
    FAMILIES
        .iter()
        .flat_map(|(group, specs)| specs.iter().map(move |spec| (*group, spec)))
}

/// Runs a store command whose shards are all here. What the command wrote before failing is taken
/// back and the error is written instead. Where effects are recorded, those of the command are part of
/// the open unit afterwards.
///
/// # Errors
/// The error that was written.
#[inline(always)]
pub fn run(
    ctx: &mut Ctx<'_>,
    spec: &Spec,
    run: fn(&mut Ctx<'_>, Args<'_>) -> Result<(), Error>,
    args: Args<'_>,
) -> Result<(), Error> {
    let mark = ctx.out.mark();
    let result = if ctx.shards.records() {
        effects::run_recorded(ctx, spec, run, args)
    } else {
        run(ctx, args)
    };
    result.inspect_err(|error| {
        ctx.out.rewind(mark);
        ctx.out.error(error);
    })
}

/// The commands by name.
pub struct Table {
    /// Open addressing by a hash of the upper-cased name; a power of two, less than half full.
    slots: Vec<Option<&'static Spec>>,
}

/// Places of a [`Table`]. Every table has the same commands in the same places.
pub const PLACES: usize = 1024;

/// Longest command name; anything longer is unknown without looking.
const NAME_MAX: usize = 32;

impl Table {
    /// Builds the table of all commands.
    pub fn build() -> Self {
        let mut slots = vec![None; PLACES];
        for (_, spec) in all() {
            assert!(spec.name.len() <= NAME_MAX);
            let mut at = hash(spec.name.as_bytes());
            while slots[at & (slots.len() - 1)].is_some() {
                at += 1;
            }
            let mask = slots.len() - 1;
            slots[at & mask] = Some(spec);
        }
        Self { slots }
    }

    /// Finds a command by its name in any case.
    pub fn find(&self, name: &[u8]) -> Option<&'static Spec> {
        Some(self.find_at(name)?.1)
    }

    /// The place of a command.
    pub fn place(&self, spec: &Spec) -> Option<usize> {
        Some(self.find_at(spec.name.as_bytes())?.0)
    }

    /// The command at a place.
    pub fn at(&self, place: usize) -> Option<&'static Spec> {
        *self.slots.get(place)?
    }

    /// Finds a command by its name in any case, with its place.
    #[inline]
    pub fn find_at(&self, name: &[u8]) -> Option<(usize, &'static Spec)> {
        if name.len() > NAME_MAX {
            return None;
        }
        let mut at = hash(name);
        loop {
            let place = at & (self.slots.len() - 1);
            let spec = self.slots[place]?;
            if spec.name.as_bytes().eq_ignore_ascii_case(name) {
                return Some((place, spec));
            }
            at += 1;
        }
    }
}

/// A hash that ignores case: bit 5 of every byte is cleared. Looks at the first and last eight bytes,
/// which tell all names apart well enough.
#[inline]
fn hash(name: &[u8]) -> usize {
    let word = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0u64, |word, byte| word << 8 | u64::from(byte & 0xdf))
    };
    let (head, tail) = match name {
        [a, b, c] => (
            u64::from(a & 0xdf) << 16 | u64::from(b & 0xdf) << 8 | u64::from(c & 0xdf),
            0,
        ),
        _ if name.len() <= 8 => (word(name), 0),
        _ => (word(&name[..8]), word(&name[name.len() - 8..])),
    };
    let mixed =
        (head ^ tail.rotate_left(23) ^ name.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize
}

/// The reply to a command that does not exist, with the start of its arguments as Redis shows them.
pub fn unknown(args: Args<'_>) -> Error {
    let mut shown = String::new();
    for arg in args.rest(1).iter() {
        if shown.len() >= 128 {
            break;
        }
        let room = 128 - shown.len();
        let text = String::from_utf8_lossy(&arg[..arg.len().min(room)]);
        shown.push_str(&format!("'{text}' "));
    }
    let name = args.at(0);
    let name = String::from_utf8_lossy(&name[..name.len().min(128)]);
    Error::text(format!(
        "ERR unknown command '{name}', with args beginning with: {shown}"
    ))
}
