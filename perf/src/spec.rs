//! A load described as data: what `run` reads from its options and `compare` from scenario files.
//! Field names are option names, values are written alike in both.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Error;
use crate::request::Stamp;

/// One load: which requests on which keys, how many at once, for how long. Every field has a default,
/// so a scenario names what it is about and nothing else. [`LoadSpec::check`] before use.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LoadSpec {
    /// Which requests in which shares: `get`, `get:set=90:10`, `lpush:lrange=1:1`.
    pub mix: Mix,
    /// Connections, shared among the threads.
    pub conns: usize,
    /// Requests in flight per connection.
    pub pipeline: u32,
    /// Generator threads, each with its own ring.
    pub threads: usize,
    /// Requests per second of the open loop, of all threads together; closed when none.
    pub rate: Option<f64>,
    /// Time measured, unless `requests` says how long to measure.
    pub duration: Span,
    /// Time before measuring begins.
    pub warmup: Span,
    /// Requests to measure instead of a time.
    pub requests: Option<u64>,
    /// Keys of each type.
    pub keys: u64,
    /// Bytes of a key.
    pub key_size: usize,
    /// Exponent of a Zipf distribution over the keys; uniform when none.
    pub zipf: Option<f64>,
    /// Keys in turn instead of by chance.
    pub sequential: bool,
    /// Bytes of a value: `64`, `16-4096` (uniform), `64:90,4096:10` (weighted).
    pub size: Sizes,
    /// Elements a list, hash, set or sorted set is filled with.
    pub elements: u64,
    /// Keys of one MSET or MGET.
    pub width: u32,
    /// Elements one LRANGE or ZRANGE asks for.
    pub range: u64,
    /// Share of SETs that carry a time to live: `10%` or `0.1`.
    pub ttl_share: Share,
    /// Their times to live: `10s`, `1-60s` (uniform).
    pub ttl: Spans,
    /// RESP version, 2 or 3.
    pub proto: u8,
    /// Fill all keys the mix reads before the load.
    pub preload: bool,
    /// Write values that tell their key and version, and check every reply. Fills first.
    pub verify: bool,
    /// Connections that subscribe, beside `conns`, when the mix publishes.
    pub subscribers: usize,
    /// Channels published to in turn; subscribers are spread over them.
    pub channels: u64,
}

impl Default for LoadSpec {
    fn default() -> LoadSpec {
        LoadSpec {
            mix: Mix::of(Verb::Get),
            conns: 50,
            pipeline: 1,
            threads: 1,
            rate: None,
            duration: Span(Duration::from_secs(2)),
            warmup: Span(Duration::from_millis(300)),
            requests: None,
            keys: 100_000,
            key_size: 16,
            zipf: None,
            sequential: false,
            size: Sizes::fixed(64),
            elements: 10,
            width: 10,
            range: 10,
            ttl_share: Share(0.0),
            ttl: Spans {
                low: Span(Duration::from_secs(60)),
                high: Span(Duration::from_secs(60)),
            },
            proto: 2,
            preload: false,
            verify: false,
            subscribers: 10,
            channels: 1,
        }
    }
}

impl LoadSpec {
    /// Options that stand alone, without a value.
    pub const FLAGS: [&str; 3] = ["sequential", "preload", "verify"];

    /// Whether `option` names a field.
    pub fn has(&self, option: &str) -> bool {
        // No text is one for every field, but only a name that is none gives false.
        !matches!(self.clone().set(option, ""), Ok(false))
    }

