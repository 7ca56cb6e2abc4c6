//! What a shard did of late, in memory, for replicas that follow and for those that come back.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{
    journal::{
        Block,
        frame::{self, Frames},
        from_files,
    },
    resp::{Args, Parser},
};

/// Frames that follow each other, in the very memory that they were composed in.
#[derive(Clone, Debug)]
pub struct Part {
    generation: u64,
    first: u64,
    end: u64,
    database: u32,
    frames: Bytes,
    /// Some of its frames can only be applied together.
    is_joined: bool,
    /// The parts of a unit over several shards by shard and first offset there; none if it is not one.
    participants: Vec<(u32, u64)>,
    /// Of all its frames, once somebody needed it.
    sum: Option<u32>,
    /// For peers that know one database: the same offsets, and frames of others replaced.
    plain: Plain,
}

/// What a part is to peers that know one database.
#[derive(Clone, Debug)]
enum Plain {
    /// The frames as they are.
    Same,
    /// Not known yet.
    Unknown,
    /// Composed anew, once for all of them.
    Composed(Bytes),
    /// Nothing can stand for it.
    Impossible,
}

impl Part {
    /// What a sealed block has for replicas, and the whole of it, to be written: both share its memory.
    pub fn of(block: Block) -> (Part, Bytes) {
        let (first, end, database) = (block.first(), block.end(), block.database());
        let (generation, _) = from_files(block.generation());
        let (at, is_plain) = (block.frames_at(), block.is_plain());
        let (is_joined, participants) = (block.is_joined(), block.participants().to_vec());
        let sum = block.sum();
        let bytes = block.into_bytes();
        let part = Part {
            generation,
            first,
            end,
            database,
            frames: bytes.slice(at..),
            is_joined,
            participants,
            sum,
            plain: if is_plain {
                Plain::Same
            } else {
                Plain::Unknown
            },
        };
        (part, bytes)
    }

    /// What a block on disk has; `is_plain` as in [`Block::is_plain`]. Which of its frames belong together it
    /// does not tell.
    pub fn read(
        (first, end): (u64, u64),
        database: u32,
        frames: Bytes,
        is_plain: bool,
        participants: Vec<(u32, u64)>,
    ) -> Self {
        Self {
            generation: 0,
            first,
            end,
            database,
            is_joined: end - first > 1,
            participants,
            sum: None,
            frames,
            plain: if is_plain {
                Plain::Same
            } else {
                Plain::Unknown
            },
        }
    }

    /// The history that it belongs to; 0 if it was read from a file.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Offset behind its last frame.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The database that the frame at this offset finds itself in.
    pub fn database_at(&self, offset: u64, parser: &mut Parser) -> u32 {
        let span = (self.first, self.end - self.first);
        let mut frames = Frames::of_part(&self.frames, span, self.database, parser);
        frames.database_at(offset).unwrap_or(self.database)
    }

    /// What a peer gets that goes on from this offset, which is in it, and what comes before that; `None` if
    /// there is nothing for this one. Bytes that had to be composed anew for it are added to `composed`.
    pub fn rest(
        &mut self,
        from: u64,
        peer: Peer,
        (parser, composed): (&mut Parser, &mut u64),
    ) -> Option<(Option<Bytes>, Bytes)> {
        let (first, end, database) = (self.first, self.end, self.database);
        let bytes = self.bytes(peer, parser, composed)?.clone();
        let mut frames = Frames::of_part(&bytes, (first, end - first), database, parser);
        let at = frames.skip_to(from).ok()?;
        let head = (peer == Peer::All).then(|| self.head(at));
        Some((head, bytes.slice(at..)))
    }

    /// What a ringkeep is told before the frames from a place on: they come together or not at all.
    fn head(&mut self, at: usize) -> Bytes {
        let sum = match (at, self.sum) {
            (0, Some(sum)) => sum,
            _ => crc32fast::hash(&self.frames[at..]),
        };
        if at == 0 {
            self.sum = Some(sum);
        }
        let (end, len) = (self.end, self.frames.len() - at);
        let joined = u8::from(self.is_joined);
        let mut line = format!("+UNITS {end} {len} {sum} {joined}");
        for (shard, first) in &self.participants {
            line += &format!(" {shard} {first}");
        }
        (line + "\r\n").into()
    }

