//! One shard filled from its files.

use super::{Files, Origin, Plan, RecoverError, read};
use crate::{
    cmd::{Shard, Shards, effects::Replay},
    journal::{
        FileName,
        frame::{FrameFault, Frames},
        from_files,
        plan::{PlanError, Replay as Replayed},
        scan::{Mark, Scan},
        snapshot::{Chunk, Reader},
    },
    route::Routing,
};

/// What a shard is to become.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Its number.
    pub shard: usize,
    /// Shards of the node.
    pub shards: usize,
    /// Databases of SELECT.
    pub databases: usize,
    /// How keys are placed on shards.
    pub routing: Routing,
    /// Of its tables.
    pub seed: u64,
}

/// Fills a shard: the snapshot, then what the journal has behind it. `progress` hears of bytes that were
/// read.
///
/// # Errors
/// [`RecoverError`]: damage that could only be seen now. What was loaded is not to be used.
pub fn load(
    files: &impl Files,
    plan: &Plan,
    place: Place,
    mut progress: impl FnMut(u64),
) -> Result<Box<Shard>, RecoverError> {
    let mut filling = Filling::new(place);
    filling.fill(files, plan, &mut progress)?;
    Ok(filling.finish())
}

/// A shard that is filled as far as some plan goes, and can be filled further.
pub struct Filling {
    shards: Shards,
    shard: usize,
    databases: usize,
    replay: Replay,
    /// Frames that were replayed.
    pub frames: u64,
    /// The snapshot that it has, and the frames behind it.
    origin: Option<Origin>,
    replays: Vec<Replayed>,
    /// Behind the last block that was replayed whole.
    mark: Option<Mark>,
    /// It has something.
    is_begun: bool,
}

impl Filling {
    /// An empty one.
    pub fn new(place: Place) -> Self {
        let mut shards = Shards::none_of(place.shards as u32).routed(place.routing);
        let shard = Shard::new(place.databases, place.seed);
        shards.put(place.shard, Box::new(shard));
        Self {
            shards,
            shard: place.shard,
            databases: place.databases,
            replay: Replay::default(),
            frames: 0,
            origin: None,
            replays: Vec::new(),
            mark: None,
            is_begun: false,
        }
    }

    /// Is all that it has part of what a plan is for?
    pub fn fits(&self, plan: &Plan) -> bool {
        if !self.is_begun {
            return true;
        }
        let is_same = self.origin == plan.origin;
        let Some(first) = plan.replays.first() else {
            // Whether a snapshot is behind what it has, nothing tells.
            return is_same && self.replays.is_empty();
        };
        // Under a newer snapshot it may have begun earlier. Not so where that can be the beginning of another
        // copy of a primary's data, which has no generation of its own.
        let mut own = &self.replays[..];
        if !is_same {
            let known = own.iter().position(|own| own.seq == first.seq);
            let is_copy = from_files(first.generation).1;
            let Some(known) = known.filter(|_| !is_copy) else {
                return false;
            };
            own = &own[known..];
        }
        let count = own.len();
        count <= plan.replays.len()
            && own
                .iter()
                .zip(&plan.replays)
                .enumerate()
                .all(|(at, (own, wanted))| {
                    let begins = match at == 0 && !is_same {
                        true => (own.from..=own.to).contains(&wanted.from),
                        false => own.from == wanted.from,
                    };
                    let ends = match at + 1 == count {
                        true => own.to <= wanted.to,
                        false => own.to == wanted.to,
                    };
                    (own.seq, own.generation) == (wanted.seq, wanted.generation) && begins && ends
                })
    }

    /// Fills it up to where a plan ends that [fits](Filling::fits). `progress` hears of bytes that were read.
    ///
    /// # Errors
    /// [`RecoverError`]: what it has is not to be used.
    pub fn fill(
        &mut self,
        files: &impl Files,
        plan: &Plan,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), RecoverError> {
        let shard = plan.shard as u32;
        if !std::mem::replace(&mut self.is_begun, true)
            && let Some(seq) = plan.snapshot
        {
            self.snapshot(files, FileName::Snapshot { shard, seq }, progress)?;
        }
        for part in &plan.replays {
            let seq = part.seq;
            let known = self.replays.iter().find(|known| known.seq == seq);
            let from = known.map_or(part.from, |known| known.to);
            if from < part.to {
                let name = FileName::Segment { shard, seq };
                self.segment(files, name, from..part.to, progress)?;
            }
        }
        self.origin = plan.origin;
        self.replays.clone_from(&plan.replays);
        Ok(())
    }