    /// Sets the field `option` names from its text; false when there is no such field. Flags take
    /// any text.
    ///
    /// # Errors
    /// [`Error::Value`] when the text is none for this field.
    pub fn set(&mut self, option: &str, text: &str) -> Result<bool, Error> {
        match option {
            "mix" => self.mix = read("--mix", MIX_EXPECTED, text)?,
            "conns" => self.conns = read("--conns", NUMBER, text)?,
            "pipeline" => self.pipeline = read("--pipeline", NUMBER, text)?,
            "threads" => self.threads = read("--threads", NUMBER, text)?,
            "rate" => self.rate = Some(read("--rate", NUMBER, text)?),
            "duration" => self.duration = read("--duration", SPAN_EXPECTED, text)?,
            "warmup" => self.warmup = read("--warmup", SPAN_EXPECTED, text)?,
            "requests" => self.requests = Some(read("--requests", NUMBER, text)?),
            "keys" => self.keys = read("--keys", NUMBER, text)?,
            "key-size" => self.key_size = read("--key-size", NUMBER, text)?,
            "zipf" => self.zipf = Some(read("--zipf", NUMBER, text)?),
            "sequential" => self.sequential = true,
            "size" => self.size = read("--size", SIZES_EXPECTED, text)?,
            "elements" => self.elements = read("--elements", NUMBER, text)?,
            "width" => self.width = read("--width", NUMBER, text)?,
            "range" => self.range = read("--range", NUMBER, text)?,
            "ttl-share" => self.ttl_share = read("--ttl-share", SHARE_EXPECTED, text)?,
            "ttl" => self.ttl = read("--ttl", SPANS_EXPECTED, text)?,
            "proto" => self.proto = read("--proto", NUMBER, text)?,
            "preload" => self.preload = true,
            "verify" => self.verify = true,
            "subscribers" => self.subscribers = read("--subscribers", NUMBER, text)?,
            "channels" => self.channels = read("--channels", NUMBER, text)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Refuses what cannot be generated.
    ///
    /// # Errors
    /// [`Error::Value`] with the first field that is out of bounds.
    pub fn check(&self) -> Result<(), Error> {
        let conns = self.conns as u64;
        let bounds = [
            ("--conns", conns, 1..=60_000, "between 1 and 60000"),
            (
                "--pipeline",
                self.pipeline.into(),
                1..=65_536,
                "between 1 and 65536",
            ),
            (
                "--threads",
                self.threads as u64,
                1..=conns.min(256),
                "at most --conns and 256",
            ),
            ("--size", self.size.max(), 0..=512 << 20, "at most 512 MB"),
            (
                "--elements",
                self.elements,
                1..=10_000_000,
                "between 1 and 10^7",
            ),
            (
                "--width",
                self.width.into(),
                1..=10_000,
                "between 1 and 10000",
            ),
            ("--range", self.range, 1..=10_000_000, "between 1 and 10^7"),
            ("--proto", self.proto.into(), 2..=3, "2 or 3"),
            (
                "--subscribers",
                self.subscribers as u64,
                0..=60_000,
                "at most 60000",
            ),
            (
                "--channels",
                self.channels,
                1..=1_000_000,
                "between 1 and 10^6",
            ),
            (
                "--requests",
                self.requests.unwrap_or(1),
                1..=u64::MAX,
                "at least 1",
            ),
        ];
        for (option, value, bound, expected) in bounds {
            require(bound.contains(&value), option, expected)?;
        }
        let (rate, zipf) = (self.rate.unwrap_or(1.0), self.zipf.unwrap_or(1.0));
        let per_second = "between 1 and 10^9 requests per second";
        require((1.0..=1e9).contains(&rate), "--rate", per_second)?;
        require(
            (0.01..=10.0).contains(&zipf),
            "--zipf",
            "between 0.01 and 10",
        )?;
        let is_one_spread = !(self.sequential && self.zipf.is_some());
        require(is_one_spread, "--sequential", "given without --zipf")?;
        let ttl = self.ttl.millis();
        let is_ttl = *ttl.start() >= 1 && ttl.start() <= ttl.end();
        require(is_ttl, "--ttl", SPANS_EXPECTED)?;
        if self.verify {
            let room = "at least 12 with --verify: values tell their key and version";
            require(self.size.min() >= VERIFIED_MIN, "--size", room)?;
            let fields = self.keys.saturating_mul(self.elements);
            let held = "such that keys times elements is at most 2^27 with --verify";
            require(
                self.keys <= LEDGER_MAX,
                "--keys",
                "at most 2^27 with --verify",
            )?;
            let writers = "at least --conns with --verify: each key has one writer";
            require(self.keys >= conns, "--keys", writers)?;
            let has_fields = self.mix.has(&[Verb::Hset, Verb::Hget, Verb::Hgetall]);
            require(!has_fields || fields <= LEDGER_MAX, "--elements", held)?;
        }
        Ok(())
    }
}

fn require(holds: bool, option: &'static str, expected: &'static str) -> Result<(), Error> {
    if holds {
        Ok(())
    } else {
        Err(Error::Value { option, expected })
    }
}

fn read<T: FromStr>(option: &'static str, expected: &'static str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Value { option, expected })
}

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
#[allow(missing_docs)] // each is the command of its name
pub enum Verb {
    Get,
    Set,
    Incr,
    Lpush,
    Lrange,
    Hset,
    Hget,
    Hgetall,
    Zadd,
    Zrange,
    Sadd,
    Smembers,
    Xadd,
    Mset,
    Mget,
    Del,
    Publish,
}

impl Verb {
    /// Every verb, in the order of their numbers.
    pub const ALL: [Verb; 17] = [
        Verb::Get,
        Verb::Set,
        Verb::Incr,
        Verb::Lpush,
        Verb::Lrange,
        Verb::Hset,
        Verb::Hget,
        Verb::Hgetall,
        Verb::Zadd,
        Verb::Zrange,
        Verb::Sadd,
        Verb::Smembers,
        Verb::Xadd,
        Verb::Mset,
        Verb::Mget,
        Verb::Del,
        Verb::Publish,
    ];

