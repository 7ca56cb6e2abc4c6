//! Checking what comes back. Every key is written by one connection only, so its versions arrive in
//! order: a reader may see any version from the last one acknowledged before it asked up to the last one
//! sent before the answer came, and no other. Lists, counters and streams are checked by their exact
//! growth, sets by their members.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::keys::KeySpace;
use crate::request::{Kind, Part, Source, Stamp, field_of, member_of};
use crate::resp::{Errors, Malformed, Reader, Value};
use crate::spec::{LoadSpec, Verb};

/// What was written, for all threads.
pub struct Ledger {
    strings: Vec<Entry>,
    counters: Vec<Entry>,
    lists: Vec<Entry>,
    /// One per field.
    fields: Vec<Entry>,
}

/// One thing with versions. Only its own connection writes `sent` and `ends`.
#[derive(Default)]
struct Entry {
    sent: AtomicU32,
    acked: AtomicU32,
    /// The last version that leaves nothing, at once or in time: a DEL, or a SET with a time to live.
    ends: AtomicU32,
}

impl Entry {
    fn next(&self) -> u32 {
        let version = self.sent.load(Ordering::Relaxed) + 1;
        self.sent.store(version, Ordering::Release);
        version
    }

    fn acked(&self) -> u32 {
        self.acked.load(Ordering::Acquire)
    }

    fn sent(&self) -> u32 {
        self.sent.load(Ordering::Acquire)
    }
}

impl Ledger {
    /// Of a load whose keys have all been filled.
    pub fn new(spec: &LoadSpec) -> Ledger {
        let used = |kind: Kind| {
            spec.mix
                .parts()
                .iter()
                .any(|(verb, _)| Kind::of(*verb) == Some(kind))
        };
        let entries = |kind: Kind, count: u64, version: u64| -> Vec<Entry> {
            let count = if used(kind) { count } else { 0 };
            let entry = |_| Entry {
                sent: AtomicU32::new(version as u32),
                acked: AtomicU32::new(version as u32),
                ends: AtomicU32::new(0),
            };
            (0..count).map(entry).collect()
        };
        Ledger {
            strings: entries(Kind::String, spec.keys, 1),
            counters: entries(Kind::Counter, spec.keys, 0),
            lists: entries(Kind::List, spec.keys, spec.elements),
            fields: entries(Kind::Hash, spec.keys * spec.elements, 1),
        }
    }

    /// Keys whose last state [`Verifier::ask_last`] asks for.
    pub fn is_kept(&self, kind: Kind) -> bool {
        match kind {
            Kind::String => !self.strings.is_empty(),
            Kind::Counter => !self.counters.is_empty(),
            _ => false,
        }
    }
}

/// What a request's reply has to be.
#[derive(Clone, Copy)]
pub enum Expect {
    /// The string, or nil where that is allowed.
    Get { key: u64, acked: u32 },
    /// OK for this version.
    Set { key: u64, version: u32 },
    /// 0 or 1.
    Del { key: u64, version: u32 },
    /// The counter's next value.
    Incr { key: u64, version: u32 },
    /// The counter's value, as text.
    Count { key: u64, acked: u32 },
    /// The list's next length.
    Lpush { key: u64, version: u32 },
    /// The newest elements.
    Lrange { key: u64, acked: u32 },
    /// 0, as the field exists.
    Hset { entry: u64, version: u32 },
    /// The field.
    Hget { entry: u64, acked: u32 },
    /// All fields.
    Hgetall { key: u64 },
    /// 0, as the member exists.
    Zadd { key: u64 },
    /// Members of this key.
    Zrange { key: u64 },
    /// 0 or 1.
    Sadd { key: u64 },
    /// Members of this key.
    Smembers { key: u64 },
    /// An id above the last one.
    Xadd { key: u64 },
    /// OK; as many [`Expect::Set`] follow.
    Mset { count: u32 },
    /// An array; as many [`Expect::Get`] follow.
    Mget { count: u32 },
    /// A number of receivers.
    Publish,
}

/// Asks and checks on one thread.
pub struct Verifier {
    ledger: Arc<Ledger>,
    space: KeySpace,
    conns: u64,
    elements: u64,
    range: u64,
    width: u32,
    last_ids: HashMap<u64, (u64, u64)>,
    /// Of the request being asked; kept for their memory.
    keys: VecDeque<u64>,
    stamps: VecDeque<Stamp>,
    /// Replies that are not what they have to be.
    pub mismatches: u64,
    /// The first few of them.
    pub shown: Vec<String>,
}

