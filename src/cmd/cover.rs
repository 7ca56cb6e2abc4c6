//! Every command is run with only those shards present that its keys name. On several cores a command
//! that reaches for another one would stop the node; so would any other panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Ctx, Keys, Run, Shard, Shards, Spec, Table, all, run};
use crate::{
    base::Rng,
    resp::{Out, OwnedArgs, Proto},
};

const SHARDS: u32 = 61;
const ROUNDS: usize = 1500;

/// Keys of all types and none, many of each so that they lie apart.
const KEYS: &[&str] = &[
    "str1", "str2", "str3", "num1", "num2", "list1", "list2", "list3", "hash1", "hash2", "set1",
    "set2", "set3", "zset1", "zset2", "zset3", "stream1", "stream2", "geo1", "geo2", "none1",
    "none2", "none3", "{tag}a", "{tag}b", "",
];

const WORDS: &[&str] = &[
    "0",
    "1",
    "2",
    "3",
    "-1",
    "-2",
    "5",
    "10",
    "100",
    "1.5",
    "-0.5",
    "1e3",
    "inf",
    "-inf",
    "nan",
    "1e400",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "(1",
    "[a",
    "(a",
    "-",
    "+",
    "(",
    "$",
    ">",
    "*",
    "=",
    "~",
    "0-0",
    "0-1",
    "5-5",
    "1-*",
    "a",
    "b",
    "c",
    "m",
    "f",
    "*a*",
    "hash*->f",
    "str*",
    "#",
    "STORE",
    "STOREDIST",
    "STREAMS",
    "GROUP",
    "COUNT",
    "BLOCK",
    "LIMIT",
    "BY",
    "GET",
    "SET",
    "NOSORT",
    "WITHSCORES",
    "WITHSCORE",
    "WEIGHTS",
    "AGGREGATE",
    "SUM",
    "MIN",
    "MAX",
    "NX",
    "XX",
    "GT",
    "LT",
    "CH",
    "INCR",
    "INCRBY",
    "OVERFLOW",
    "SAT",
    "WRAP",
    "FAIL",
    "u8",
    "i16",
    "u63",
    "i64",
    "#1",
    "BIT",
    "BYTE",
    "EX",
    "PX",
    "EXAT",
    "PXAT",
    "PERSIST",
    "KEEPTTL",
    "LEFT",
    "RIGHT",
    "BEFORE",
    "AFTER",
    "BYSCORE",
    "BYLEX",
    "REV",
    "MATCH",
    "TYPE",
    "string",
    "hash",
    "NOVALUES",
    "FIELDS",
    "FNX",
    "FXX",
    "REPLACE",
    "DB",
    "COPY",
    "ABSTTL",
    "IDLETIME",
    "FREQ",
    "ID",
    "MAXLEN",
    "MINID",
    "NOMKSTREAM",
    "ENTRIESREAD",
    "MKSTREAM",
    "FROMMEMBER",
    "FROMLONLAT",
    "BYRADIUS",
    "BYBOX",
    "km",
    "ft",
    "mi",
    "13.361389",
    "38.115556",
    "ASC",
    "DESC",
    "ALPHA",
    "WITHCOORD",
    "WITHDIST",
    "WITHHASH",
    "ANY",
    "AND",
    "OR",
    "XOR",
    "NOT",
    "LEN",
    "IDX",
    "MINMATCHLEN",
    "WITHMATCHLEN",
    "RANK",
    "WITHVALUES",
    "NOACK",
    "FORCE",
    "JUSTID",
    "IDLE",
    "TIME",
    "RETRYCOUNT",
    "LASTID",
    "CREATE",
    "DESTROY",
    "CREATECONSUMER",
    "DELCONSUMER",
    "SETID",
    "STREAM",
    "GROUPS",
    "CONSUMERS",
    "FULL",
    "ENCODING",
    "REFCOUNT",
    "USAGE",
    "SAMPLES",
    "HELP",
    "ASYNC",
    "SYNC",
    "g",
    "alice",
    "\u{0}\u{1}",
];

