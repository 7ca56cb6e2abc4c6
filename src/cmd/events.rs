//! Keyspace events: what a command did, in the words of Redis.
//!
//! The commands themselves know nothing of this. While somebody has asked for events, a command is held
//! between two looks at its keys: which of them are there, and how long. What changed, the command's name
//! and its arguments say which events there are, in the order in which Redis tells them.

use super::{Ctx, Spec, flag};
use crate::{
    base::{Ms, parse_u64},
    resp::Args,
    store::{Set, Stream},
};

/// Classes of events, as bits.
pub mod class {
    /// Messages on `__keyspace@db__:key`.
    pub const KEYSPACE: u16 = 1;
    /// Messages on `__keyevent@db__:event`.
    pub const KEYEVENT: u16 = 1 << 1;
    /// Commands on any type.
    pub const GENERIC: u16 = 1 << 2;
    /// Strings.
    pub const STRING: u16 = 1 << 3;
    /// Lists.
    pub const LIST: u16 = 1 << 4;
    /// Sets.
    pub const SET: u16 = 1 << 5;
    /// Hashes.
    pub const HASH: u16 = 1 << 6;
    /// Sorted sets.
    pub const ZSET: u16 = 1 << 7;
    /// Keys whose time came.
    pub const EXPIRED: u16 = 1 << 8;
    /// Keys that had to make room.
    pub const EVICTED: u16 = 1 << 9;
    /// Streams.
    pub const STREAM: u16 = 1 << 10;
    /// Keys that were read and not there.
    pub const MISS: u16 = 1 << 11;
    /// Keys of modules, of which there are none.
    pub const MODULE: u16 = 1 << 12;
    /// New keys.
    pub const NEW: u16 = 1 << 13;
    /// What `A` stands for.
    pub const ALL: u16 =
        GENERIC | STRING | LIST | SET | HASH | ZSET | EXPIRED | EVICTED | STREAM | MODULE;
}

use class::{
    ALL, EVICTED, EXPIRED, GENERIC, HASH, KEYEVENT, KEYSPACE, LIST, MISS, MODULE, NEW, SET, STREAM,
    STRING, ZSET,
};

/// The letters of `notify-keyspace-events`, in the order in which they are shown.
const LETTERS: [(u8, u16); 14] = [
    (b'g', GENERIC),
    (b'$', STRING),
    (b'l', LIST),
    (b's', SET),
    (b'h', HASH),
    (b'z', ZSET),
    (b'x', EXPIRED),
    (b'e', EVICTED),
    (b't', STREAM),
    (b'd', MODULE),
    (b'K', KEYSPACE),
    (b'E', KEYEVENT),
    (b'm', MISS),
    (b'n', NEW),
];

/// Reads the letters of `notify-keyspace-events`; `None` if there is another one among them.
pub fn parse_classes(text: &[u8]) -> Option<u16> {
    text.iter().try_fold(0, |all, letter| {
        let known = LETTERS.iter().find(|(known, _)| known == letter);
        match letter {
            b'A' => Some(all | ALL),
            _ => known.map(|(_, class)| all | class),
        }
    })
}

/// The letters for some classes.
pub fn show_classes(classes: u16) -> String {
    let mut text = String::new();
    let has_all = classes & ALL == ALL;
    if has_all {
        text.push('A');
    }
    for (letter, class) in LETTERS {
        if classes & class != 0 && !(has_all && ALL & class != 0) {
            text.push(char::from(letter));
        }
    }
    text
}

/// Something that happened to a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its class.
    pub class: u16,
    /// Its name.
    pub name: &'static str,
    /// The database.
    pub db: usize,
    /// The key.
    pub key: Vec<u8>,
}

/// What a look at a key found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Look {
    /// Elements of a set or stream; 0 for other types.
    len: u64,
    /// Consumers of all groups of a stream.
    consumers: usize,
}

/// The keys of a command before it ran.
pub struct Before {
    /// Place among the arguments, database, and what was there.
    keys: Vec<(usize, usize, Option<Look>)>,
}