impl Verifier {
    /// A thread's own; the ledger is that of the load.
    pub fn new(spec: &LoadSpec, space: KeySpace, ledger: Arc<Ledger>) -> Verifier {
        Verifier {
            ledger,
            space,
            conns: spec.conns as u64,
            elements: spec.elements,
            range: spec.range,
            width: spec.width,
            last_ids: HashMap::new(),
            keys: VecDeque::new(),
            stamps: VecDeque::new(),
            mismatches: 0,
            shown: Vec::new(),
        }
    }

    /// Appends the next request of connection `conn` and what it has to answer.
    pub fn ask(
        &mut self,
        source: &mut Source,
        conn: u64,
        now: u64,
        out: &mut Vec<u8>,
        expects: &mut VecDeque<Expect>,
    ) {
        let (mut keys, mut stamps) = (mem::take(&mut self.keys), mem::take(&mut self.stamps));
        let ledger = &self.ledger;
        let verb = source.draw_verb();
        let mut key = source.draw_key();
        let is_write = !matches!(
            verb,
            Verb::Get
                | Verb::Mget
                | Verb::Lrange
                | Verb::Hget
                | Verb::Hgetall
                | Verb::Zrange
                | Verb::Smembers
        );
        if is_write {
            key = self.own(key, conn);
        }
        let mut element = source.random.below(self.elements);
        let (score, mut ttl) = (source.random.below(1_000_000), None);
        keys.push_back(key);
        match verb {
            Verb::Get => {
                let acked = ledger.strings[key as usize].acked();
                expects.push_back(Expect::Get { key, acked });
            }
            Verb::Set => {
                ttl = source.draw_ttl();
                let entry = &ledger.strings[key as usize];
                let version = entry.next();
                if ttl.is_some() {
                    entry.ends.store(version, Ordering::Release);
                }
                stamps.push_back(Stamp {
                    entry: key,
                    version,
                });
                expects.push_back(Expect::Set { key, version });
            }
            Verb::Del => {
                let entry = &ledger.strings[key as usize];
                let version = entry.next();
                entry.ends.store(version, Ordering::Release);
                expects.push_back(Expect::Del { key, version });
            }
            Verb::Mset => {
                expects.push_back(Expect::Mset { count: self.width });
                keys.clear();
                for _ in 0..self.width {
                    let key = self.own(source.draw_key(), conn);
                    let version = ledger.strings[key as usize].next();
                    keys.push_back(key);
                    stamps.push_back(Stamp {
                        entry: key,
                        version,
                    });
                    expects.push_back(Expect::Set { key, version });
                }
            }
            Verb::Mget => {
                expects.push_back(Expect::Mget { count: self.width });
                keys.clear();
                for _ in 0..self.width {
                    let key = source.draw_key();
                    let acked = ledger.strings[key as usize].acked();
                    keys.push_back(key);
                    expects.push_back(Expect::Get { key, acked });
                }
            }
            Verb::Incr => {
                let version = ledger.counters[key as usize].next();
                expects.push_back(Expect::Incr { key, version });
            }
            Verb::Lpush => {
                let version = ledger.lists[key as usize].next();
                stamps.push_back(Stamp {
                    entry: key,
                    version,
                });
                expects.push_back(Expect::Lpush { key, version });
            }
            Verb::Lrange => {
                let acked = ledger.lists[key as usize].acked();
                expects.push_back(Expect::Lrange { key, acked });
            }
            Verb::Hset => {
                let entry = key * self.elements + element;
                let version = ledger.fields[entry as usize].next();
                stamps.push_back(Stamp { entry, version });
                expects.push_back(Expect::Hset { entry, version });
            }
            Verb::Hget => {
                let entry = key * self.elements + element;
                let acked = ledger.fields[entry as usize].acked();
                expects.push_back(Expect::Hget { entry, acked });
            }
            Verb::Hgetall => expects.push_back(Expect::Hgetall { key }),
            Verb::Zadd => expects.push_back(Expect::Zadd { key }),
            Verb::Zrange => expects.push_back(Expect::Zrange { key }),
            Verb::Sadd => {
                element = source.random.below(self.elements * 2);
                expects.push_back(Expect::Sadd { key });
            }
            Verb::Smembers => expects.push_back(Expect::Smembers { key }),
            Verb::Xadd => {
                stamps.push_back(Stamp {
                    entry: key,
                    version: 1,
                });
                expects.push_back(Expect::Xadd { key });
            }
            Verb::Publish => expects.push_back(Expect::Publish),
        }
        let channel = if verb == Verb::Publish {
            source.draw_channel()
        } else {
            0
        };
        let number = |part| match part {
            Part::Key | Part::SameKey => keys.pop_front().unwrap_or(key),
            Part::Element | Part::Member => element,
            Part::Score => score,
            Part::Channel => channel,
            Part::Time => now,
        };
        let stamp = || {
            stamps.pop_front().unwrap_or(Stamp {
                entry: key,
                version: 0,
            })
        };
        source.append_chosen(out, verb, ttl, number, stamp);
        keys.clear();
        stamps.clear();
        (self.keys, self.stamps) = (keys, stamps);
    }