    /// The shard.
    pub fn finish(mut self) -> Box<Shard> {
        match self.shards.take(self.shard) {
            Some(shard) => shard,
            None => unreachable!("it was put there"),
        }
    }

    fn snapshot(
        &mut self,
        files: &impl Files,
        name: FileName,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), RecoverError> {
        let mut reader = Reader::default();
        let (mut at, mut memory) = (0, Vec::new());
        let refused =
            |fault| RecoverError::Plan(Box::new(PlanError::Snapshot { file: name, fault }));
        loop {
            let bytes = read(files, name, at, &mut memory)?;
            if bytes.is_empty() {
                break;
            }
            at += bytes.len() as u64;
            progress(bytes.len() as u64);
            reader.feed(bytes);
            while let Some(chunk) = reader.next().map_err(refused)? {
                match chunk {
                    Chunk::Records { database, body, .. } => {
                        self.records(name, at, database, body)?
                    }
                    Chunk::Frames(frames) => self.frames(name, at, frames, 0..u64::MAX)?,
                }
            }
        }
        reader.finish().map_err(refused)?;
        Ok(())
    }

    fn records(
        &mut self,
        name: FileName,
        at: u64,
        database: u32,
        body: &[u8],
    ) -> Result<(), RecoverError> {
        let database = database as usize;
        if database >= self.databases {
            return Err(RecoverError::Database(name, database));
        }
        let keys = self.shards.keyspace(self.shard, database);
        keys.load(body)
            .map_err(|error| RecoverError::Record(name, at, error.to_string()))?;
        Ok(())
    }

    fn segment(
        &mut self,
        files: &impl Files,
        name: FileName,
        range: std::ops::Range<u64>,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), RecoverError> {
        let is_here =
            |mark: &Mark| matches!(name, FileName::Segment { seq, .. } if seq == mark.segment.seq);
        let mark = self.mark.take().filter(is_here);
        let mut at = mark.map_or(0, |mark| mark.at);
        let mut scan = mark.map(Scan::behind).unwrap_or_default();
        let (mut memory, mut told) = (Vec::new(), Told(at));
        let refused = |fault| RecoverError::Plan(Box::new(PlanError::Header { file: name, fault }));
        loop {
            let bytes = read(files, name, at, &mut memory)?;
            if bytes.is_empty() {
                // It was longer when it was looked at.
                let text = format!("it ends before frame {}", range.end);
                return Err(RecoverError::Io(Some(name), at, text));
            }
            at += bytes.len() as u64;
            scan.feed(bytes);
            while let Some(mut block) = scan.next().map_err(refused)? {
                if block.first >= range.end {
                    return Ok(());
                }
                let (place, end) = (block.at, block.end);
                if end > range.start {
                    let range = range.clone();
                    self.frames(name, place, block.frames(), range)?;
                }
                if end <= range.end {
                    self.mark = scan.mark();
                }
                if end >= range.end {
                    // What follows was looked at before.
                    progress(told.till(&scan));
                    return Ok(());
                }
            }
            progress(told.till(&scan));
        }
    }

    fn frames(
        &mut self,
        name: FileName,
        at: u64,
        mut frames: Frames<'_>,
        range: std::ops::Range<u64>,
    ) -> Result<(), RecoverError> {
        let refused = |fault: FrameFault| RecoverError::Frame(name, at, fault);
        while let Some(frame) = frames.next().map_err(refused)? {
            if !range.contains(&frame.offset) {
                continue;
            }
            self.frames += 1;
            let mut database = frame.database as usize;
            self.replay
                .apply(&mut self.shards, self.shard, &mut database, frame.args)
                .map_err(|error| {
                    let text = format!(
                        "{} at offset {}: {error:?}",
                        String::from_utf8_lossy(frame.args.at(0)),
                        frame.offset
                    );
                    RecoverError::Unplayable(name, at, text)
                })?;
        }
        Ok(())
    }
}

