//! Commands of a log, run again.

use std::time::Instant;

use super::{Tally, ToolError};
use crate::{
    aof::{Entry, Family},
    base::{Ms, Rng, parse_u64},
    cmd::{self, Ctx, Run, Shards, Table},
    repl::{kevy_does_besides, kevy_refuses},
    resp::{Args, Out, OwnedArgs},
    script::{Limits, ScriptEngine, Scripts, StoresOnly},
};

/// What Lua may hold.
const LUA_MEMORY: usize = 256 << 20;

/// Runs commands as the server ran them that wrote the log.
///
/// Time stands still at 1970, so that nothing expires on the way: Redis logs the removal of what expires
/// as commands. kevy logs none: there time is what the log proves it to have been at least. Whoever sets a
/// relative time to live is followed by the same as a deadline, and the difference is when that was.
pub struct Replay {
    shards: Shards,
    table: Table,
    engine: ScriptEngine,
    rng: Rng,
    out: Out,
    /// `None` where the log has gone to one that is not there.
    database: Option<usize>,
    now: Ms,
    /// When the log was written last: for what the log does not tell.
    written: Ms,
    /// A key that was given so many milliseconds to live by the last command.
    given: Option<(Vec<u8>, Ms)>,
    /// Commands that belong together, until the last of them is there; with the place of the first.
    open: Option<(u64, Vec<OwnedArgs>)>,
}

impl Replay {
    /// A replay into these shards, all of which must be there.
    pub fn new(shards: Shards) -> Result<Self, ToolError> {
        let limits = Limits {
            alone: false,
            memory: LUA_MEMORY,
        };
        let start = Instant::now();
        let clock = Box::new(move || Some(start.elapsed().as_millis() as Ms));
        let engine =
            ScriptEngine::new(Scripts::default(), limits, clock).map_err(ToolError::Scripts)?;
        Ok(Self {
            shards,
            table: Table::build(),
            engine,
            rng: Rng::seeded(1),
            out: Out::default(),
            database: Some(0),
            now: 0,
            written: 0,
            given: None,
            open: None,
        })
    }

    /// The shards, to load what the log continues.
    pub fn shards(&mut self) -> &mut Shards {
        &mut self.shards
    }

    /// The shards with everything in them.
    pub fn into_shards(self) -> Shards {
        self.shards
    }

    /// Begins a log that was written last at `written`.
    pub fn begin(&mut self, written: Ms) {
        self.written = written;
        self.database = Some(0);
        self.given = None;
    }

    /// Where the transaction begins that the log has left open, if there is one; it is dropped.
    pub fn drop_open(&mut self) -> Option<u64> {
        Some(self.open.take()?.0)
    }

    /// Takes in a part of a log, which begins at byte `at`. False if it cannot be where it is.
    pub fn take(&mut self, at: u64, entry: Entry<'_>, family: Family, tally: &mut Tally) -> bool {
        match entry {
            Entry::Command(args) => match &mut self.open {
                Some((_, commands)) => commands.push(OwnedArgs::copy(args.iter())),
                None => self.run(args, family, tally),
            },
            Entry::Begin => {
                if self.open.is_some() && family == Family::Redis {
                    return false;
                }
                if self.open.replace((at, Vec::new())).is_some() {
                    // The server died in the middle of it, and another one went on behind it.
                    tally.note("a transaction without its end was left out, as the server did");
                }
            }
            Entry::Commit => {
                let Some((_, commands)) = self.open.take() else {
                    return false;
                };
                for args in commands {
                    self.run(args.as_args(), family, tally);
                }
            }
            Entry::Base(_) | Entry::Time(_) | Entry::Torn(_) => {}
        }
        true
    }

    fn run(&mut self, args: Args<'_>, family: Family, tally: &mut Tally) {
        if family == Family::Kevy {
            // It is on the log, but what it answered was an error.
            if kevy_refuses(args) {
                return;
            }
        }
        let has_changed = self.execute(args, family, tally);
        if family == Family::Kevy {
            // Behind it: a deadline that a command gave by what was known of the time is about to be
            // told exactly.
            self.learn_time(args, has_changed);
        }
    }