    /// Appends the question for the last state of a kept key, once nothing writes any more.
    pub fn ask_last(
        &self,
        kind: Kind,
        key: u64,
        out: &mut Vec<u8>,
        expects: &mut VecDeque<Expect>,
    ) {
        let text = self.key_text(kind, key);
        out.extend_from_slice(
            format!("*2\r\n$3\r\nGET\r\n${}\r\n{text}\r\n", text.len()).as_bytes(),
        );
        expects.push_back(match kind {
            Kind::Counter => {
                let acked = self.ledger.counters[key as usize].acked();
                Expect::Count { key, acked }
            }
            _ => Expect::Get {
                key,
                acked: self.ledger.strings[key as usize].acked(),
            },
        });
    }

    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Checks one reply against the oldest expectation; false when there was none.
    ///
    /// # Errors
    /// [`Malformed`] when the reply is no reply.
    pub fn check(
        &mut self,
        frame: &[u8],
        expects: &mut VecDeque<Expect>,
        errors: &mut Errors,
    ) -> Result<bool, Malformed> {
        let Some(expect) = expects.pop_front() else {
            return Ok(false);
        };
        let mut reader = Reader::new(frame);
        let Some(first) = reader.next()? else {
            return Ok(true);
        };
        if let Value::Error(text) = first {
            let text = &text[..text.len().min(200)];
            errors.add(&String::from_utf8_lossy(text), 1);
            if let Expect::Mset { count } | Expect::Mget { count } = expect {
                expects.drain(..count as usize);
            }
            return Ok(true);
        }
        let ledger = Arc::clone(&self.ledger);
        match expect {
            Expect::Get { key, acked } => self.check_get(key, acked, first),
            Expect::Set { key, version } => {
                self.check_ok(key, first);
                ledger.strings[key as usize]
                    .acked
                    .store(version, Ordering::Release);
            }
            Expect::Mset { count } => {
                for set in expects.drain(..count as usize) {
                    if let Expect::Set { key, version } = set {
                        self.check_ok(key, first);
                        ledger.strings[key as usize]
                            .acked
                            .store(version, Ordering::Release);
                    }
                }
            }
            Expect::Mget { count } => {
                let is_whole = first
                    == Value::Many {
                        count: count.into(),
                        is_push: false,
                    };
                let gets: Vec<Expect> = expects.drain(..count as usize).collect();
                for get in gets {
                    let Expect::Get { key, acked } = get else {
                        continue;
                    };
                    match reader.next()? {
                        Some(value) if is_whole => self.check_get(key, acked, value),
                        _ => self.mismatch(Kind::String, key, "MGET", &show(first)),
                    }
                }
            }
            Expect::Del { key, version } => {
                if !matches!(first, Value::Integer(0 | 1)) {
                    self.mismatch(Kind::String, key, "DEL", &show(first));
                }
                ledger.strings[key as usize]
                    .acked
                    .store(version, Ordering::Release);
            }
            Expect::Incr { key, version } => {
                if first != Value::Integer(version.into()) {
                    let want = format!("{} where {version} is next", show(first));
                    self.mismatch(Kind::Counter, key, "INCR", &want);
                }
                ledger.counters[key as usize]
                    .acked
                    .store(version, Ordering::Release);
            }
            Expect::Count { key, acked } => {
                let is_it =
                    matches!(first, Value::Bulk(text) if text == acked.to_string().as_bytes());
                if !is_it {
                    let want = format!("{} where {acked} was acknowledged", show(first));
                    self.mismatch(Kind::Counter, key, "GET", &want);
                }
            }
            Expect::Lpush { key, version } => {
                if first != Value::Integer(version.into()) {
                    let want = format!("{} where {version} is the length", show(first));
                    self.mismatch(Kind::List, key, "LPUSH", &want);
                }
                ledger.lists[key as usize]
                    .acked
                    .store(version, Ordering::Release);
            }
            Expect::Lrange { key, acked } => self.check_list(key, acked, first, &mut reader)?,
            Expect::Hset { entry, version } => {
                if first != Value::Integer(0) {
                    self.mismatch(Kind::Hash, entry / self.elements, "HSET", &show(first));
                }
                ledger.fields[entry as usize]
                    .acked
                    .store(version, Ordering::Release);
            }
            Expect::Hget { entry, acked } => self.check_field(entry, acked, first),
            Expect::Hgetall { key } => {
                let count = self.elements * 2;
                if first
                    != (Value::Many {
                        count,
                        is_push: false,
                    })
                {
                    self.mismatch(Kind::Hash, key, "HGETALL", &show(first));
                    return Ok(true);
                }
                while let Some(field) = reader.next()? {
                    let Some(value) = reader.next()? else { break };
                    let number = match field {
                        Value::Bulk(field) => {
                            field_of(field).filter(|field| *field < self.elements)
                        }
                        _ => None,
                    };
                    match number {
                        Some(field) => self.check_field(key * self.elements + field, 1, value),
                        None => self.mismatch(Kind::Hash, key, "HGETALL", &show(field)),
                    }
                }
            }
            Expect::Zadd { key } => {
                if first != Value::Integer(0) {
                    self.mismatch(Kind::SortedSet, key, "ZADD", &show(first));
                }
            }
            Expect::Sadd { key } => {
                if !matches!(first, Value::Integer(0 | 1)) {
                    self.mismatch(Kind::Set, key, "SADD", &show(first));
                }
            }
            Expect::Zrange { key } => {
                let (held, asked) = (self.elements, self.elements.min(self.range));
                self.check_members(
                    Kind::SortedSet,
                    key,
                    asked..=asked,
                    held,
                    first,
                    &mut reader,
                )?;
            }
            Expect::Smembers { key } => {
                let (least, most) = (self.elements, self.elements * 2);
                self.check_members(Kind::Set, key, least..=most, most, first, &mut reader)?;
            }
            Expect::Xadd { key } => self.check_id(key, first),
            Expect::Publish => {}
        }
        Ok(true)
    }