impl Before {
    /// Looks at the keys of a command that is about to run.
    pub fn look(ctx: &mut Ctx<'_>, spec: &Spec, args: Args<'_>) -> Before {
        let mut keys = Vec::new();
        spec.keys.for_each(args, |at| keys.push((at, ctx.db, None)));
        // Where these two write is not where the connection is.
        match spec.name {
            "MOVE" => keys.extend(parse_db(args.get(2)).map(|db| (1, db, None))),
            "COPY" => {
                let mut words = args.iter();
                let at = words.position(|word| word.eq_ignore_ascii_case(b"db"));
                if let Some(db) = at.and_then(|at| parse_db(args.get(at + 1))) {
                    keys.retain(|(at, ..)| *at != 2);
                    keys.push((2, db, None));
                }
            }
            _ => {}
        }
        let databases = ctx.shards.databases();
        keys.retain(|(_, db, _)| *db < databases);
        for (at, db, look) in &mut keys {
            *look = look_at(ctx, *db, args.at(*at));
        }
        Before { keys }
    }

    /// The events of the command, which has run and changed something or not.
    pub fn events(
        self,
        ctx: &mut Ctx<'_>,
        spec: &Spec,
        args: Args<'_>,
        changed: bool,
    ) -> Vec<Event> {
        let mut story = Story {
            keys: Vec::with_capacity(self.keys.len()),
            args,
            told: Vec::new(),
        };
        for (at, db, before) in self.keys {
            let after = look_at(ctx, db, args.at(at));
            story.keys.push(Key {
                at,
                db,
                before,
                after,
            });
        }
        story.misses(spec);
        if changed && spec.is_write() {
            story.changes(spec);
        }
        story.told
    }
}

fn parse_db(text: Option<&[u8]>) -> Option<usize> {
    text.and_then(parse_u64)
        .and_then(|db| usize::try_from(db).ok())
}

fn look_at(ctx: &mut Ctx<'_>, db: usize, key: &[u8]) -> Option<Look> {
    let now: Ms = ctx.now;
    let keys = ctx.shards.of(db, key);
    keys.meta(key, now)?;
    let mut look = Look {
        len: 0,
        consumers: 0,
    };
    if let Ok(Some(set)) = keys.get::<Set>(key, now) {
        look.len = set.len() as u64;
    } else if let Ok(Some(stream)) = keys.get::<Stream>(key, now) {
        look.len = stream.log().len();
        look.consumers = stream
            .groups()
            .map(|(_, group)| group.consumer_count())
            .sum();
    }
    Some(look)
}

#[derive(Clone, Copy)]
struct Key {
    at: usize,
    db: usize,
    before: Option<Look>,
    after: Option<Look>,
}

impl Key {
    fn is_new(self) -> bool {
        self.before.is_none() && self.after.is_some()
    }

    fn is_gone(self) -> bool {
        self.before.is_some() && self.after.is_none()
    }
}

/// The events of one command as they are told.
struct Story<'a> {
    keys: Vec<Key>,
    args: Args<'a>,
    told: Vec<Event>,
}