    /// The command in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::Set => "set",
            Verb::Incr => "incr",
            Verb::Lpush => "lpush",
            Verb::Lrange => "lrange",
            Verb::Hset => "hset",
            Verb::Hget => "hget",
            Verb::Hgetall => "hgetall",
            Verb::Zadd => "zadd",
            Verb::Zrange => "zrange",
            Verb::Sadd => "sadd",
            Verb::Smembers => "smembers",
            Verb::Xadd => "xadd",
            Verb::Mset => "mset",
            Verb::Mget => "mget",
            Verb::Del => "del",
            Verb::Publish => "publish",
        }
    }
}

/// Requests and their weights.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mix {
    parts: Vec<(Verb, u32)>,
}

impl Mix {
    /// One verb alone.
    pub fn of(verb: Verb) -> Mix {
        Mix {
            parts: vec![(verb, 1)],
        }
    }

    /// The verbs with their weights, none of them 0, each verb once.
    pub fn parts(&self) -> &[(Verb, u32)] {
        &self.parts
    }

    /// The only verb, if there is only one.
    pub fn pure(&self) -> Option<Verb> {
        match self.parts[..] {
            [(verb, _)] => Some(verb),
            _ => None,
        }
    }

    /// Whether one of `verbs` is among them.
    pub fn has(&self, verbs: &[Verb]) -> bool {
        self.parts.iter().any(|(verb, _)| verbs.contains(verb))
    }
}

impl FromStr for Mix {
    type Err = &'static str;