    fn check_ok(&mut self, key: u64, reply: Value<'_>) {
        if reply != Value::Status(b"OK") {
            self.mismatch(Kind::String, key, "SET", &show(reply));
        }
    }

    fn check_get(&mut self, key: u64, acked: u32, reply: Value<'_>) {
        let ledger = Arc::clone(&self.ledger);
        let entry = &ledger.strings[key as usize];
        if reply == Value::Nil && entry.ends.load(Ordering::Acquire) >= acked {
            return;
        }
        self.check_stamp(Kind::String, key, key, acked, entry.sent(), "GET", reply);
    }

    fn check_field(&mut self, entry: u64, acked: u32, reply: Value<'_>) {
        let sent = self.ledger.fields[entry as usize].sent();
        let key = entry / self.elements;
        self.check_stamp(Kind::Hash, key, entry, acked, sent, "HGET", reply);
    }

    #[allow(clippy::too_many_arguments)] // one reply and the whole of what it may be
    fn check_stamp(
        &mut self,
        kind: Kind,
        key: u64,
        entry: u64,
        acked: u32,
        sent: u32,
        asked: &str,
        reply: Value<'_>,
    ) {
        let stamp = match reply {
            Value::Bulk(value) => Stamp::read(value),
            _ => None,
        };
        match stamp {
            Some(stamp) if stamp.entry == entry && (acked..=sent).contains(&stamp.version) => {}
            Some(stamp) => {
                let (of, version) = (stamp.entry, stamp.version);
                let want = format!(
                    "version {version} of {of}, not of {entry} between {acked} (acknowledged) and {sent}"
                );
                self.mismatch(kind, key, asked, &want);
            }
            None => {
                let want = format!("{} where version {acked} was acknowledged", show(reply));
                self.mismatch(kind, key, asked, &want);
            }
        }
    }