/// How many bytes of a file somebody was told of. What is reserved behind the last block is none of them.
struct Told(u64);

impl Told {
    fn till(&mut self, scan: &Scan) -> u64 {
        let reached = scan.mark().map_or(0, |mark| mark.at).max(self.0);
        reached - std::mem::replace(&mut self.0, reached)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeMap, io};

    use super::*;
    use crate::{
        base::Rng,
        cmd::Walker,
        journal::{
            Position, Stream,
            meta::Meta,
            segment::Segment,
            snapshot::{Composer, Kind, Snapshot},
        },
        recover::{Survey, View},
        store::Budget,
    };

    const META: Meta = Meta {
        shard_count: 1,
        routing: 0,
    };

    /// Files by name, and how many bytes of them were read.
    #[derive(Default)]
    struct Shelf {
        files: BTreeMap<FileName, Vec<u8>>,
        read: Cell<u64>,
    }

    impl Shelf {
        fn file(&self, name: &str) -> io::Result<&Vec<u8>> {
            let name = FileName::parse(name).ok_or(io::ErrorKind::NotFound)?;
            Ok(self.files.get(&name).ok_or(io::ErrorKind::NotFound)?)
        }
    }

    impl Files for Shelf {
        fn names(&self) -> io::Result<Vec<String>> {
            Ok(self.files.keys().map(FileName::to_string).collect())
        }

        fn len(&self, name: &str) -> io::Result<u64> {
            Ok(self.file(name)?.len() as u64)
        }

        fn read(&self, name: &str, at: u64, into: &mut [u8]) -> io::Result<usize> {
            let rest = self.file(name)?.get(at as usize..).unwrap_or_default();
            let len = rest.len().min(into.len());
            into[..len].copy_from_slice(&rest[..len]);
            self.read.set(self.read.get() + len as u64);
            Ok(len)
        }
    }

    /// A process that writes. Of its newest block less may be there than it has written.
    struct Writer {
        shelf: Shelf,
        stream: Stream,
        /// The newest number, and that of the segment that is written to.
        numbers: (u64, u64),
        count: u64,
        torn: Vec<u8>,
    }

    impl Writer {
        fn new(generation: u64) -> Self {
            let start = Position {
                generation,
                offset: 0,
            };
            let mut writer = Self {
                shelf: Shelf::default(),
                stream: Stream::new(0, start),
                numbers: (0, 0),
                count: 0,
                torn: Vec::new(),
            };
            writer.rotate(Position::UNKNOWN);
            writer
        }

        fn segment(&mut self) -> &mut Vec<u8> {
            let seq = self.numbers.1;
            let name = FileName::Segment { shard: 0, seq };
            self.shelf.files.entry(name).or_default()
        }

        fn rotate(&mut self, parent: Position) {
            self.mend();
            self.numbers = (self.numbers.0 + 1, self.numbers.0 + 1);
            let segment = Segment {
                seq: self.numbers.1,
                shard: 0,
                shard_count: 1,
                routing: 0,
                start: self.stream.position(),
                parent,
            };
            self.segment().extend(segment.compose());
        }

        /// Writes a block with so many frames, but for the last `torn` bytes.
        fn write(&mut self, frames: u64, torn: usize) {
            self.mend();
            for _ in 0..frames {
                self.count += 1;
                let (key, value) = (format!("key:{}", self.count % 50), self.count.to_string());
                let words = [&b"APPEND"[..], key.as_bytes(), value.as_bytes()];
                self.stream.frame(0, words.into_iter());
                self.stream.end_unit();
            }
            let mut block = self.stream.take_block().expect("some frames");
            block.seal(self.numbers.1, block.first());
            let mut bytes = block.bytes().to_vec();
            self.torn = bytes.split_off(bytes.len().saturating_sub(torn));
            self.segment().extend(bytes);
        }

