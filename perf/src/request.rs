//! The requests of a load: drawn by its shares, written from templates whose numbers are filled in.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::error::Error;
use crate::keys::{KeySpace, Random, Shuffle, Spread, Weighted, Zipf, mix};
use crate::spec::{LoadSpec, Verb};

/// What lives under a key; each kind has keys of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs)] // the types of the protocol
pub enum Kind {
    String,
    Counter,
    List,
    Hash,
    SortedSet,
    Set,
    Stream,
}

impl Kind {
    /// What a verb works on; none for PUBLISH.
    pub fn of(verb: Verb) -> Option<Kind> {
        Some(match verb {
            Verb::Get | Verb::Set | Verb::Mset | Verb::Mget | Verb::Del => Kind::String,
            Verb::Incr => Kind::Counter,
            Verb::Lpush | Verb::Lrange => Kind::List,
            Verb::Hset | Verb::Hget | Verb::Hgetall => Kind::Hash,
            Verb::Zadd | Verb::Zrange => Kind::SortedSet,
            Verb::Sadd | Verb::Smembers => Kind::Set,
            Verb::Xadd => Kind::Stream,
            Verb::Publish => return None,
        })
    }

    /// How its keys begin.
    pub fn prefix(self) -> &'static [u8; 4] {
        match self {
            Kind::String => b"key:",
            Kind::Counter => b"ctr:",
            Kind::List => b"lst:",
            Kind::Hash => b"hsh:",
            Kind::SortedSet => b"zst:",
            Kind::Set => b"set:",
            Kind::Stream => b"stm:",
        }
    }
}

/// What a number in a request stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// A key, drawn anew.
    Key,
    /// The last key once more.
    SameKey,
    /// A field of a hash or a member of a sorted set.
    Element,
    /// A member of a set: twice as many as it is filled with, so that there are new ones.
    Member,
    /// The score of a sorted set's member.
    Score,
    /// A channel.
    Channel,
    /// Nanoseconds of the generator's clock.
    Time,
}

/// A request, or a piece of one, with decimal numbers of fixed width in it that are written over.
#[derive(Clone, Default)]
struct Template {
    bytes: Vec<u8>,
    numbers: Vec<Number>,
}

#[derive(Clone, Copy)]
struct Number {
    part: Part,
    at: usize,
    /// Even.
    digits: usize,
}

impl Template {
    /// A request of `count` arguments, the first of them its name.
    fn new(count: usize, name: &str) -> Template {
        let bytes = format!("*{count}\r\n").into_bytes();
        let template = Template {
            bytes,
            numbers: Vec::new(),
        };
        template.arg(name.as_bytes())
    }

    fn arg(mut self, bytes: &[u8]) -> Template {
        self.bytes
            .extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
        self
    }

    /// An argument with numbers of these widths before the given distances from its end.
    fn numbered(self, bytes: &[u8], numbers: &[(Part, usize, usize)]) -> Template {
        let mut template = self.arg(bytes);
        let end = template.bytes.len() - 2;
        for &(part, digits, from_end) in numbers {
            template.numbers.push(Number {
                part,
                at: end - from_end - digits,
                digits,
            });
        }
        template
    }

    fn key(self, space: KeySpace, kind: Kind) -> Template {
        self.numbered(
            &space.zero_key(kind.prefix()),
            &[(Part::Key, space.digits(), 0)],
        )
    }

    fn append(&self, out: &mut Vec<u8>, number: impl FnMut(Part) -> u64) {
        let at = out.len();
        out.extend_from_slice(&self.bytes);
        self.rewrite(&mut out[at..], number);
    }

    /// Changes the numbers of what was appended before; `request` starts at its first byte.
    #[inline]
    fn rewrite(&self, request: &mut [u8], mut number: impl FnMut(Part) -> u64) {
        let mut key = 0;
        for Number { part, at, digits } in self.numbers.iter().copied() {
            let value = match part {
                Part::SameKey => key,
                _ => number(part),
            };
            if part == Part::Key {
                key = value;
            }
            write_digits(&mut request[at..at + digits], value);
        }
    }
}

#[inline]
fn write_digits(field: &mut [u8], mut value: u64) {
    for pair in field.chunks_exact_mut(2).rev() {
        pair.copy_from_slice(&PAIRS[(value % 100) as usize]);
        value /= 100;
    }
}

/// How a verb's requests are put together.
enum Shape {
    /// All of one length: only numbers differ.
    Fixed(Template),
    /// A head, then `values` values, each after a piece of its own.
    Open {
        head: Template,
        /// The head of a SET with a time to live.
        head_with_ttl: Template,
        each: Template,
        values: u32,
    },
}