/// Requests of a form that chance seldom finds.
const FORMS: &[&str] = &[
    "GEORADIUS geo1 15 37 200 km STORE none1",
    "GEORADIUS geo1 15 37 200 km WITHDIST COUNT 1 ASC",
    "GEORADIUSBYMEMBER geo1 m 500 km STOREDIST none2",
    "GEOSEARCHSTORE none3 geo1 FROMLONLAT 15 37 BYRADIUS 500 km STOREDIST",
    "GEOSEARCH geo1 FROMMEMBER m BYBOX 400 400 km ASC WITHCOORD",
    "SORT list1 BY str* GET hash*->f GET # STORE none1",
    "SORT set1 LIMIT 0 2 DESC ALPHA STORE none2",
    "SORT_RO list2 BY nosort GET str*",
    "ZRANGESTORE none1 zset1 0 -1 BYSCORE LIMIT 0 1",
    "ZUNIONSTORE none1 2 zset1 zset2 WEIGHTS 1 2 AGGREGATE MAX",
    "XREADGROUP GROUP g alice COUNT 2 NOACK STREAMS stream1 >",
    "XAUTOCLAIM stream1 g bob 0 0 COUNT 5 JUSTID",
    "XCLAIM stream1 g bob 0 1-1 2-1 FORCE",
    "BITFIELD str1 SET u8 #1 200 OVERFLOW FAIL INCRBY u8 0 100",
    "BITOP NOT none1 str1",
    "COPY str1 none1 DB 3 REPLACE",
    "LCS str1 str2 IDX MINMATCHLEN 1 WITHMATCHLEN",
    "LMPOP 2 list1 list2 LEFT COUNT 2",
    "BLMOVE list1 list2 LEFT RIGHT 0",
    "SMOVE set1 set2 1",
    "RENAMENX str1 none1",
];

fn word<'a>(rng: &mut Rng, from: &[&'a str]) -> &'a str {
    from[rng.below(from.len() as u64) as usize]
}

/// Arguments that often make sense and often do not.
fn arguments(spec: &Spec, rng: &mut Rng) -> Vec<String> {
    let forms: Vec<&str> = FORMS
        .iter()
        .copied()
        .filter(|form| form.split(' ').next() == Some(spec.name))
        .collect();
    if !forms.is_empty() && rng.below(2) == 0 {
        let form = word(rng, &forms);
        let mut args: Vec<String> = form.split(' ').map(String::from).collect();
        for arg in args.iter_mut().skip(1) {
            if KEYS.contains(&arg.as_str()) && rng.below(2) == 0 {
                *arg = word(rng, KEYS).into();
            } else if rng.below(20) == 0 {
                *arg = word(rng, WORDS).into();
            }
        }
        return args;
    }
    let least = spec.arity.unsigned_abs() as usize;
    let more = if spec.arity < 0 {
        rng.below(7) as usize
    } else {
        0
    };
    let mut args = vec![spec.name.to_string()];
    while args.len() < least + more {
        let from = if rng.below(3) == 0 { KEYS } else { WORDS };
        args.push(word(rng, from).to_string());
    }
    if rng.below(8) > 0 {
        match spec.keys {
            Keys::Counted { count, also } => {
                let count = count as usize;
                let room = args.len().saturating_sub(count + 1) as u64;
                if also > 0 && (also as usize) < args.len() {
                    args[also as usize] = word(rng, KEYS).into();
                }
                if room > 0 {
                    let number = 1 + rng.below(room) as usize;
                    args[count] = number.to_string();
                    args[count + 1..=count + number].fill_with(|| word(rng, KEYS).into());
                }
            }
            Keys::Streams => {
                if let Some(at) = args.iter().position(|arg| arg == "STREAMS") {
                    let half = (args.len() - at - 1) / 2;
                    args[at + 1..=at + half].fill_with(|| word(rng, KEYS).into());
                }
            }
            _ => {}
        }
        let owned = OwnedArgs::copy(args.iter().map(|arg| arg.as_bytes()));
        let mut places = Vec::new();
        spec.keys.for_each(owned.as_args(), |at| places.push(at));
        for at in places {
            if !WORDS.contains(&args[at].as_str()) || rng.below(4) > 0 {
                args[at] = word(rng, KEYS).into();
            }
        }
    }
    args
}