        fn mend(&mut self) {
            let rest = std::mem::take(&mut self.torn);
            self.segment().extend(rest);
        }

        /// Another history begins with what there is.
        fn turn(&mut self, generation: u64) {
            let parent = self.stream.position();
            let start = Position {
                generation,
                ..parent
            };
            self.stream = Stream::new(0, start);
            self.rotate(parent);
        }

        /// A snapshot of all that was written, which makes older segments useless.
        fn snapshot(&mut self) {
            self.mend();
            let end = self.stream.position();
            let mut shard = Ahead::default().end(&self.shelf).0;
            shard.stream = Some(Box::new(Stream::new(0, end)));
            self.numbers.0 += 1;
            let header = Snapshot {
                seq: self.numbers.0,
                shard: 0,
                shard_count: 1,
                routing: 0,
                generation: end.generation,
                start: end.offset,
            };
            let mut bytes = Vec::new();
            let mut composer = Composer::new(&header, &mut bytes);
            shard.begin_walk(Walker::Disk);
            loop {
                let chunk = composer.open(&mut bytes);
                let all = Budget {
                    records: 100,
                    bytes: 1 << 20,
                };
                let slice = shard.walk_on(Walker::Disk, all, &mut bytes);
                let (database, count) = (slice.database as u32, slice.records as u32);
                composer.close(&mut bytes, chunk, Kind::Records, database, count);
                if slice.is_last {
                    break;
                }
            }
            composer.finish(&mut bytes, end.offset);
            let (shard, seq) = (0, self.numbers.1);
            let active = FileName::Segment { shard, seq };
            self.shelf.files.retain(|name, _| *name == active);
            let seq = self.numbers.0;
            self.shelf
                .files
                .insert(FileName::Snapshot { shard, seq }, bytes);
        }

        /// What is reserved behind the end and not written to.
        fn reserve(&mut self) -> usize {
            self.mend();
            let segment = self.segment();
            let len = segment.len();
            segment.resize(len + 5000, 0);
            len
        }
    }

    /// What was loaded before the writer ended.
    #[derive(Default)]
    struct Ahead {
        survey: Survey,
        filling: Option<Filling>,
    }

    impl Ahead {
        fn fill(&mut self, shelf: &Shelf, view: View) -> (Plan, bool) {
            let plan = self.survey.look(shelf, &META, view).unwrap().remove(0);
            if std::mem::take(&mut self.survey.is_other) {
                self.filling = None;
            }
            let fitting = self.filling.take().filter(|filling| filling.fits(&plan));
            let goes_on = fitting.is_some();
            let mut filling = fitting.unwrap_or_else(|| Filling::new(place()));
            filling.fill(shelf, &plan, &mut |_| ()).unwrap();
            self.filling = Some(filling);
            (plan, goes_on)
        }

        fn end(mut self, shelf: &Shelf) -> (Box<Shard>, Plan, bool) {
            let (plan, goes_on) = self.fill(shelf, View::Still);
            (self.filling.unwrap().finish(), plan, goes_on)
        }

        /// As much as a start without it; whether what was loaded before was of use.
        fn check(self, shelf: &Shelf) -> bool {
            let (mut shard, plan, goes_on) = self.end(shelf);
            let (mut other, fresh, _) = Ahead::default().end(shelf);
            assert_eq!(format!("{plan:?}"), format!("{fresh:?}"));
            assert_eq!(values(&mut shard), values(&mut other));
            goes_on
        }
    }

    fn values(shard: &mut Shard) -> Vec<Option<Vec<u8>>> {
        let keys = shard.database(0);
        let mut value = |key: u64| {
            let found = keys.string(format!("key:{key}").as_bytes(), 0);
            Some(found.ok()??.as_bytes().to_vec())
        };
        (0..50).map(&mut value).collect()
    }

    fn place() -> Place {
        Place {
            shard: 0,
            shards: 1,
            databases: 1,
            routing: Routing::KevyHash,
            seed: 7,
        }
    }