/// What a value is to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The entry it was written for.
    pub entry: u64,
    /// How many times that was written before, and this one.
    pub version: u32,
}

impl Stamp {
    /// Bytes a stamp needs.
    pub const LEN: usize = 12;

    /// Appends `len` bytes, at least [`Stamp::LEN`], that no other stamp has.
    pub fn write(self, out: &mut Vec<u8>, len: usize) {
        let end = out.len() + len;
        out.extend_from_slice(&self.entry.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        let mut word = self.seed();
        while out.len() < end {
            let left = (end - out.len()).min(8);
            out.extend_from_slice(&word.to_le_bytes()[..left]);
            word = next_word(word);
        }
    }

    /// Reads one back; None when the bytes are not exactly what [`Stamp::write`] makes of it.
    pub fn read(value: &[u8]) -> Option<Stamp> {
        let (entry, rest) = value.split_first_chunk()?;
        let (version, filling) = rest.split_first_chunk()?;
        let (entry, version) = (u64::from_le_bytes(*entry), u32::from_le_bytes(*version));
        let stamp = Stamp { entry, version };
        let mut word = stamp.seed();
        for piece in filling.chunks(8) {
            if *piece != word.to_le_bytes()[..piece.len()] {
                return None;
            }
            word = next_word(word);
        }
        Some(stamp)
    }

    fn seed(self) -> u64 {
        mix(self.entry ^ u64::from(self.version).rotate_left(32))
    }
}

fn next_word(word: u64) -> u64 {
    word.rotate_left(7).wrapping_add(0x9e37_79b9_7f4a_7c15)
}

/// Draws requests by chance and writes them.
pub struct Source {
    /// The chance behind everything drawn.
    pub random: Random,
    shapes: Vec<Option<Shape>>,
    verbs: Weighted<Verb>,
    pure: Option<Verb>,
    spread: Spread,
    sizes: Weighted<RangeInclusive<u64>>,
    elements: u64,
    /// SETs get a time to live when a draw of 32 bits is below.
    ttl_below: u64,
    ttl_ms: RangeInclusive<u64>,
    channels: u64,
    next_channel: u64,
}

impl Source {
    /// For generator thread `thread`.
    ///
    /// # Errors
    /// [`Error::Value`] when keys do not fit their length.
    pub fn new(spec: &LoadSpec, thread: usize) -> Result<Source, Error> {
        let space = KeySpace::new(spec.keys, spec.key_size)?;
        let mut shapes: Vec<Option<Shape>> = Verb::ALL.iter().map(|_| None).collect();
        for (verb, _) in spec.mix.parts() {
            shapes[*verb as usize] = Some(shape(*verb, spec, space)?);
        }
        let thread = thread as u64;
        Ok(Source {
            random: Random::new(1 + (thread << 32)),
            shapes,
            verbs: Weighted::new(spec.mix.parts().iter().copied()),
            pure: spec.mix.pure(),
            spread: match spec.zipf {
                Some(exponent) => Spread::Zipf(Zipf::new(spec.keys, exponent)),
                None if spec.sequential => {
                    let next = spec.keys / spec.threads as u64 * thread;
                    Spread::Sequential {
                        next,
                        keys: spec.keys,
                    }
                }
                None => Spread::Uniform(spec.keys),
            },
            sizes: Weighted::new(spec.size.parts().iter().cloned()),
            elements: spec.elements,
            ttl_below: (spec.ttl_share.0 * (1u64 << 32) as f64) as u64,
            ttl_ms: spec.ttl.millis(),
            channels: spec.channels,
            next_channel: thread % spec.channels,
        })
    }

    /// Makes `buffer` the next batch of `count` requests. `last_len` is how many requests of the only
    /// verb the buffer held when it was last made here, 0 when it holds anything else; a batch of one
    /// kind and length is the last one with other numbers.
    pub fn batch(&mut self, buffer: &mut Vec<u8>, last_len: &mut u32, count: u32, now: u64) {
        if let Some(verb) = self.pure
            && let Some(Shape::Fixed(template)) = &self.shapes[verb as usize]
        {
            let mut numbers = Numbers {
                random: &mut self.random,
                spread: &mut self.spread,
                elements: self.elements,
                channels: self.channels,
                next_channel: &mut self.next_channel,
                now,
            };
            if let (
                [
                    Number {
                        at,
                        digits,
                        part: Part::Key,
                    },
                ],
                Spread::Uniform(keys),
            ) = (&template.numbers[..], &*numbers.spread)
                && *last_len == count
            {
                // The commonest loads of all, with nothing to decide per request.
                for request in buffer.chunks_exact_mut(template.bytes.len()) {
                    write_digits(&mut request[*at..at + digits], numbers.random.below(*keys));
                }
            } else if *last_len == count {
                for request in buffer.chunks_exact_mut(template.bytes.len()) {
                    template.rewrite(request, |part| numbers.draw(part));
                }
            } else {
                buffer.clear();
                for _ in 0..count {
                    template.append(buffer, |part| numbers.draw(part));
                }
                *last_len = count;
            }
            return;
        }
        buffer.clear();
        *last_len = 0;
        for _ in 0..count {
            self.append(buffer, now);
        }
    }