    /// Its bytes for a peer; `None` if there are none for this one.
    fn bytes(&mut self, kind: Peer, parser: &mut Parser, composed: &mut u64) -> Option<&Bytes> {
        if kind == Peer::All {
            return Some(&self.frames);
        }
        if matches!(self.plain, Plain::Unknown) {
            self.plain = match plain(self, parser) {
                Some(bytes) => {
                    *composed += bytes.len() as u64;
                    Plain::Composed(bytes.into())
                }
                None => Plain::Impossible,
            };
        }
        match &self.plain {
            Plain::Same => Some(&self.frames),
            Plain::Composed(bytes) => Some(bytes),
            Plain::Unknown | Plain::Impossible => None,
        }
    }
}

/// The frames of a part for peers that know one database. Offsets stay as they are, so a frame of another
/// database becomes a command that does nothing.
fn plain(part: &Part, parser: &mut Parser) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(part.frames.len());
    let span = (part.first, part.end - part.first);
    let mut frames = Frames::of_part(&part.frames, span, part.database, parser);
    let mut next = part.first;
    // A group of which the frame before said how far it is.
    let mut group = None;
    let nothing = |out: &mut Vec<u8>, from: u64, to: u64| {
        for offset in from..to {
            frame::compose(out, offset, std::iter::once(&b"PING"[..]));
        }
    };
    // What was composed here can be read here.
    while let Ok(Some(found)) = frames.next() {
        // Those between were SELECT.
        nothing(&mut out, next, found.offset);
        next = found.offset + 1;
        let is_first = |at: usize| found.args.get(at) == Some(b"0");
        match found.args.at(0) {
            b"SWAPDB" if is_first(1) != is_first(2) => return None,
            b"SWAPDB" => nothing(&mut out, found.offset, next),
            // From before such a peer followed.
            _ if found.database == 0
                && is_special(found.args)
                && (group.is_none() || group != group_of(found.args)) =>
            {
                return None;
            }
            name if found.database == 0 || name == b"FLUSHALL" => {
                frame::compose(&mut out, found.offset, found.args.iter());
            }
            _ => nothing(&mut out, found.offset, next),
        }
        group = group_of(found.args);
    }
    nothing(&mut out, next, part.end);
    Some(out)
}

/// Is it a frame that not every peer understands? See [`Stream::special_frame`].
///
/// [`Stream::special_frame`]: crate::journal::Stream::special_frame
pub fn is_special(args: Args<'_>) -> bool {
    match args.at(0) {
        b"BITFIELD" | b"LINSERT" | b"SETBIT" | b"SETRANGE" | b"SWAPDB" => true,
        b"XGROUP" => args.get(5) == Some(b"ENTRIESREAD"),
        _ => false,
    }
}

/// The key and the name of the group of which a frame says how far it is.
fn group_of(args: Args<'_>) -> Option<(Vec<u8>, Vec<u8>)> {
    let is_it = args.at(0) == b"XGROUP" && args.len() >= 5;
    is_it.then(|| (args.at(2).to_vec(), args.at(3).to_vec()))
}

/// What a peer understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// Frames of all databases.
    All,
    /// Only frames of the first one, as kevy.
    Kevy,
}

/// How far a link has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// The offset of the next frame to send, or of one before it in the same part.
    offset: u64,
    /// The number of a part and the place in it, once found.
    at: Option<(u64, usize)>,
}

impl Cursor {
    /// What was gathered ends before the frame with this offset.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Before the frame with this offset.
    pub fn new(offset: u64) -> Self {
        Self { offset, at: None }
    }
}

/// Why a link cannot go on from where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// What comes next is no longer kept.
    TooOld,
    /// What comes next cannot be said to this peer.
    Untold,
}