    /// Reads `get` or `get:set=90:10`.
    fn from_str(text: &str) -> Result<Mix, Self::Err> {
        let (names, weights) = match text.split_once('=') {
            Some((names, weights)) => (names, Some(weights)),
            None => (text, None),
        };
        let names: Vec<&str> = names.split(':').collect();
        let weights: Vec<&str> = weights.map_or(vec!["1"; names.len()], |w| w.split(':').collect());
        let mut parts: Vec<(Verb, u32)> = Vec::new();
        for (name, weight) in names.iter().zip(&weights) {
            let verb = Verb::ALL.into_iter().find(|verb| verb.name() == *name);
            let verb = verb.ok_or(MIX_EXPECTED)?;
            let weight = weight.parse().ok().filter(|weight| *weight <= WEIGHT_MAX);
            if parts.iter().any(|(known, _)| *known == verb) {
                return Err(MIX_EXPECTED);
            }
            parts.push((verb, weight.ok_or(MIX_EXPECTED)?));
        }
        parts.retain(|(_, weight)| *weight > 0);
        if parts.is_empty() || names.len() != weights.len() {
            return Err(MIX_EXPECTED);
        }
        Ok(Mix { parts })
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.parts.iter().map(|(verb, _)| verb.name()).collect();
        f.write_str(&names.join(":"))?;
        if self.parts.len() > 1 {
            let weights: Vec<String> = self.parts.iter().map(|(_, w)| w.to_string()).collect();
            write!(f, "={}", weights.join(":"))?;
        }
        Ok(())
    }
}

/// How long values are: ranges of lengths with weights, uniform within a range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sizes {
    parts: Vec<(RangeInclusive<u64>, u32)>,
}

impl Sizes {
    /// Always `len`.
    pub fn fixed(len: u64) -> Sizes {
        Sizes {
            parts: vec![(len..=len, 1)],
        }
    }

    /// The only length, if there is only one.
    pub fn only(&self) -> Option<u64> {
        (self.min() == self.max()).then(|| self.min())
    }

    /// The ranges with their weights, none of them 0.
    pub fn parts(&self) -> &[(RangeInclusive<u64>, u32)] {
        &self.parts
    }

    /// The shortest.
    pub fn min(&self) -> u64 {
        self.parts
            .iter()
            .map(|(range, _)| *range.start())
            .min()
            .unwrap_or(0)
    }

    /// The longest.
    pub fn max(&self) -> u64 {
        self.parts
            .iter()
            .map(|(range, _)| *range.end())
            .max()
            .unwrap_or(0)
    }
}

impl FromStr for Sizes {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Sizes, Self::Err> {
        let mut parts = Vec::new();
        for part in text.split(',') {
            let (range, weight) = part.split_once(':').unwrap_or((part, "1"));
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            let (low, high): (u64, u64) = match (low.parse(), high.parse()) {
                (Ok(low), Ok(high)) if low <= high => (low, high),
                _ => return Err(SIZES_EXPECTED),
            };
            match weight.parse::<u32>() {
                Ok(weight) if (1..=WEIGHT_MAX).contains(&weight) => {
                    parts.push((low..=high, weight))
                }
                _ => return Err(SIZES_EXPECTED),
            }
        }
        Ok(Sizes { parts })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (range, weight)) in self.parts.iter().enumerate() {
            let (comma, low) = (if i > 0 { "," } else { "" }, range.start());
            write!(f, "{comma}{low}")?;
            if range.end() > low {
                write!(f, "-{}", range.end())?;
            }
            if self.parts.len() > 1 {
                write!(f, ":{weight}")?;
            }
        }
        Ok(())
    }
}

/// A time, written `2s`, `300ms` or `0.2` (seconds), up to a day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Span, Self::Err> {
        let (number, unit) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
            (Some(number), _) => (number, 1e-3),
            (None, Some(number)) => (number, 1.0),
            (None, None) => (text, 1.0),
        };
        let seconds = number.parse::<f64>().ok().map(|n| n * unit);
        match seconds.filter(|seconds| (0.0..=86_400.0).contains(seconds)) {
            Some(seconds) => Ok(Span(Duration::from_secs_f64(seconds))),
            None => Err(SPAN_EXPECTED),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.subsec_nanos() == 0 {
            write!(f, "{}s", self.0.as_secs())
        } else {
            write!(f, "{}ms", self.0.as_secs_f64() * 1e3)
        }
    }
}