    /// Appends the next request. Messages are published as of `now`.
    pub fn append(&mut self, out: &mut Vec<u8>, now: u64) {
        let verb = self.draw_verb();
        let ttl = if verb == Verb::Set {
            self.draw_ttl()
        } else {
            None
        };
        let Source {
            shapes,
            random,
            spread,
            sizes,
            next_channel,
            ..
        } = self;
        let (elements, channels) = (self.elements, self.channels);
        let mut numbers = Numbers {
            random,
            spread,
            elements,
            channels,
            next_channel,
            now,
        };
        match &shapes[verb as usize] {
            Some(Shape::Fixed(template)) => template.append(out, |part| numbers.draw(part)),
            Some(Shape::Open {
                head,
                head_with_ttl,
                each,
                values,
            }) => {
                let head = if ttl.is_some() { head_with_ttl } else { head };
                head.append(out, |part| numbers.draw(part));
                for _ in 0..*values {
                    each.append(out, |part| numbers.draw(part));
                    let len = draw_size(sizes, numbers.random);
                    match verb {
                        Verb::Publish => append_message(out, len, now),
                        _ => append_value(out, len, None),
                    }
                }
                append_ttl(out, ttl);
            }
            None => unreachable!("a shape for every verb of the mix"),
        }
    }

    /// Appends a request with numbers and stamps chosen by the caller, one stamp per value.
    pub fn append_chosen(
        &mut self,
        out: &mut Vec<u8>,
        verb: Verb,
        ttl: Option<u64>,
        mut number: impl FnMut(Part) -> u64,
        mut stamp: impl FnMut() -> Stamp,
    ) {
        match &self.shapes[verb as usize] {
            Some(Shape::Fixed(template)) => template.append(out, number),
            Some(Shape::Open {
                head,
                head_with_ttl,
                each,
                values,
            }) => {
                let head = if ttl.is_some() { head_with_ttl } else { head };
                head.append(out, &mut number);
                for _ in 0..*values {
                    each.append(out, &mut number);
                    let len = draw_size(&self.sizes, &mut self.random);
                    match verb {
                        Verb::Publish => append_message(out, len, number(Part::Time)),
                        _ => append_value(out, len, Some(stamp())),
                    }
                }
                append_ttl(out, ttl);
            }
            None => unreachable!("a shape for every verb of the mix"),
        }
    }

    /// The next verb by the shares of the mix.
    #[inline]
    pub fn draw_verb(&mut self) -> Verb {
        match self.pure {
            Some(verb) => verb,
            None => *self.verbs.pick(&mut self.random),
        }
    }

    /// Milliseconds, if the next SET is to have a time to live.
    #[inline]
    pub fn draw_ttl(&mut self) -> Option<u64> {
        if self.ttl_below == 0 || self.random.below(1 << 32) >= self.ttl_below {
            return None;
        }
        let (low, high) = (*self.ttl_ms.start(), *self.ttl_ms.end());
        Some(low + self.random.below(high - low + 1))
    }

    /// The next key by the spread.
    pub fn draw_key(&mut self) -> u64 {
        self.spread.pick(&mut self.random)
    }

    /// The next channel, in turn.
    pub fn draw_channel(&mut self) -> u64 {
        next_channel(&mut self.next_channel, self.channels)
    }
}

/// Draws what a template asks for.
struct Numbers<'a> {
    random: &'a mut Random,
    spread: &'a mut Spread,
    elements: u64,
    channels: u64,
    next_channel: &'a mut u64,
    now: u64,
}

impl Numbers<'_> {
    #[inline]
    fn draw(&mut self, part: Part) -> u64 {
        match part {
            Part::Key | Part::SameKey => self.spread.pick(self.random),
            Part::Element => self.random.below(self.elements),
            Part::Member => self.random.below(self.elements * 2),
            Part::Score => self.random.below(SCORES),
            Part::Channel => next_channel(self.next_channel, self.channels),
            Part::Time => self.now,
        }
    }
}