    /// True if something was changed.
    fn execute(&mut self, args: Args<'_>, family: Family, tally: &mut Tally) -> bool {
        let name = args.at(0);
        let Some(spec) = self.table.find(name) else {
            let shown = String::from_utf8_lossy(name).to_ascii_uppercase();
            let why = format!("commands {shown}, which the node does not know");
            tally.left_out(why, b"");
            return false;
        };
        if !spec.fits(args.len()) {
            tally.left_out(format!("commands {} of a wrong form", spec.name), b"");
            return false;
        }
        if spec.name == "SELECT" {
            self.database = cmd::select(args, self.shards.databases()).ok();
            return false;
        }
        let Some(database) = self.database else {
            let count = self.shards.databases();
            let why = format!("commands in other databases, where there are only {count}");
            tally.left_out(why, b"");
            return false;
        };
        self.out.clear();
        let mut ctx = Ctx {
            shards: &mut self.shards,
            db: database,
            out: &mut self.out,
            now: self.now,
            rng: &mut self.rng,
            dirty: 0,
            may_block: false,
            block: None,
            from_primary: true,
            arrived: None,
        };
        if spec.name == "XADD" && args.iter().any(|arg| arg == b"*") {
            // The id was made from the clock. What the key's deadline makes of that time is not asked.
            let meta = ctx.keys(args.at(1)).meta(args.at(1), self.now);
            if meta.is_none_or(|meta| meta.deadline.is_none()) {
                ctx.now = ctx.now.max(self.written);
            }
        }
        let result = match spec.run {
            Run::Store(function) => cmd::run(&mut ctx, spec, function, args),
            Run::Script if spec.name == "FUNCTION" => {
                tally.left_out("libraries of functions: load them with FUNCTION LOAD", b"");
                Ok(())
            }
            Run::Script if spec.name == "SCRIPT" => self.engine.script(ctx.out, args),
            Run::Script => self.engine.run(&mut ctx, &mut StoresOnly, args),
            // They change nothing that is kept.
            Run::Session(_) => Ok(()),
        };
        let has_changed = ctx.dirty > 0;
        if has_changed {
            note_chance(spec.name, args, tally);
        }
        if let Err(error) = result {
            match family {
                Family::Kevy => tally.note("a command failed: kevy logs what failed then, too"),
                Family::Redis => {
                    let why = format!("{} failed: {}", spec.name, error.as_str());
                    tally.left_out(why, args.get(1).unwrap_or_default());
                }
            }
        }
        if spec.name == "XINTERNAL.CATALOG" && (3..args.len()).any(|at| !args.at(at).is_empty()) {
            tally.left_out("definitions of indexes, tables or views", b"");
        }
        if family == Family::Kevy
            && let Some(words) = kevy_does_besides(&args)
        {
            self.execute(OwnedArgs::copy(words).as_args(), family, tally);
        }
        has_changed
    }

    /// Learns from a kevy log what time it was. A command that changed nothing may be followed by a
    /// deadline too: the one from before.
    fn learn_time(&mut self, args: Args<'_>, has_changed: bool) {
        let given = self.given.take();
        let (name, key) = (args.at(0), args.get(1).unwrap_or_default());
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        let number = |at: usize| args.get(at).and_then(parse_u64);
        if is("PEXPIREAT") || is("HPEXPIREAT") {
            if let (Some((of, ms)), Some(deadline)) = (given, number(2))
                && of == key
            {
                self.note_time(deadline.saturating_sub(ms));
            }
            return;
        }
        if is("XINTERNAL.CONSUMERSEEN") {
            return self.note_time(number(4).unwrap_or(0));
        }
        let secs = |at: usize| number(at).map(|secs| secs.saturating_mul(1000));
        let ms = if is("EXPIRE") || is("SETEX") || is("HEXPIRE") {
            secs(2)
        } else if is("PEXPIRE") || is("PSETEX") || is("HPEXPIRE") {
            number(2)
        } else if is("SET") || is("GETEX") {
            let option = |word: &str| {
                (2..args.len()).find(|at| args.at(*at).eq_ignore_ascii_case(word.as_bytes()))
            };
            let from_px = option("PX").and_then(|at| number(at + 1));
            from_px.or_else(|| option("EX").and_then(|at| secs(at + 1)))
        } else {
            None
        };
        self.given = ms.filter(|_| has_changed).map(|ms| (key.to_vec(), ms));
    }