/// A time between two, both included: `1-60s`, `500ms-2s`, `10s`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spans {
    low: Span,
    high: Span,
}

impl Spans {
    /// Lowest and highest in milliseconds.
    pub fn millis(&self) -> RangeInclusive<u64> {
        self.low.0.as_millis() as u64..=self.high.0.as_millis() as u64
    }
}

impl FromStr for Spans {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Spans, Self::Err> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        // In `1-60s` the unit stands once, for both.
        let unit = high.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let has_unit = low.ends_with('s');
        let low = if has_unit {
            low.to_owned()
        } else {
            format!("{low}{unit}")
        };
        let (low, high) = (low.parse()?, high.parse()?);
        Ok(Spans { low, high })
    }
}

impl fmt::Display for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high {
            return self.low.fmt(f);
        }
        write!(f, "{}-{}", self.low, self.high)
    }
}

/// A share of all, written `10%` or `0.1`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Share(pub f64);

impl FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Share, Self::Err> {
        let share = match text.strip_suffix('%') {
            Some(percent) => percent.parse::<f64>().ok().map(|n| n / 100.0),
            None => text.parse().ok(),
        };
        let share = share.filter(|share| (0.0..=1.0).contains(share));
        share.map(Share).ok_or(SHARE_EXPECTED)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

/// What a scenario may write where an option has text: `size = 64` as well as `size = "16-4096"`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Whole(u64),
    Real(f64),
    Words(String),
}

macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = match Text::deserialize(from)? {
                    Text::Whole(number) => number.to_string(),
                    Text::Real(number) => number.to_string(),
                    Text::Words(text) => text,
                };
                let wrong = |expected| {
                    serde::de::Error::custom(format!("`{text}` is not {expected}"))
                };
                text.parse().map_err(wrong)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }
    )*};
}

as_text!(Mix, Sizes, Span, Spans, Share);

const NUMBER: &str = "a number";
const MIX_EXPECTED: &str = "commands with weights such as get, get:set=90:10 or lpush:lrange=1:1, of get, \
    set, incr, lpush, lrange, hset, hget, hgetall, zadd, zrange, sadd, smembers, xadd, mset, mget, del, \
    publish";