impl Story<'_> {
    fn tell(&mut self, class: u16, name: &'static str, key: Key) {
        self.told.push(Event {
            class,
            name,
            db: key.db,
            key: self.args.at(key.at).to_vec(),
        });
    }

    /// The key was made, if it is new; then this happened to it; then it went, if it did.
    fn happened(&mut self, class: u16, name: &'static str, key: Key) {
        self.made(key);
        self.tell(class, name, key);
        self.went(key);
    }

    fn made(&mut self, key: Key) {
        if key.is_new() {
            self.tell(NEW, "new", key);
        }
    }

    fn went(&mut self, key: Key) {
        if key.is_gone() {
            self.tell(GENERIC, "del", key);
        }
    }

    fn has_word(&self, words: &[&str]) -> bool {
        let mut args = self.args.iter();
        args.any(|arg| {
            words
                .iter()
                .any(|word| arg.eq_ignore_ascii_case(word.as_bytes()))
        })
    }

    fn key_at(&self, at: usize) -> Option<Key> {
        self.keys.iter().copied().find(|key| key.at == at)
    }

    /// Keys that were to be read and were not there.
    fn misses(&mut self, spec: &Spec) {
        let reads = match spec.name {
            "OBJECT" | "MEMORY" | "PFCOUNT" => false,
            "GETDEL" | "GETEX" => true,
            "SET" => self.has_word(&["get"]),
            _ => spec.flags & flag::READ != 0,
        };
        let read = match spec.name {
            "BITOP" => 3..usize::MAX,
            "PFMERGE" => 1..usize::MAX,
            "SDIFFSTORE" | "SINTERSTORE" | "SUNIONSTORE" => 2..usize::MAX,
            "SORT" => 1..2,
            _ if reads => 0..usize::MAX,
            _ => return,
        };
        for key in self.keys.clone() {
            if read.contains(&key.at) && key.before.is_none() {
                self.tell(MISS, "keymiss", key);
            }
        }
    }

    /// What a command that changed something did to its keys.
    fn changes(&mut self, spec: &Spec) {
        let Some(first) = self.keys.first().copied() else {
            return;
        };
        match spec.name {
            "SETEX" | "PSETEX" => self.set_with_deadline(first, true),
            "SET" => {
                let has = self.has_word(&["ex", "px", "exat", "pxat"]);
                self.set_with_deadline(first, has);
            }
            "MSET" | "MSETNX" => {
                for mut key in self.keys.clone() {
                    // The same key again is no longer new.
                    let seen = self
                        .told
                        .iter()
                        .any(|event| event.key == self.args.at(key.at));
                    key.before = if seen { key.after } else { key.before };
                    self.happened(STRING, "set", key);
                }
            }
            "GETEX" if first.after.is_some() => {
                let persists = self.has_word(&["persist"]);
                self.tell(GENERIC, if persists { "persist" } else { "expire" }, first);
            }
            "EXPIRE" | "EXPIREAT" | "PEXPIRE" | "PEXPIREAT" if first.after.is_some() => {
                self.tell(GENERIC, "expire", first);
            }
            "DEL" | "UNLINK" | "GETDEL" | "GETEX" | "EXPIRE" | "EXPIREAT" | "PEXPIRE"
            | "PEXPIREAT" => {
                let mut seen: Vec<&[u8]> = Vec::new();
                for key in self.keys.clone() {
                    if !seen.contains(&self.args.at(key.at)) {
                        seen.push(self.args.at(key.at));
                        self.went(key);
                    }
                }
            }
            "RENAME" | "RENAMENX" => {
                if let Some(to) = self.key_at(2)
                    && self.args.at(1) != self.args.at(2)
                {
                    // What the new name held is not told: the key is made anew.
                    self.tell(NEW, "new", to);
                    self.tell(GENERIC, "rename_from", first);
                    self.tell(GENERIC, "rename_to", to);
                }
            }
            "MOVE" => {
                if let Some(to) = self.keys.get(1).copied() {
                    self.made(to);
                    self.tell(GENERIC, "move_from", first);
                    self.tell(GENERIC, "move_to", to);
                }
            }
            "COPY" => {
                if let Some(to) = self.key_at(2) {
                    self.tell(NEW, "new", to);
                    self.tell(GENERIC, "copy_to", to);
                }
            }
            "LMOVE" | "BLMOVE" => {
                let is_left = |at| {
                    self.args
                        .get(at)
                        .is_some_and(|side| side.eq_ignore_ascii_case(b"left"))
                };
                self.list_move(is_left(3), is_left(4));
            }
            "RPOPLPUSH" | "BRPOPLPUSH" => self.list_move(false, true),
            "SMOVE" => self.set_move(),
            "SORT" | "GEORADIUS" | "GEORADIUSBYMEMBER" => {
                let (class, name) = if spec.name == "SORT" {
                    (LIST, "sortstore")
                } else {
                    (ZSET, "georadiusstore")
                };
                if let Some(to) = self.keys.iter().copied().rfind(|key| key.at > 1) {
                    self.stored(class, name, to);
                }
            }
            "XADD" => {
                self.happened(STREAM, "xadd", first);
                let len = |look: Option<Look>| look.map_or(0, |look| look.len);
                if len(first.after) != len(first.before) + 1 {
                    self.tell(STREAM, "xtrim", first);
                }
            }
            "XREADGROUP" | "XCLAIM" | "XAUTOCLAIM" => {
                let consumers = |look: Option<Look>| look.map_or(0, |look| look.consumers);
                for key in self.keys.clone() {
                    if consumers(key.after) > consumers(key.before) {
                        self.tell(STREAM, "xgroup-createconsumer", key);
                    }
                }
            }
            "LMPOP" | "BLMPOP" | "ZMPOP" | "BZMPOP" | "BLPOP" | "BRPOP" | "BZPOPMIN"
            | "BZPOPMAX" => {
                // The first key that is there is the one that they take from.
                let taken = self.keys.iter().copied().find(|key| key.before.is_some());
                let (class, name) = match spec.name {
                    "LMPOP" | "BLMPOP" if self.has_side("left") => (LIST, "lpop"),
                    "LMPOP" | "BLMPOP" | "BRPOP" => (LIST, "rpop"),
                    "BLPOP" => (LIST, "lpop"),
                    "ZMPOP" | "BZMPOP" if self.has_side("min") => (ZSET, "zpopmin"),
                    "BZPOPMIN" => (ZSET, "zpopmin"),
                    _ => (ZSET, "zpopmax"),
                };
                if let Some(key) = taken {
                    self.happened(class, name, key);
                }
            }
            _ => {
                if let Some((class, name)) = self.stores(spec) {
                    let at = if spec.name == "BITOP" { 2 } else { 1 };
                    if let Some(to) = self.key_at(at) {
                        self.stored(class, name, to);
                    }
                } else if let Some((class, name)) = self.named(spec) {
                    self.happened(class, name, first);
                }
            }
        }
    }

    /// The word behind the keys of a command that says how many they are.
    fn has_side(&self, side: &str) -> bool {
        let last = self.keys.last().map_or(0, |key| key.at);
        let word = self.args.get(last + 1);
        word.is_some_and(|word| word.eq_ignore_ascii_case(side.as_bytes()))
    }

    fn set_with_deadline(&mut self, key: Key, has_deadline: bool) {
        self.made(key);
        self.tell(STRING, "set", key);
        if has_deadline {
            self.tell(GENERIC, "expire", key);
        }
    }

    /// A result was put into a key; an empty one removes the key.
    fn stored(&mut self, class: u16, name: &'static str, to: Key) {
        if to.after.is_some() {
            self.happened(class, name, to);
        } else {
            self.went(to);
        }
    }

    fn list_move(&mut self, from_left: bool, to_left: bool) {
        if let (Some(from), Some(to)) = (self.key_at(1), self.key_at(2)) {
            self.made(to);
            self.tell(LIST, if to_left { "lpush" } else { "rpush" }, to);
            self.tell(LIST, if from_left { "lpop" } else { "rpop" }, from);
            self.went(from);
        }
    }

    fn set_move(&mut self) {
        if let (Some(from), Some(to)) = (self.key_at(1), self.key_at(2)) {
            self.happened(SET, "srem", from);
            let len = |look: Option<Look>| look.map_or(0, |look| look.len);
            if len(to.after) > len(to.before) {
                self.happened(SET, "sadd", to);
            }
        }
    }

    /// The event of a command that puts its result into a key.
    fn stores(&self, spec: &Spec) -> Option<(u16, &'static str)> {
        Some(match spec.name {
            "BITOP" => (STRING, "set"),
            "SDIFFSTORE" => (SET, "sdiffstore"),
            "SINTERSTORE" => (SET, "sinterstore"),
            "SUNIONSTORE" => (SET, "sunionstore"),
            "ZDIFFSTORE" => (ZSET, "zdiffstore"),
            "ZINTERSTORE" => (ZSET, "zinterstore"),
            "ZUNIONSTORE" => (ZSET, "zunionstore"),
            "ZRANGESTORE" => (ZSET, "zrangestore"),
            "GEOSEARCHSTORE" => (ZSET, "geosearchstore"),
            _ => return None,
        })
    }

    /// The event of a command that changes its first key; `None` for commands that tell nothing.
    fn named(&self, spec: &Spec) -> Option<(u16, &'static str)> {
        Some(match spec.name {
            "GETSET" | "SETNX" => (STRING, "set"),
            "INCR" | "DECR" | "INCRBY" | "DECRBY" => (STRING, "incrby"),
            "INCRBYFLOAT" => (STRING, "incrbyfloat"),
            "APPEND" => (STRING, "append"),
            "SETRANGE" => (STRING, "setrange"),
            "SETBIT" | "BITFIELD" => (STRING, "setbit"),
            "PFADD" | "PFMERGE" => (STRING, "pfadd"),
            "PERSIST" => (GENERIC, "persist"),
            "RESTORE" => (GENERIC, "restore"),
            "LPUSH" | "LPUSHX" => (LIST, "lpush"),
            "RPUSH" | "RPUSHX" => (LIST, "rpush"),
            "LPOP" => (LIST, "lpop"),
            "RPOP" => (LIST, "rpop"),
            "LINSERT" => (LIST, "linsert"),
            "LSET" => (LIST, "lset"),
            "LREM" => (LIST, "lrem"),
            "LTRIM" => (LIST, "ltrim"),
            "SADD" => (SET, "sadd"),
            "SREM" => (SET, "srem"),
            "SPOP" => (SET, "spop"),
            "HSET" | "HMSET" | "HSETNX" => (HASH, "hset"),
            "HDEL" => (HASH, "hdel"),
            "HINCRBY" => (HASH, "hincrby"),
            "HINCRBYFLOAT" => (HASH, "hincrbyfloat"),
            "HEXPIRE" | "HEXPIREAT" | "HPEXPIRE" | "HPEXPIREAT" => (HASH, "hexpire"),
            "HPERSIST" => (HASH, "hpersist"),
            "ZADD" if self.has_option(2, b"incr") => (ZSET, "zincr"),
            "ZADD" | "GEOADD" => (ZSET, "zadd"),
            "ZINCRBY" => (ZSET, "zincr"),
            "ZREM" => (ZSET, "zrem"),
            "ZREMRANGEBYSCORE" => (ZSET, "zremrangebyscore"),
            "ZREMRANGEBYRANK" => (ZSET, "zremrangebyrank"),
            "ZREMRANGEBYLEX" => (ZSET, "zremrangebylex"),
            "ZPOPMIN" => (ZSET, "zpopmin"),
            "ZPOPMAX" => (ZSET, "zpopmax"),
            "XDEL" => (STREAM, "xdel"),
            "XTRIM" => (STREAM, "xtrim"),
            "XSETID" => (STREAM, "xsetid"),
            "XGROUP" => match &self.args.get(1)?.to_ascii_lowercase()[..] {
                b"create" => (STREAM, "xgroup-create"),
                b"setid" => (STREAM, "xgroup-setid"),
                b"destroy" => (STREAM, "xgroup-destroy"),
                b"createconsumer" => (STREAM, "xgroup-createconsumer"),
                b"delconsumer" => (STREAM, "xgroup-delconsumer"),
                _ => return None,
            },
            _ => return None,
        })
    }

    /// Is the word among the options that stand from `from` on, before the first number?
    fn has_option(&self, from: usize, word: &[u8]) -> bool {
        let options = self.args.rest(from);
        let mut options = options
            .iter()
            .take_while(|arg| arg.first().is_some_and(u8::is_ascii_alphabetic));
        options.any(|option| option.eq_ignore_ascii_case(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_read_and_shown() {
        let shown = |text: &str| parse_classes(text.as_bytes()).map(show_classes);
        for (text, want) in [
            ("", ""),
            ("KEA", "AKE"),
            ("g$lshzxetd", "A"),
            ("g$lshzxet", "g$lshzxet"),
            ("nmKx", "xKmn"),
            ("AAn", "An"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(want), "{text}");
        }
        assert_eq!(parse_classes(b"KEq"), None);
    }
}