fn next_channel(next: &mut u64, channels: u64) -> u64 {
    let channel = *next;
    *next = if channel + 1 >= channels {
        0
    } else {
        channel + 1
    };
    channel
}

fn shape(verb: Verb, spec: &LoadSpec, space: KeySpace) -> Result<Shape, Error> {
    let kind = Kind::of(verb).unwrap_or(Kind::String);
    let name = verb.name().to_ascii_uppercase();
    let new = |count| Template::new(count, &name);
    let keyed = |count| new(count).key(space, kind);
    let width = spec.width as usize;
    let last = (spec.range - 1).to_string();
    // Values that differ in more than numbers leave their place open.
    let has_ttl = verb == Verb::Set && spec.ttl_share.0 > 0.0;
    let fixed = spec.size.only().filter(|_| !spec.verify && !has_ttl);
    let open = |head: Template, each: Template, values| match fixed {
        Some(len) => {
            let mut whole = head;
            for _ in 0..values {
                let from = whole.bytes.len();
                whole.bytes.extend_from_slice(&each.bytes);
                let moved = each.numbers.iter().map(|n| Number {
                    at: n.at + from,
                    ..*n
                });
                whole.numbers.extend(moved);
                append_value(&mut whole.bytes, len, None);
            }
            Shape::Fixed(whole)
        }
        None => Shape::Open {
            head_with_ttl: head.clone(),
            head,
            each,
            values,
        },
    };
    Ok(match verb {
        Verb::Get | Verb::Incr | Verb::Hgetall | Verb::Smembers | Verb::Del => {
            Shape::Fixed(keyed(2))
        }
        Verb::Lrange | Verb::Zrange => Shape::Fixed(keyed(4).arg(b"0").arg(last.as_bytes())),
        Verb::Hget => Shape::Fixed(keyed(3).field(spec.elements)),
        Verb::Zadd => {
            let score = (Part::Score, SCORE_DIGITS, 0);
            let score = keyed(4).numbered(SCORES.to_string().as_bytes(), &[score]);
            Shape::Fixed(score.member(space, spec.elements, Part::Element))
        }
        Verb::Sadd => Shape::Fixed(keyed(3).member(space, spec.elements * 2, Part::Member)),
        Verb::Mget => {
            let keys = (0..width).fold(new(width + 1), |all, _| all.key(space, kind));
            Shape::Fixed(keys)
        }
        Verb::Mset => open(
            new(2 * width + 1),
            Template::default().key(space, kind),
            spec.width,
        ),
        Verb::Lpush => open(keyed(3), Template::default(), 1),
        Verb::Hset => open(keyed(4).field(spec.elements), Template::default(), 1),
        Verb::Xadd => open(keyed(5).arg(b"*").arg(b"v"), Template::default(), 1),
        Verb::Set => match open(keyed(3), Template::default(), 1) {
            Shape::Open {
                head, each, values, ..
            } => Shape::Open {
                head,
                head_with_ttl: keyed(5),
                each,
                values,
            },
            fixed => fixed,
        },
        Verb::Publish => {
            let channels = KeySpace::new(spec.channels, CHANNEL_LEN)?;
            let channel = (Part::Channel, channels.digits(), 0);
            let head = new(3).numbered(&channels.zero_key(CHANNEL), &[channel]);
            match fixed {
                Some(len) => {
                    let mut message = vec![b'x'; message_len(len)];
                    message[..TIME_DIGITS].fill(b'0');
                    let time = (Part::Time, TIME_DIGITS, message.len() - TIME_DIGITS);
                    Shape::Fixed(head.numbered(&message, &[time]))
                }
                None => open(head, Template::default(), 1),
            }
        }
    })
}

impl Template {
    fn field(self, elements: u64) -> Template {
        let digits = pair_digits(elements);
        self.numbered(
            &[b"f".as_slice(), &vec![b'0'; digits]].concat(),
            &[(Part::Element, digits, 0)],
        )
    }

    /// Members tell their key, so that one of another key is noticed.
    fn member(self, space: KeySpace, elements: u64, part: Part) -> Template {
        let (key_digits, digits) = (space.digits(), pair_digits(elements));
        let mut bytes = vec![b'0'; key_digits + 1 + digits];
        bytes[key_digits] = b':';
        let numbers = [(Part::SameKey, key_digits, digits + 1), (part, digits, 0)];
        self.numbered(&bytes, &numbers)
    }
}

/// Digits of the numbers below `bound`, rounded up to a whole pair.
fn pair_digits(bound: u64) -> usize {
    ((bound - 1).max(1).ilog10() as usize + 2) & !1
}