    fn note_time(&mut self, time: Ms) {
        if time <= self.written {
            self.now = self.now.max(time);
        }
    }
}

/// Some commands do not do the same again.
fn note_chance(name: &str, args: Args<'_>, tally: &mut Tally) {
    if name == "SPOP" {
        tally.note("SPOP is on the log as it was typed: other members than then were removed");
    } else if name == "XADD" && args.iter().any(|arg| arg == b"*") {
        tally.note("XADD with * is on the log as it was typed: these entries have new ids");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{route::Routing, tools::empty};

    /// Runs lines of a log that was written last at 2 000 000 000 000; what is told of it.
    fn played(lines: &[&str], family: Family) -> (Replay, String) {
        let mut replay = Replay::new(empty(2, Routing::KevyHash)).expect("Lua works");
        let mut tally = Tally::default();
        replay.begin(2_000_000_000_000);
        for (at, line) in lines.iter().enumerate() {
            let args = OwnedArgs::copy(line.split(' ').map(str::as_bytes));
            let entry = match *line {
                "MULTI" => Entry::Begin,
                "EXEC" => Entry::Commit,
                _ => Entry::Command(args.as_args()),
            };
            assert!(replay.take(at as u64, entry, family, &mut tally), "{line}");
        }
        (replay, tally.to_string())
    }

    fn string(replay: &mut Replay, database: usize, key: &str) -> Option<String> {
        let keys = replay.shards.of(database, key.as_bytes());
        let found = keys.string(key.as_bytes(), 0).expect("a string");
        found.map(|text| String::from_utf8_lossy(text.as_bytes()).into_owned())
    }

    #[test]
    fn time_in_a_log_of_kevy_is_what_it_proves() {
        let (mut replay, _) = played(
            &[
                "SET a 5 PX 30",
                "PEXPIREAT a 1700000000030",
                "INCR a",
                // Not done, and followed by the deadline from before.
                "SET a 9 PX 1 NX",
                "PEXPIREAT a 1700000000030",
                "SET b 5 PX 30",
                "PEXPIREAT b 1700000000040",
                // The log shows here that both deadlines have passed.
                "EXPIRE b 1",
                "SET c 1 EX 1000",
                "PEXPIREAT c 1700001001000",
                "INCR a",
            ],
            Family::Kevy,
        );
        assert_eq!(replay.now, 1_700_000_001_000);
        assert_eq!(string(&mut replay, 0, "a").as_deref(), Some("1"));
    }

    #[test]
    fn what_was_left_to_chance_and_clock_is_told() {
        let (mut replay, told) = played(
            &[
                "XADD x * f v",
                "SADD s a b",
                "SPOP s",
                "SPOP none",
                "SET k v GET",
            ],
            Family::Kevy,
        );
        assert!(
            told.contains("new ids") && told.contains("SPOP is on the log"),
            "{told}"
        );
        assert!(!told.contains("times"), "{told}");
        assert_eq!(string(&mut replay, 0, "k"), None);
        let keys = replay.shards.of(0, b"x");
        let stream = keys.get::<crate::store::Stream>(b"x", 0).expect("a stream");
        let last = stream.map(|stream| stream.log().last_id().ms);
        assert_eq!(last, Some(2_000_000_000_000));
    }

    #[test]
    fn a_log_of_redis_names_databases_and_what_it_cannot_do() {
        let (mut replay, told) = played(
            &[
                "SELECT 3",
                "MULTI",
                "SET k v",
                "EXEC",
                "SELECT 99999",
                "SET lost v",
                "SELECT 0",
                "FOO x",
                "FUNCTION LOAD x",
                "MULTI",
                "SET open v",
            ],
            Family::Redis,
        );
        assert_eq!(string(&mut replay, 3, "k").as_deref(), Some("v"));
        assert_eq!(string(&mut replay, 0, "open"), None);
        assert_eq!(replay.drop_open(), Some(9));
        for text in [
            "NOT TAKEN: 1 x commands FOO, which the node does not know",
            "NOT TAKEN: 1 x commands in other databases, where there are only 10000",
            "NOT TAKEN: 1 x libraries of functions",
        ] {
            assert!(told.contains(text), "{told}");
        }
    }
}