/// See the module page.
#[derive(Debug)]
pub struct History {
    generation: u64,
    parts: VecDeque<Part>,
    /// Number of the first part.
    first_number: u64,
    bytes: usize,
    /// Offsets at which a peer may have been in a state that never was. Nobody goes on from there.
    doubtful: Vec<(u64, u64)>,
    /// Bytes of frames that were composed anew for peers that know one database.
    composed: u64,
    parser: Parser,
}

impl History {
    /// An empty one.
    pub fn new(generation: u64) -> Self {
        Self {
            generation,
            parts: VecDeque::new(),
            first_number: 0,
            bytes: 0,
            doubtful: Vec::new(),
            composed: 0,
            parser: Parser::default(),
        }
    }

    /// The history that the frames belong to.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What it has belongs to another history, too, which goes on from there.
    pub fn turn(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that were composed anew since this was last asked: all others are sent from the memory that
    /// they were first composed in.
    pub fn take_composed(&mut self) -> u64 {
        std::mem::take(&mut self.composed)
    }

    /// Offset of the oldest frame that is kept.
    pub fn first(&self) -> Option<u64> {
        self.parts.front().map(|part| part.first)
    }

    /// Offset behind the newest frame that is kept.
    pub fn end(&self) -> Option<u64> {
        self.parts.back().map(|part| part.end)
    }

    /// Adds what happened next.
    pub fn push(&mut self, part: Part) {
        if self.parts.back().is_some_and(|last| last.end != part.first) {
            // Something was not kept: what is older leads nowhere.
            while self.drop_first().is_some() {}
        }
        self.bytes += part.frames.len();
        self.parts.push_back(part);
    }

    /// Drops the oldest part if more than `limit` bytes are kept; its memory.
    pub fn trim(&mut self, limit: usize) -> Option<Bytes> {
        if self.bytes <= limit || self.parts.len() < 2 {
            return None;
        }
        self.drop_first()
    }

    fn drop_first(&mut self) -> Option<Bytes> {
        let part = self.parts.pop_front()?;
        self.first_number += 1;
        self.bytes -= part.frames.len();
        self.doubtful.retain(|(_, end)| *end > part.end);
        Some(part.frames)
    }

    /// From here to there nobody may go on who comes back: it had loaded a snapshot and not yet what belongs
    /// behind it, or was told to remove all keys before one.
    pub fn doubt(&mut self, first: u64, end: u64) {
        if first < end && !self.doubtful.contains(&(first, end)) {
            // Rather too much than more and more.
            while self.doubtful.len() >= DOUBTS_MAX {
                let (first, end) = self.doubtful.swap_remove(0);
                let next = &mut self.doubtful[0];
                *next = (next.0.min(first), next.1.max(end));
            }
            self.doubtful.push((first, end));
        }
    }

    /// May a peer that was at this offset of this history go on? `next` is where the stream is.
    pub fn has(&mut self, offset: u64, next: u64, peer: Peer) -> bool {
        if !self.reaches(offset, next) || self.is_doubtful(offset, peer) {
            return false;
        }
        let index = self.parts.partition_point(|part| part.end <= offset);
        let mut ahead = self.parts.range_mut(index..);
        let (parser, composed) = (&mut self.parser, &mut self.composed);
        ahead.all(|part| part.bytes(peer, parser, composed).is_some())
    }

    /// Has nobody who was there anything that can be relied on? A ringkeep would not say so.
    pub fn is_doubtful(&self, offset: u64, peer: Peer) -> bool {
        let mut all = self.doubtful.iter();
        peer == Peer::Kevy && all.any(|(first, end)| (*first..*end).contains(&offset))
    }

    /// The database that the frame at an offset which is kept, or comes next, finds itself in.
    pub fn database_at(&mut self, offset: u64, newest: u32) -> u32 {
        let index = self.parts.partition_point(|part| part.end <= offset);
        let Some(part) = self.parts.get(index) else {
            return newest;
        };
        part.database_at(offset, &mut self.parser)
    }

    /// Is everything from an offset on kept?
    pub fn reaches(&self, offset: u64, next: u64) -> bool {
        (self.first().unwrap_or(next)..=next).contains(&offset)
    }

    /// Appends what comes next for a peer to `out`: at most so many pieces, and no further ones once there
    /// are so many bytes. How many bytes that was.
    ///
    /// # Errors
    /// [`Lost`]: it cannot go on.
    pub fn gather(
        &mut self,
        cursor: &mut Cursor,
        peer: Peer,
        (pieces, len): (usize, usize),
        out: &mut Vec<Bytes>,
    ) -> Result<usize, Lost> {
        let mut taken = 0;
        // One of them has two pieces.
        while out.len() + 1 < pieces && taken < len {
            let Some((number, at)) = self.find(cursor, peer)? else {
                break;
            };
            let Some(part) = self.parts.get_mut((number - self.first_number) as usize) else {
                break;
            };
            let bytes = part.bytes(peer, &mut self.parser, &mut self.composed);
            let bytes = bytes.ok_or(Lost::Untold)?;
            let rest = bytes.slice(at..);
            taken += rest.len();
            if !rest.is_empty() {
                if peer == Peer::All {
                    out.push(part.head(at));
                }
                out.push(rest);
            }
            *cursor = Cursor {
                offset: part.end,
                at: Some((number + 1, 0)),
            };
        }
        Ok(taken)
    }

    /// The part and place at which a cursor is; `None` at the end.
    fn find(&mut self, cursor: &Cursor, peer: Peer) -> Result<Option<(u64, usize)>, Lost> {
        if let Some((number, at)) = cursor.at {
            let end = self.first_number + self.parts.len() as u64;
            if number >= self.first_number {
                return Ok((number < end).then_some((number, at)));
            }
            return Err(Lost::TooOld);
        }
        let Some(first) = self.first() else {
            return Ok(None);
        };
        if cursor.offset < first {
            return Err(Lost::TooOld);
        }
        let index = self.parts.partition_point(|part| part.end <= cursor.offset);
        let number = self.first_number + index as u64;
        let Some(part) = self.parts.get_mut(index) else {
            return Ok(None);
        };
        let (first, end, database) = (part.first, part.end, part.database);
        let bytes = part.bytes(peer, &mut self.parser, &mut self.composed);
        let bytes = bytes.ok_or(Lost::Untold)?;
        let mut frames = Frames::of_part(bytes, (first, end - first), database, &mut self.parser);
        let at = frames.skip_to(cursor.offset).map_err(|_| Lost::TooOld)?;
        Ok(Some((number, at)))
    }
}

/// Ranges of offsets from which nobody goes on.
const DOUBTS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Position, Stream};

    fn stream(offset: u64) -> Stream {
        let at = Position {
            generation: 1,
            offset,
        };
        Stream::new(0, at)
    }

    fn say(stream: &mut Stream, db: usize, words: &str) {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        match words[0] {
            b"DEL" | b"FLUSHALL" => stream.frame(db, words.into_iter()),
            _ => stream.special_frame(db, words.into_iter()),
        }
        stream.end_unit();
    }

    fn keep(history: &mut History, stream: &mut Stream) {
        while let Some(mut block) = stream.take_block() {
            block.seal(1, 0);
            history.push(Part::of(block).0);
        }
    }

    fn text(history: &mut History, from: u64, peer: Peer) -> Result<String, Lost> {
        let mut out = Vec::new();
        let mut cursor = Cursor::new(from);
        history.gather(&mut cursor, peer, (64, 1 << 20), &mut out)?;
        let heads = out.iter().filter(|piece| piece.starts_with(b"+UNITS "));
        assert_eq!(heads.count() > 0, peer == Peer::All && !out.is_empty());
        out.retain(|piece| !piece.starts_with(b"+UNITS "));
        Ok(String::from_utf8(out.concat())
            .unwrap()
            .replace("\r\n", " "))
    }

    #[test]
    fn a_link_goes_on_from_any_frame_that_is_kept() {
        let (mut stream, mut history) = (stream(7), History::new(1));
        assert_eq!(text(&mut history, 7, Peer::All), Ok(String::new()));
        say(&mut stream, 0, "DEL a");
        say(&mut stream, 0, "DEL b");
        keep(&mut history, &mut stream);
        say(&mut stream, 0, "DEL c");
        keep(&mut history, &mut stream);
        let [a, b, c] = [(7, 'a'), (8, 'b'), (9, 'c')]
            .map(|(offset, key)| format!("*2 :{offset} *2 $3 DEL $1 {key} "));
        for peer in [Peer::All, Peer::Kevy] {
            assert_eq!(text(&mut history, 7, peer), Ok(format!("{a}{b}{c}")));
            assert_eq!(text(&mut history, 8, peer), Ok(format!("{b}{c}")));
            assert_eq!(text(&mut history, 9, peer), Ok(c.clone()));
            assert_eq!(text(&mut history, 10, peer), Ok(String::new()));
            assert_eq!(text(&mut history, 6, peer), Err(Lost::TooOld));
        }
        let mut has = |at| history.has(at, 10, Peer::Kevy);
        assert!(has(7) && has(10));
        assert!(!has(6) && !has(11));
    }

    #[test]
    fn a_cursor_takes_each_part_once_and_then_what_comes() {
        let (mut stream, mut history) = (stream(0), History::new(1));
        let mut cursor = Cursor::new(0);
        let mut seen = String::new();
        for key in ["a", "b", "c"] {
            say(&mut stream, 0, &format!("DEL {key}"));
            keep(&mut history, &mut stream);
            let mut out = Vec::new();
            let gathered = history.gather(&mut cursor, Peer::All, (2, 1 << 20), &mut out);
            assert_eq!((gathered.map(|len| len > 0), out.len()), (Ok(true), 2));
            let (end, sum) = (cursor.offset(), crc32fast::hash(&out[1]));
            let head = format!("+UNITS {end} {} {sum} 0\r\n", out[1].len());
            assert_eq!(out[0], head);
            seen += std::str::from_utf8(&out[1]).unwrap();
        }
        assert_eq!(
            seen.replace("\r\n", " "),
            text(&mut history, 0, Peer::All).unwrap()
        );
        assert_eq!(
            history.gather(&mut cursor, Peer::All, (9, 9), &mut Vec::new()),
            Ok(0)
        );
    }

    #[test]
    fn ringkeeps_are_told_what_belongs_together_and_kevys_are_not() {
        let (mut stream, mut history) = (stream(0), History::new(1));
        for key in ["a", "b"] {
            stream.frame(0, [&b"DEL"[..], key.as_bytes()].into_iter());
        }
        stream.end_shared_unit(&[(0, 0), (4, 70)]);
        keep(&mut history, &mut stream);
        say(&mut stream, 0, "DEL c");
        keep(&mut history, &mut stream);
        let mut told = |from, peer| {
            let (mut out, mut cursor) = (Vec::new(), Cursor::new(from));
            history
                .gather(&mut cursor, peer, (64, 1 << 20), &mut out)
                .unwrap();
            let first: Vec<String> = out
                .chunks(2)
                .filter(|pair| pair[0].starts_with(b"+"))
                .map(|pair| {
                    let head = String::from_utf8_lossy(&pair[0]).into_owned();
                    let sum = format!(" {} ", crc32fast::hash(&pair[1]));
                    assert!(head.contains(&sum), "{head}");
                    head.trim_end().replace(&sum, " # ")
                })
                .collect();
            first
        };
        let whole = ["+UNITS 2 56 # 1 0 0 4 70", "+UNITS 3 28 # 0"];
        assert_eq!(told(0, Peer::All), whole);
        assert_eq!(told(1, Peer::All), ["+UNITS 2 28 # 1 0 0 4 70", whole[1]]);
        assert_eq!(told(0, Peer::Kevy), [""; 0]);
    }

    #[test]
    fn who_is_too_slow_is_told() {
        let (mut stream, mut history) = (stream(0), History::new(1));
        let mut slow = Cursor::new(0);
        for key in 0..10 {
            say(&mut stream, 0, &format!("DEL {key}"));
            keep(&mut history, &mut stream);
        }
        let one = history.bytes() / 10;
        let mut out = Vec::new();
        history
            .gather(&mut slow, Peer::All, (2, 1), &mut out)
            .unwrap();
        while history.trim(3 * one).is_some() {}
        assert_eq!((history.bytes(), history.first()), (3 * one, Some(7)));
        out.clear();
        let gathered = history.gather(&mut slow, Peer::All, (2, 1), &mut out);
        assert_eq!(gathered, Err(Lost::TooOld));
        assert!(history.has(7, 10, Peer::All) && !history.has(6, 10, Peer::All));
    }

    #[test]
    fn peers_with_one_database_get_nothing_of_the_others_at_the_same_offsets() {
        let (mut stream, mut history) = (stream(0), History::new(1));
        say(&mut stream, 0, "DEL a");
        say(&mut stream, 3, "DEL b");
        keep(&mut history, &mut stream);
        say(&mut stream, 3, "FLUSHALL");
        say(&mut stream, 0, "DEL c");
        keep(&mut history, &mut stream);
        let ping = |offset| format!("*2 :{offset} *1 $4 PING ");
        let want = [
            "*2 :0 *2 $3 DEL $1 a ".into(),
            ping(1),
            ping(2),
            "*2 :3 *1 $8 FLUSHALL ".into(),
            ping(4),
            "*2 :5 *2 $3 DEL $1 c ".into(),
        ];
        assert_eq!(text(&mut history, 0, Peer::Kevy), Ok(want.concat()));
        assert_eq!(text(&mut history, 2, Peer::Kevy), Ok(want[2..].concat()));
        let all = text(&mut history, 1, Peer::All).unwrap();
        assert!(
            all.starts_with("*2 :1 *2 $6 SELECT $1 3 *2 :2 *2 $3 DEL $1 b "),
            "{all}"
        );
        say(&mut stream, 0, "SWAPDB 1 2");
        keep(&mut history, &mut stream);
        assert_eq!(text(&mut history, 6, Peer::Kevy), Ok(ping(6)));
        say(&mut stream, 0, "SWAPDB 0 1");
        keep(&mut history, &mut stream);
        assert_eq!(text(&mut history, 7, Peer::Kevy), Err(Lost::Untold));
        assert!(text(&mut history, 7, Peer::All).is_ok());
        for offset in [0, 3, 7] {
            assert!(!history.has(offset, 8, Peer::Kevy), "goes on at {offset}");
            assert!(history.has(offset, 8, Peer::All));
        }
        assert!(history.has(8, 8, Peer::Kevy));
    }

    #[test]
    fn nobody_goes_on_from_between_a_snapshot_and_what_belongs_behind_it() {
        let (mut stream, mut history) = (stream(0), History::new(1));
        for key in 0..9 {
            say(&mut stream, 0, &format!("DEL {key}"));
        }
        keep(&mut history, &mut stream);
        history.doubt(3, 6);
        let mut may = |peer| -> Vec<u64> {
            let offsets = (0..12).filter(|at| history.has(*at, 9, peer));
            offsets.collect()
        };
        assert_eq!(may(Peer::Kevy), [0, 1, 2, 6, 7, 8, 9]);
        // A ringkeep does not ask from there.
        assert_eq!(may(Peer::All), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_gap_ends_what_is_older() {
        let (mut stream, mut history) = (stream(0), History::new(1));
        say(&mut stream, 0, "DEL a");
        keep(&mut history, &mut stream);
        say(&mut stream, 0, "DEL b");
        drop(stream.take_block());
        say(&mut stream, 0, "DEL c");
        keep(&mut history, &mut stream);
        assert_eq!(history.first(), Some(2));
    }
}