fn draw_size(sizes: &Weighted<RangeInclusive<u64>>, random: &mut Random) -> u64 {
    let range = sizes.pick(random);
    let (low, high) = (*range.start(), *range.end());
    if low == high {
        low
    } else {
        low + random.below(high - low + 1)
    }
}

fn append_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

fn append_header(out: &mut Vec<u8>, mark: u8, number: u64) {
    out.push(mark);
    append_decimal(out, number);
}

fn append_value(out: &mut Vec<u8>, len: u64, stamp: Option<Stamp>) {
    append_header(out, b'$', len);
    match stamp {
        Some(stamp) => stamp.write(out, len as usize),
        None => out.resize(out.len() + len as usize, b'x'),
    }
    out.extend_from_slice(b"\r\n");
}

fn append_message(out: &mut Vec<u8>, len: u64, now: u64) {
    append_header(out, b'$', message_len(len) as u64);
    let at = out.len();
    out.resize(at + message_len(len), b'x');
    write_digits(&mut out[at..at + TIME_DIGITS], now);
    out.extend_from_slice(b"\r\n");
}

/// A message has room for its time at least.
fn message_len(len: u64) -> usize {
    (len as usize).max(TIME_DIGITS)
}

/// When a message was published; None when it is none of ours.
pub fn time_of_message(message: &[u8]) -> Option<u64> {
    let (digits, filling) = message.split_at_checked(TIME_DIGITS)?;
    let is_whole = filling.iter().all(|byte| *byte == b'x');
    std::str::from_utf8(digits)
        .ok()?
        .parse()
        .ok()
        .filter(|_| is_whole)
}

/// The request that subscribes to a channel.
pub fn subscribe(channels: u64, channel: u64) -> Result<Vec<u8>, Error> {
    let space = KeySpace::new(channels, CHANNEL_LEN)?;
    let number = (Part::Channel, space.digits(), 0);
    let template = Template::new(2, "SUBSCRIBE").numbered(&space.zero_key(CHANNEL), &[number]);
    let mut request = Vec::new();
    template.append(&mut request, |_| channel % channels);
    Ok(request)
}

/// The end of a SET: its time to live.
fn append_ttl(out: &mut Vec<u8>, ttl_ms: Option<u64>) {
    let Some(ms) = ttl_ms else { return };
    out.extend_from_slice(b"$2\r\nPX\r\n");
    append_header(out, b'$', u64::from(ms.max(1).ilog10()) + 1);
    append_decimal(out, ms);
}

/// Writes every key of some kinds once, as a load needs them.
pub struct Filling {
    kinds: Vec<Kind>,
    space: KeySpace,
    keys: RangeInclusive<u64>,
    next: (usize, u64),
    shuffle: Option<Shuffle>,
    sizes: Weighted<RangeInclusive<u64>>,
    elements: u64,
    is_stamped: bool,
    random: Random,
}

impl Filling {
    /// The share of thread `thread` in the keys of all kinds the mix works on.
    ///
    /// # Errors
    /// [`Error::Value`] when keys do not fit their length.
    pub fn new(spec: &LoadSpec, thread: usize) -> Result<Filling, Error> {
        let kinds: BTreeSet<Kind> = spec
            .mix
            .parts()
            .iter()
            .filter_map(|(verb, _)| Kind::of(*verb))
            .collect();
        let (threads, thread) = (spec.threads as u128, thread as u128);
        let edge = |part: u128| (u128::from(spec.keys) * part / threads) as u64;
        let (first, end) = (edge(thread), edge(thread + 1));
        Ok(Filling {
            // Fewer keys than threads leave some without a share.
            kinds: if first < end {
                kinds.into_iter().collect()
            } else {
                Vec::new()
            },
            space: KeySpace::new(spec.keys, spec.key_size)?,
            keys: first..=end.saturating_sub(1),
            next: (0, first),
            shuffle: None,
            sizes: Weighted::new(spec.size.parts().iter().cloned()),
            elements: spec.elements,
            is_stamped: spec.verify,
            random: Random::new(2 + ((thread as u64) << 32)),
        })
    }

    /// Goes through the keys without a pattern. For a filling by one thread.
    pub fn shuffled(mut self) -> Filling {
        self.shuffle = Some(Shuffle::new(self.space.keys));
        self
    }