    #[test]
    fn what_was_loaded_before_and_the_rest_are_all_whatever_the_writer_did_meanwhile() {
        let (mut useful, mut useless) = (0, 0);
        for seed in 0..300 {
            let mut rng = Rng::seeded(seed);
            let mut writer = Writer::new(3);
            let mut ahead = Ahead::default();
            let looks = 1 + rng.below(4);
            for at in 0..rng.below(60) {
                match rng.below(20) {
                    0 => writer.rotate(writer.stream.position()),
                    1 => writer.snapshot(),
                    2 if rng.below(4) == 0 => writer.turn(10 + at),
                    _ => writer.write(1 + rng.below(5), rng.below(200) as usize),
                }
                if rng.below(20) < looks {
                    ahead.fill(&writer.shelf, View::Live);
                }
            }
            writer.mend();
            match ahead.check(&writer.shelf) {
                true => useful += 1,
                false => useless += 1,
            }
        }
        assert!(useful > 100 && useless > 20, "{useful} {useless}");
    }

    #[test]
    fn only_the_rest_is_read() {
        let mut writer = Writer::new(3);
        writer.write(2000, 0);
        let mut ahead = Ahead::default();
        ahead.fill(&writer.shelf, View::Live);
        writer.write(10, 0);
        writer.shelf.read.set(0);
        ahead.fill(&writer.shelf, View::Live);
        let read = writer.shelf.read.get();
        assert!(read < 3000, "{read}");
        assert!(ahead.check(&writer.shelf));
    }

    #[test]
    fn a_torn_end_is_no_damage_and_may_be_completed() {
        for torn in 1..300 {
            let mut writer = Writer::new(3);
            writer.write(5, 0);
            writer.write(3, torn);
            let mut ahead = Ahead::default();
            let (plan, _) = ahead.fill(&writer.shelf, View::Live);
            assert_eq!(plan.end.offset, 5);
            writer.mend();
            writer.write(1, 0);
            assert!(ahead.check(&writer.shelf));
        }
    }

    #[test]
    fn room_that_was_reserved_may_be_given_back_or_used() {
        let mut writer = Writer::new(3);
        writer.write(5, 0);
        let len = writer.reserve();
        let mut ahead = Ahead::default();
        ahead.fill(&writer.shelf, View::Live);
        writer.segment().truncate(len);
        ahead.fill(&writer.shelf, View::Live);
        writer.write(5, 0);
        assert!(ahead.check(&writer.shelf));
    }

    #[test]
    fn under_a_newer_snapshot_it_goes_on_where_it_was() {
        let mut writer = Writer::new(3);
        writer.write(5, 0);
        let mut ahead = Ahead::default();
        ahead.fill(&writer.shelf, View::Live);
        writer.snapshot();
        writer.write(5, 0);
        ahead.fill(&writer.shelf, View::Live);
        writer.write(5, 0);
        assert!(ahead.check(&writer.shelf));
        // What lies between is gone.
        let mut behind = Ahead::default();
        behind.fill(&writer.shelf, View::Live);
        writer.write(5, 0);
        writer.snapshot();
        assert!(!behind.check(&writer.shelf));
    }

    #[test]
    fn another_directory_is_loaded_from_its_beginning() {
        let mut ahead = Ahead::default();
        let mut writer = Writer::new(3);
        writer.write(5, 0);
        ahead.fill(&writer.shelf, View::Live);
        // Of the same names and lengths.
        let mut other = Writer::new(4);
        other.count = 1000;
        other.write(5, 0);
        assert!(!ahead.check(&other.shelf));
        // Of the same history, as far as headers say.
        let mut ahead = Ahead::default();
        ahead.fill(&writer.shelf, View::Live);
        let mut other = Writer::new(3);
        other.count = 1000;
        other.write(5, 0);
        other.write(5, 0);
        assert!(!ahead.check(&other.shelf));
        // And one that lacks something.
        let mut ahead = Ahead::default();
        ahead.fill(&writer.shelf, View::Live);
        let mut other = Writer::new(3);
        other.write(3, 0);
        assert!(!ahead.check(&other.shelf));
    }
}