    /// The newest elements, each the one before the last.
    fn check_list(
        &mut self,
        key: u64,
        acked: u32,
        first: Value<'_>,
        reader: &mut Reader<'_>,
    ) -> Result<(), Malformed> {
        let sent = self.ledger.lists[key as usize].sent();
        let Value::Many { count, .. } = first else {
            self.mismatch(Kind::List, key, "LRANGE", &show(first));
            return Ok(());
        };
        let counts = self.range.min(acked.into())..=self.range.min(sent.into());
        if !counts.contains(&count) {
            self.mismatch(Kind::List, key, "LRANGE", &show(first));
            return Ok(());
        }
        let mut newest = None;
        for place in 0..count {
            let Some(value) = reader.next()? else { break };
            let (low, high) = match newest {
                None => (acked, sent),
                Some(newest) => {
                    let version = u64::from(newest).saturating_sub(place) as u32;
                    (version, version)
                }
            };
            if let (None, Value::Bulk(bytes)) = (newest, value) {
                newest = Stamp::read(bytes).map(|stamp| stamp.version);
            }
            self.check_stamp(Kind::List, key, key, low, high, "LRANGE", value);
        }
        Ok(())
    }

    /// Different members of this key, as many as there may be.
    fn check_members(
        &mut self,
        kind: Kind,
        key: u64,
        counts: std::ops::RangeInclusive<u64>,
        below: u64,
        first: Value<'_>,
        reader: &mut Reader<'_>,
    ) -> Result<(), Malformed> {
        let asked = if kind == Kind::Set {
            "SMEMBERS"
        } else {
            "ZRANGE"
        };
        match first {
            Value::Many { count, .. } if counts.contains(&count) => {}
            _ => {
                self.mismatch(kind, key, asked, &show(first));
                return Ok(());
            }
        }
        let mut seen = Vec::new();
        while let Some(value) = reader.next()? {
            let member = match value {
                Value::Bulk(bytes) => member_of(bytes),
                _ => None,
            };
            match member {
                Some((of, element)) if of == key && element < below => seen.push(element),
                _ => self.mismatch(kind, key, asked, &show(value)),
            }
        }
        seen.sort_unstable();
        if let Some(twice) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
            let text = format!("member {} twice", twice[0]);
            self.mismatch(kind, key, asked, &text);
        }
        Ok(())
    }

    fn check_id(&mut self, key: u64, reply: Value<'_>) {
        let id = match reply {
            Value::Bulk(text) => std::str::from_utf8(text).ok().and_then(|text| {
                let (ms, sequence) = text.split_once('-')?;
                Some((ms.parse().ok()?, sequence.parse().ok()?))
            }),
            _ => None,
        };
        let last = self.last_ids.get(&key).copied();
        match id {
            Some(id) if last.is_none_or(|last| id > last) => {
                self.last_ids.insert(key, id);
            }
            _ => {
                let text = format!("{} after {last:?}", show(reply));
                self.mismatch(Kind::Stream, key, "XADD", &text);
            }
        }
    }

    /// The key nearest to `key` that connection `conn` may write.
    fn own(&self, key: u64, conn: u64) -> u64 {
        let own = key - key % self.conns + conn;
        if own < self.space.keys {
            own
        } else {
            own - self.conns
        }
    }

    fn key_text(&self, kind: Kind, key: u64) -> String {
        let zero = self.space.zero_key(kind.prefix());
        let digits = self.space.digits();
        let prefix = String::from_utf8_lossy(&zero[..zero.len() - digits]);
        format!("{prefix}{key:0digits$}")
    }

    fn mismatch(&mut self, kind: Kind, key: u64, asked: &str, text: &str) {
        self.mismatches += 1;
        if self.shown.len() < SHOWN {
            let key = self.key_text(kind, key);
            self.shown.push(format!("{asked} {key}: {text}"));
        }
    }
}

fn show(value: Value<'_>) -> String {
    let text = |bytes: &[u8]| bytes[..bytes.len().min(40)].escape_ascii().to_string();
    match value {
        Value::Status(line) => format!("+{}", text(line)),
        Value::Error(line) => format!("-{}", text(line)),
        Value::Integer(number) => number.to_string(),
        Value::Nil => "nothing".into(),
        Value::Bulk(bytes) => format!("{} bytes \"{}\"", bytes.len(), text(bytes)),
        Value::Many { count, .. } => format!("{count} values"),
    }
}