    /// Appends whole keys until there are `count` requests or more; returns how many, 0 at the end.
    /// What belongs to a key stays together, so that it arrives in order.
    pub fn append(&mut self, out: &mut Vec<u8>, count: u32) -> u32 {
        let mut appended = 0;
        while appended < count
            && let Some(kind) = self.kinds.get(self.next.0).copied()
        {
            let key = self
                .shuffle
                .as_ref()
                .map_or(self.next.1, |shuffle| shuffle.at(self.next.1));
            appended += self.append_key(out, kind, key);
            self.next.1 += 1;
            if self.next.1 > *self.keys.end() {
                self.next = (self.next.0 + 1, *self.keys.start());
            }
        }
        appended
    }

    fn append_key(&mut self, out: &mut Vec<u8>, kind: Kind, key: u64) -> u32 {
        let space = self.space;
        let new = |count, name| Template::new(count, name).key(space, kind);
        let number = |_| key;
        match kind {
            Kind::String => {
                // The whole of a large filling is this case.
                out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n");
                append_header(out, b'$', self.space.len as u64);
                let at = out.len();
                let (prefix, digits) = (kind.prefix(), self.space.digits());
                out.resize(at + self.space.len, b'0');
                let room = prefix.len().min(self.space.len - digits);
                out[at..at + room].copy_from_slice(&prefix[..room]);
                let end = out.len();
                write_digits(&mut out[end - digits..], key);
                out.extend_from_slice(b"\r\n");
                let len = draw_size(&self.sizes, &mut self.random);
                append_value(out, len, self.stamp(key, 1));
                return 1;
            }
            Kind::Counter => {
                new(3, "SET").arg(b"0").append(out, number);
                return 1;
            }
            _ => new(2, "DEL").append(out, number),
        }
        let (name, per_element) = match kind {
            Kind::List => ("LPUSH", 1),
            Kind::Hash => ("HSET", 2),
            Kind::SortedSet => ("ZADD", 2),
            Kind::Set => ("SADD", 1),
            _ => return 1,
        };
        let mut requests = 1;
        let mut first = 0;
        while first < self.elements {
            let chunk = (self.elements - first).min(CHUNK);
            new(2 + (chunk * per_element) as usize, name).append(out, number);
            for element in first..first + chunk {
                self.append_element(out, kind, key, element);
            }
            first += chunk;
            requests += 1;
        }
        requests
    }

    fn append_element(&mut self, out: &mut Vec<u8>, kind: Kind, key: u64, element: u64) {
        let number = |part| if part == Part::SameKey { key } else { element };
        let none = Template::default;
        let elements = self.elements;
        match kind {
            Kind::List => {
                let len = draw_size(&self.sizes, &mut self.random);
                append_value(out, len, self.stamp(key, element as u32 + 1));
            }
            Kind::Hash => {
                none().field(elements).append(out, number);
                let len = draw_size(&self.sizes, &mut self.random);
                append_value(out, len, self.stamp(key * elements + element, 1));
            }
            Kind::SortedSet => {
                let score = format!("1{:0SCORE_DIGITS$}", self.random.below(SCORES));
                let member = none().arg(score.as_bytes());
                append_member(member, self.space, elements, out, key, element);
            }
            _ => append_member(none(), self.space, elements * 2, out, key, element),
        }
    }

    fn stamp(&self, entry: u64, version: u32) -> Option<Stamp> {
        self.is_stamped.then_some(Stamp { entry, version })
    }
}

fn append_member(
    before: Template,
    space: KeySpace,
    elements: u64,
    out: &mut Vec<u8>,
    key: u64,
    element: u64,
) {
    let mut template = before.member(space, elements, Part::Element);
    // No key stands before the member here, so its number is given like any other.
    template.numbers[0].part = Part::Key;
    template.append(out, |part| if part == Part::Key { key } else { element });
}

/// Key and element of a set's member; None when it is none of ours.
pub fn member_of(member: &[u8]) -> Option<(u64, u64)> {
    let (key, element) = std::str::from_utf8(member).ok()?.split_once(':')?;
    Some((key.parse().ok()?, element.parse().ok()?))
}

/// The field's number; None when it is none of ours.
pub fn field_of(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field)
        .ok()?
        .strip_prefix('f')?
        .parse()
        .ok()
}

const SCORE_DIGITS: usize = 6;
/// Scores are `1` and six digits.
const SCORES: u64 = 1_000_000;
const CHANNEL: &[u8; 4] = b"chn:";
const CHANNEL_LEN: usize = 12;
const TIME_DIGITS: usize = 20;
/// Elements one request of a filling adds.
const CHUNK: u64 = 128;