/// Shards with a key of every kind in them.
fn filled(table: &Table, rng: &mut Rng) -> Shards {
    let mut shards = Shards::none_of(SHARDS);
    for at in 0..SHARDS as usize {
        shards.put(at, Box::new(Shard::new(16, 3)));
    }
    for line in [
        "SET str1 hello",
        "SET str2 world",
        "SET str3 10:20",
        "SET num1 5",
        "SET num2 1.5",
        "RPUSH list1 3 1 2",
        "RPUSH list2 a b c d",
        "RPUSH list3 str1",
        "HSET hash1 f v g 2 h 1.5",
        "HSET hash2 f 1",
        "SADD set1 1 2 3",
        "SADD set2 a b c",
        "SADD set3 2 b",
        "ZADD zset1 1 a 2 b 3 c",
        "ZADD zset2 2 b 4 d",
        "ZADD zset3 0 x 0 y",
        "XADD stream1 1-1 f v",
        "XADD stream1 2-1 f v",
        "XADD stream2 5-5 f v",
        "XGROUP CREATE stream1 g 0",
        "XREADGROUP GROUP g alice STREAMS stream1 >",
        "GEOADD geo1 13.361389 38.115556 m 15.087269 37.502669 n",
        "GEOADD geo2 2.3 48.8 m",
    ] {
        let owned = OwnedArgs::copy(line.split(' ').map(str::as_bytes));
        if let Some(spec) = table.find(owned.as_args().at(0)) {
            go(&mut shards, rng, spec, &owned, 0);
        }
    }
    shards
}

fn go(shards: &mut Shards, rng: &mut Rng, spec: &Spec, args: &OwnedArgs, modes: u64) {
    let Run::Store(function) = spec.run else {
        return;
    };
    let mut out = Out::new(if modes & 1 == 0 {
        Proto::Two
    } else {
        Proto::Three
    });
    let mut ctx = Ctx {
        shards,
        db: 0,
        out: &mut out,
        now: 1_000_000_000_000,
        rng,
        dirty: 0,
        may_block: modes & 2 == 0,
        block: None,
        from_primary: modes & 4 != 0,
        arrived: None,
    };
    let _ = run(&mut ctx, spec, function, args.as_args());
    let block = ctx.block.take();
    let written = out.to_vec();
    assert_ne!(
        block.is_some(),
        !written.is_empty(),
        "a reply or a wait, one of both"
    );
}

/// Runs the command with the shards of its keys alone.
fn run_alone(shards: &mut Shards, rng: &mut Rng, spec: &Spec, args: &[String], modes: u64) {
    let owned = OwnedArgs::copy(args.iter().map(|arg| arg.as_bytes()));
    let mut needed = vec![spec.keys.needs_all(owned.as_args()); SHARDS as usize];
    spec.keys.for_each(owned.as_args(), |at| {
        needed[shards.shard_of(args[at].as_bytes())] = true;
    });
    let mut apart = Vec::new();
    for (at, _) in needed.iter().enumerate().filter(|(_, needed)| !**needed) {
        apart.extend(shards.take(at).map(|shard| (at, shard)));
    }
    go(shards, rng, spec, &owned, modes);
    for (at, shard) in apart {
        shards.put(at, shard);
    }
}

/// Runs a command in many forms; the first that panicked, with why.
fn first_failure(spec: &'static Spec, seed: u64) -> Option<String> {
    let table = Table::build();
    let mut rng = Rng::seeded(seed);
    let mut shards = filled(&table, &mut rng);
    for round in 0..ROUNDS {
        if round % 100 == 99 {
            shards = filled(&table, &mut rng);
        }
        let args = arguments(spec, &mut rng);
        let modes = rng.below(8);
        let done = catch_unwind(AssertUnwindSafe(|| {
            run_alone(&mut shards, &mut rng, spec, &args, modes);
        }));
        if let Err(why) = done {
            let why = why
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| why.downcast_ref::<&str>().map(|why| why.to_string()));
            return Some(format!("{args:?}: {}", why.unwrap_or_default()));
        }
    }
    None
}

#[test]
fn no_command_touches_a_shard_that_its_keys_do_not_name() {
    let failed: Vec<String> = all()
        .filter(|(_, spec)| matches!(spec.run, Run::Store(_)))
        .enumerate()
        .filter_map(|(number, (_, spec))| first_failure(spec, number as u64 + 1))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn a_row_that_names_too_few_keys_is_found() {
    for name in ["MGET", "SUNIONSTORE", "ZUNION", "XREAD", "GEORADIUS"] {
        let table = Table::build();
        let right = table
            .find(name.as_bytes())
            .expect("there is such a command");
        let wrong = Box::leak(Box::new(Spec {
            keys: Keys::one(1),
            ..*right
        }));
        assert!(first_failure(wrong, 1).is_some(), "{name}");
    }
}