/// Mismatches told in words.
const SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        source: Source,
        verifier: Verifier,
        expects: VecDeque<Expect>,
        errors: Errors,
    }

    impl World {
        fn new(options: &[(&str, &str)]) -> World {
            let mut spec = LoadSpec {
                verify: true,
                conns: 2,
                keys: 2,
                elements: 3,
                ..LoadSpec::default()
            };
            for (option, text) in options {
                assert!(spec.set(option, text).expect("a value"), "{option}");
            }
            spec.check().expect("can be checked");
            let space = KeySpace::new(spec.keys, spec.key_size).expect("fits");
            World {
                source: Source::new(&spec, 0).expect("fits"),
                verifier: Verifier::new(&spec, space, Arc::new(Ledger::new(&spec))),
                expects: VecDeque::new(),
                errors: Errors::default(),
            }
        }

        /// Asks on connection `conn`; the request and its key.
        fn ask(&mut self, conn: u64) -> (String, u64) {
            let mut out = Vec::new();
            self.verifier
                .ask(&mut self.source, conn, 7, &mut out, &mut self.expects);
            let text = String::from_utf8_lossy(&out).into_owned();
            let key = text
                .split("\r\n")
                .find_map(|word| word.split_once(":0")?.1.parse().ok());
            (text, key.unwrap_or(0))
        }

        /// Whether this is a right reply to the oldest request.
        fn is_right(&mut self, reply: &[u8]) -> bool {
            let before = self.verifier.mismatches;
            let checked = self
                .verifier
                .check(reply, &mut self.expects, &mut self.errors);
            assert_eq!(checked, Ok(true));
            self.verifier.mismatches == before
        }
    }

    fn value(entry: u64, version: u32) -> Vec<u8> {
        let mut bytes = b"$20\r\n".to_vec();
        Stamp { entry, version }.write(&mut bytes, 20);
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    #[test]
    fn a_reader_sees_no_version_older_than_the_last_acknowledged_and_none_not_yet_sent() {
        let mut world = World::new(&[("mix", "get:set")]);
        let entry = |world: &World, key: u64| {
            let entry = &world.verifier.ledger.strings[key as usize];
            (entry.acked(), entry.sent())
        };
        let mut sets = VecDeque::new();
        for turn in 0..400u64 {
            let (text, key) = world.ask(turn % 2);
            let is_set = text.contains("SET");
            assert!(
                !is_set || key == turn % 2,
                "each connection writes its own keys"
            );
            if is_set {
                sets.push_back(key);
                if turn % 3 > 0 {
                    assert!(world.is_right(b"+OK\r\n"));
                } else {
                    // Sent, never acknowledged: both what was there before and this may be seen.
                    world.expects.clear();
                }
                continue;
            }
            let (acked, sent) = entry(&world, key);
            let expect = world.expects[0];
            for version in [acked.saturating_sub(1), acked, sent, sent + 1] {
                world.expects = VecDeque::from([expect]);
                let is_right = world.is_right(&value(key, version));
                assert_eq!(
                    is_right,
                    (acked..=sent).contains(&version),
                    "{version} {acked} {sent}"
                );
            }
            for wrong in [
                &value(1 - key, acked)[..],
                b"$-1\r\n",
                b"+OK\r\n",
                b"$3\r\nabc\r\n",
            ] {
                world.expects = VecDeque::from([expect]);
                assert!(!world.is_right(wrong));
            }
        }
        assert!(sets.len() > 100 && world.verifier.shown.len() == SHOWN);
    }

    #[test]
    fn nothing_may_be_read_only_after_a_del_or_a_time_to_live() {
        for options in [
            &[("mix", "del:get")][..],
            &[("mix", "set:get"), ("ttl-share", "1"), ("ttl", "1s")],
        ] {
            let mut world = World::new(options);
            let mut has_ended = [false; 2];
            for turn in 0..100u64 {
                let (text, key) = world.ask(turn % 2);
                if !text.contains("GET") {
                    has_ended[key as usize] = true;
                    let reply: &[u8] = if text.contains("DEL") {
                        b":1\r\n"
                    } else {
                        b"+OK\r\n"
                    };
                    assert!(world.is_right(reply));
                } else {
                    assert_eq!(world.is_right(b"_\r\n"), has_ended[key as usize]);
                }
            }
            assert_eq!(has_ended, [true; 2]);
        }
    }

    #[test]
    fn counters_and_lists_grow_by_their_steps_and_ids_only_grow() {
        let mut world = World::new(&[("mix", "incr"), ("sequential", "")]);
        for (reply, is_right) in [(":1", true), (":2", true), (":2", false), (":4", true)] {
            world.ask(0);
            assert_eq!(
                world.is_right(format!("{reply}\r\n").as_bytes()),
                is_right,
                "{reply}"
            );
        }
        let mut world = World::new(&[("mix", "lpush")]);
        for (reply, is_right) in [(":4", true), (":5", true), (":5", false)] {
            world.ask(0);
            assert_eq!(
                world.is_right(format!("{reply}\r\n").as_bytes()),
                is_right,
                "{reply}"
            );
        }
        let mut world = World::new(&[("mix", "xadd")]);
        for (id, is_right) in [
            ("5-1", true),
            ("5-2", true),
            ("6-0", true),
            ("5-9", false),
            ("x", false),
        ] {
            world.ask(0);
            let reply = format!("${}\r\n{id}\r\n", id.len());
            assert_eq!(world.is_right(reply.as_bytes()), is_right, "{id}");
        }
    }

    #[test]
    fn arrays_hold_what_they_must_in_the_order_they_must() {
        let many = |values: &[Vec<u8>]| {
            [
                format!("*{}\r\n", values.len()).into_bytes(),
                values.concat(),
            ]
            .concat()
        };
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len()).into_bytes();
        let mut world = World::new(&[("mix", "lrange"), ("range", "2")]);
        for (versions, is_right) in [
            (&[3, 2][..], true),
            (&[2, 1], false),
            (&[3, 1], false),
            (&[3], false),
        ] {
            let (_, key) = world.ask(0);
            let values: Vec<Vec<u8>> = versions
                .iter()
                .map(|version| value(key, *version))
                .collect();
            assert_eq!(world.is_right(&many(&values)), is_right, "{versions:?}");
        }
        let mut world = World::new(&[("mix", "smembers")]);
        for (members, is_right) in [
            ("00 01 02", true),
            ("00 01 02 05", true),
            ("00 01", false),
            ("00 01 01", false),
            ("00 01 06", false),
        ] {
            let (_, key) = world.ask(0);
            let member = |member: &str| bulk(&format!("{key:02}:{member}"));
            let values: Vec<Vec<u8>> = members.split(' ').map(member).collect();
            assert_eq!(world.is_right(&many(&values)), is_right, "{members}");
            let other = |member: &str| bulk(&format!("{:02}:{member}", 1 - key));
            let values: Vec<Vec<u8>> = members.split(' ').map(other).collect();
            world.expects.push_back(Expect::Smembers { key });
            assert!(!world.is_right(&many(&values)));
        }
        let mut world = World::new(&[("mix", "hgetall")]);
        for (fields, is_right) in [
            (&[0, 1, 2][..], true),
            (&[0, 1], false),
            (&[0, 1, 3], false),
        ] {
            let (_, key) = world.ask(0);
            let pairs: Vec<Vec<u8>> = fields
                .iter()
                .flat_map(|field| [bulk(&format!("f{field:02}")), value(key * 3 + field, 1)])
                .collect();
            assert_eq!(world.is_right(&many(&pairs)), is_right, "{fields:?}");
        }
        let mut world = World::new(&[("mix", "mget"), ("width", "2")]);
        world.ask(0);
        let Expect::Get { key: first, .. } = world.expects[1] else {
            panic!("a key")
        };
        let Expect::Get { key: second, .. } = world.expects[2] else {
            panic!("a key")
        };
        assert!(world.is_right(&many(&[value(first, 1), value(second, 1)])));
        world.ask(0);
        assert!(!world.is_right(&many(&[value(first, 1)])) && world.expects.is_empty());
    }

    #[test]
    fn an_error_reply_answers_its_request_with_all_that_belongs_to_it() {
        let mut world = World::new(&[("mix", "mset"), ("width", "3")]);
        world.ask(0);
        assert!(world.is_right(b"-OOM no memory\r\n") && world.expects.is_empty());
        assert_eq!(world.errors.list(), [("OOM no memory".to_owned(), 1)]);
        let surplus = world
            .verifier
            .check(b"+OK\r\n", &mut world.expects, &mut world.errors);
        assert_eq!(surplus, Ok(false));
    }
}