const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut i = 0;
    while i < 100 {
        pairs[i] = [b'0' + (i / 10) as u8, b'0' + (i % 10) as u8];
        i += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Commands, Frames, Reader, Value};

    /// The arguments of every request in `bytes`.
    fn arguments(bytes: &[u8]) -> Vec<Vec<String>> {
        let mut all = Vec::new();
        let mut frames = Frames::default();
        let fed = frames.feed(bytes, |frame| {
            let (mut reader, mut request) = (Reader::new(frame), Vec::new());
            while let Ok(Some(value)) = reader.next() {
                if let Value::Bulk(bytes) = value {
                    request.push(String::from_utf8_lossy(bytes).into_owned());
                }
            }
            all.push(request);
        });
        assert_eq!(fed, Ok(()));
        let mut count = 0;
        assert_eq!(Commands::default().feed(bytes, |_| count += 1), Ok(()));
        assert_eq!(count, all.len());
        all
    }

    fn spec(options: &[(&str, &str)]) -> LoadSpec {
        let mut spec = LoadSpec::default();
        for (option, text) in options {
            assert!(spec.set(option, text).expect("a value"), "{option}");
        }
        spec.check().expect("can be generated");
        spec
    }

    fn requests(options: &[(&str, &str)], count: u32) -> Vec<Vec<String>> {
        let mut source = Source::new(&spec(options), 0).expect("fits");
        let mut bytes = Vec::new();
        source.batch(&mut bytes, &mut 0, count, 5);
        let all = arguments(&bytes);
        assert_eq!(all.len(), count as usize);
        all
    }

    #[test]
    fn each_verb_is_asked_for_as_the_protocol_wants_it() {
        for (mix, want) in [
            ("get", "GET key:000000000000"),
            ("set", "SET key:000000000000 xxx"),
            ("incr", "INCR ctr:000000000000"),
            ("lpush", "LPUSH lst:000000000000 xxx"),
            ("lrange", "LRANGE lst:000000000000 0 6"),
            ("hset", "HSET hsh:000000000000 f00 xxx"),
            ("hget", "HGET hsh:000000000000 f00"),
            ("hgetall", "HGETALL hsh:000000000000"),
            ("zadd", "ZADD zst:000000000000 1SCORES 00:00"),
            ("zrange", "ZRANGE zst:000000000000 0 6"),
            ("smembers", "SMEMBERS set:000000000000"),
            ("xadd", "XADD stm:000000000000 * v xxx"),
            ("mset", "MSET key:000000000000 xxx key:000000000000 xxx"),
            ("mget", "MGET key:000000000000 key:000000000000"),
            ("del", "DEL key:000000000000"),
            ("publish", "PUBLISH chn:00000000 00000000000000000005"),
        ] {
            let one = [
                ("keys", "1"),
                ("elements", "1"),
                ("size", "3"),
                ("width", "2"),
                ("range", "7"),
            ];
            let got = requests(&[&one[..], &[("mix", mix)]].concat(), 2);
            for mut request in got {
                if mix == "zadd" {
                    assert!(
                        request[2].len() == 7 && request[2].starts_with('1'),
                        "{request:?}"
                    );
                    request[2] = "1SCORES".into();
                }
                assert_eq!(request.join(" "), want);
            }
            // A value of changing length takes another way to the same request.
            if want.contains("xxx") || mix == "publish" {
                let two = requests(&[&one[..], &[("mix", mix), ("size", "3,3-4")]].concat(), 9);
                let lens: BTreeSet<usize> = two.iter().map(|r| r.join(" ").len()).collect();
                assert!(lens.contains(&want.len()), "{mix}: {lens:?}");
                assert!(
                    two.iter()
                        .all(|request| request[0] == want.split(' ').next().expect("a word"))
                );
            }
        }
    }

    #[test]
    fn a_batch_that_is_written_over_equals_a_fresh_one() {
        for mix in ["get", "set", "zadd", "mget", "mset", "publish"] {
            let options = [
                ("mix", mix),
                ("keys", "1000"),
                ("key-size", "20"),
                ("size", "5"),
            ];
            let source = || Source::new(&spec(&options), 0).expect("fits");
            let (mut reused, mut fresh) = (source(), source());
            let (mut buffer, mut last_len) = (Vec::new(), 0);
            for now in 1..4 {
                reused.batch(&mut buffer, &mut last_len, 8, now);
                let mut again = Vec::new();
                fresh.batch(&mut again, &mut 0, 8, now);
                assert_eq!(
                    String::from_utf8_lossy(&buffer),
                    String::from_utf8_lossy(&again)
                );
            }
        }
    }

    #[test]
    fn the_share_of_times_to_live_is_the_one_asked_for() {
        let options = [("mix", "set"), ("ttl-share", "25%"), ("ttl", "1-60s")];
        let all = requests(&options, 20_000);
        let with: Vec<u64> = all
            .iter()
            .filter(|request| request.len() == 5 && request[3] == "PX")
            .map(|request| request[4].parse().expect("a number"))
            .collect();
        assert!(all.iter().all(|request| matches!(request.len(), 3 | 5)));
        assert!((4_700..5_300).contains(&with.len()), "{}", with.len());
        assert!(with.iter().all(|ms| (1000..=60_000).contains(ms)));
        assert!(with.iter().any(|ms| *ms < 10_000) && with.iter().any(|ms| *ms > 50_000));
    }

    #[test]
    fn a_mix_and_its_sizes_come_in_their_ratios() {
        let options = [("mix", "get:set:del=60:30:10"), ("size", "10:3,20-29:1")];
        let all = requests(&options, 20_000);
        let count = |name| all.iter().filter(|request| request[0] == name).count() as f64 / 200.0;
        for (name, percent) in [("GET", 60.0), ("SET", 30.0), ("DEL", 10.0)] {
            assert!(
                (count(name) - percent).abs() < 1.5,
                "{name}: {}",
                count(name)
            );
        }
        let lens: Vec<usize> = all
            .iter()
            .filter_map(|request| Some(request.get(2)?.len()))
            .collect();
        let short = lens.iter().filter(|len| **len == 10).count() as f64 / lens.len() as f64;
        assert!((short - 0.75).abs() < 0.03, "{short}");
        assert!(lens.iter().all(|len| *len == 10 || (20..30).contains(len)));
    }

    #[test]
    fn a_filling_writes_every_key_of_every_kind_once_and_in_one_piece() {
        let options = [
            ("mix", "get:incr:lrange:hget:zrange:smembers:xadd"),
            ("keys", "5"),
            ("elements", "130"),
        ];
        let spec = LoadSpec {
            threads: 2,
            ..spec(&options)
        };
        let mut all = Vec::new();
        for thread in 0..2 {
            let mut filling = Filling::new(&spec, thread).expect("fits");
            loop {
                let mut bytes = Vec::new();
                let count = filling.append(&mut bytes, 4);
                let batch = arguments(&bytes);
                assert_eq!(batch.len(), count as usize);
                if count == 0 {
                    break;
                }
                assert!(
                    batch[0][0] == "DEL" || batch[0][0] == "SET",
                    "{:?}",
                    batch[0]
                );
                all.extend(batch);
            }
        }
        let of = |name: &str| -> usize {
            let named = all.iter().filter(|request| request[0] == name);
            named.map(|request| request.len() - 2).sum()
        };
        let (elements, pairs) = (5 * 130, 2 * 5 * 130);
        let counts = ["SET", "DEL", "LPUSH", "HSET", "ZADD", "SADD"].map(of);
        assert_eq!(counts, [10, 0, elements, pairs, pairs, elements]);
        let members: BTreeSet<&String> = all
            .iter()
            .filter(|request| request[0] == "SADD")
            .flat_map(|request| &request[2..])
            .collect();
        assert_eq!(members.len(), elements);
    }

    #[test]
    fn stamps_are_read_back_and_every_flipped_bit_is_noticed() {
        let stamp = Stamp {
            entry: 123_456_789_012,
            version: 7,
        };
        for len in [Stamp::LEN, 13, 20, 21, 64] {
            let mut value = Vec::new();
            stamp.write(&mut value, len);
            assert_eq!((value.len(), Stamp::read(&value)), (len, Some(stamp)));
            for bit in 0..len * 8 {
                let mut bad = value.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_ne!(Stamp::read(&bad), Some(stamp), "{len}: bit {bit}");
            }
        }
        assert_eq!(Stamp::read(b"short"), None);
    }

    #[test]
    fn what_was_written_into_a_message_or_a_name_is_read_back() {
        let mut message = Vec::new();
        append_message(&mut message, 30, 987_654_321);
        let body = &message[5..message.len() - 2];
        assert_eq!((body.len(), time_of_message(body)), (30, Some(987_654_321)));
        assert_eq!(time_of_message(&body[..19]), None);
        assert_eq!(time_of_message(&[&body[..29], b"y"].concat()), None);
        assert_eq!(member_of(b"0012:0034"), Some((12, 34)));
        assert_eq!((member_of(b"12"), member_of(b"a:1")), (None, None));
        assert_eq!((field_of(b"f07"), field_of(b"g07")), (Some(7), None));
        let request = subscribe(100, 105).expect("fits");
        assert_eq!(arguments(&request), [["SUBSCRIBE", "chn:00000005"]]);
    }
}