const SIZES_EXPECTED: &str = "bytes such as 64, 16-4096 or 64:90,4096:10";
const SPAN_EXPECTED: &str = "a time such as 2s or 300ms";
const SPANS_EXPECTED: &str = "a time or two of them from 1ms on, such as 10s or 1-60s";
const SHARE_EXPECTED: &str = "a share such as 10% or 0.1";
const WEIGHT_MAX: u32 = 1_000_000;
/// Key number and version of a verified value.
const VERIFIED_MIN: u64 = Stamp::LEN as u64;
/// Entries whose versions are remembered for the checks.
const LEDGER_MAX: u64 = 1 << 27;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixes_are_read_in_any_order_and_nonsense_is_refused() {
        for text in [
            "get",
            "get:set=90:10",
            "set:get=1:3",
            "lpush:lrange:xadd=1:2:3",
        ] {
            let mix: Mix = text.parse().expect("a mix");
            assert_eq!(mix.to_string(), text);
        }
        let mix = |text: &str| text.parse::<Mix>().map(|mix| mix.to_string());
        assert_eq!(mix("get:set").as_deref(), Ok("get:set=1:1"));
        assert_eq!(mix("get:set=5:0").as_deref(), Ok("get"));
        for bad in [
            "",
            "flushall",
            "get:set=0:0",
            "get:set=x:1",
            "get:get=1:1",
            "get:set=4294967295:1",
            "get:set=1",
            "get=1:1",
            "get:",
            "GET",
        ] {
            assert!(mix(bad).is_err(), "{bad}");
        }
        for verb in Verb::ALL {
            assert_eq!(Verb::ALL[verb as usize], verb);
            assert!(mix(verb.name()).is_ok() && MIX_EXPECTED.contains(verb.name()));
        }
    }

    #[test]
    fn sizes_are_one_a_range_or_weighted() {
        for text in ["0", "64", "16-4096", "64:90,100-4096:10"] {
            assert_eq!(text.parse::<Sizes>().expect("sizes").to_string(), text);
        }
        let sizes: Sizes = "64:90,100-4096:10".parse().expect("sizes");
        assert_eq!((sizes.min(), sizes.max(), sizes.only()), (64, 4096, None));
        assert_eq!(Sizes::fixed(9).only(), Some(9));
        for bad in ["", "x", "5-4", "5:0", "-1", "1-", "1,,2"] {
            assert!(bad.parse::<Sizes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_are_read_with_their_unit() {
        for (text, ms) in [("2s", 2000), ("300ms", 300), ("0.5", 500)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(ms))), "{text}");
        }
        for bad in ["", "s", "-1s", "1h", "NaN", "1e99"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        for (text, low, high) in [
            ("1-60s", 1000, 60_000),
            ("500ms-2s", 500, 2000),
            ("20-30ms", 20, 30),
            ("10", 10_000, 10_000),
        ] {
            let spans: Spans = text.parse().expect("spans");
            assert_eq!(spans.millis(), low..=high, "{text}");
            assert_eq!(spans.to_string().parse(), Ok(spans));
        }
        assert!("s-".parse::<Spans>().is_err());
    }

    #[test]
    fn a_scenario_and_the_options_of_the_same_names_say_the_same() {
        let text = r#"
            mix = "get:set=90:10"
            pipeline = 16
            size = "16-4096"
            zipf = 0.99
            ttl-share = "10%"
            ttl = "1-60s"
            duration = 3
            warmup = 0.25
            verify = true
        "#;
        let scenario: LoadSpec = toml::from_str(text).expect("a load");
        let mut options = LoadSpec::default();
        for (option, value) in [
            ("mix", "get:set=90:10"),
            ("pipeline", "16"),
            ("size", "16-4096"),
            ("zipf", "0.99"),
            ("ttl-share", "0.1"),
            ("ttl", "1s-60s"),
            ("duration", "3s"),
            ("warmup", "250ms"),
            ("verify", ""),
        ] {
            assert!(options.set(option, value).expect("a value"), "{option}");
        }
        assert_eq!(scenario, options);
        assert!(scenario.check().is_ok());
        let again = toml::from_str(&toml::to_string(&scenario).expect("text")).expect("a load");
        assert_eq!(scenario, again);
        assert!(toml::from_str::<LoadSpec>("pipelin = 1").is_err());
        assert!(toml::from_str::<LoadSpec>("size = \"x\"").is_err());
    }

    #[test]
    fn every_field_is_an_option() {
        let value = serde_json::to_value(LoadSpec::default()).expect("JSON");
        for name in value.as_object().expect("an object").keys() {
            let known = LoadSpec::default().set(name, "1");
            assert!(!matches!(known, Ok(false)), "{name}");
        }
        assert!(LoadSpec::FLAGS.iter().all(|flag| value[flag] == false));
    }

    #[test]
    fn what_cannot_be_generated_is_refused() {
        for (option, value) in [
            ("conns", "0"),
            ("threads", "51"),
            ("rate", "0.5"),
            ("zipf", "0"),
            ("proto", "4"),
            ("ttl", "60-1s"),
            ("ttl", "0s"),
            ("size", "536870913"),
            ("requests", "0"),
        ] {
            let mut spec = LoadSpec::default();
            assert!(spec.set(option, value).is_ok(), "{option}");
            assert!(spec.check().is_err(), "{option} {value}");
        }
        let verified = LoadSpec {
            verify: true,
            size: Sizes::fixed(11),
            ..LoadSpec::default()
        };
        assert!(verified.check().is_err());
    }
}
