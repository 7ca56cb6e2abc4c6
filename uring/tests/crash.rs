//! What a loss of power, or a disk with faults, leaves behind in the in-memory twin.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use uring::fake::{DiskFaults, FakeReactor, FakeWorld, Faults, Machine};
use uring::{Event, FileId, OpenHow, Reactor, Wait};

const HERE: Machine = Machine(1);

const CREATE: OpenHow = OpenHow {
    create: true,
    truncate: false,
    exclusive: false,
    direct: false,
};

type Outcome = Result<(), i32>;

/// A process on the machine, and the machine.
struct Host {
    world: FakeWorld,
    reactor: FakeReactor,
}

impl Host {
    fn seeded(seed: u64) -> Host {
        let world = FakeWorld::seeded(seed);
        let reactor = world.reactor(HERE);
        Host { world, reactor }
    }

    /// Loss of power, and a new start.
    fn crash(&mut self) {
        self.world.crash(HERE);
        assert!(self.reactor.turn(Wait::Look, &mut Vec::new()).is_err());
        self.reactor = self.world.reactor(HERE);
    }

    /// The end of the only request in flight.
    fn outcome(&mut self) -> Outcome {
        let mut events = Vec::new();
        while events.is_empty() {
            self.reactor.turn(Wait::Event, &mut events).unwrap();
        }
        match &events[..] {
            [
                Event::Written { result, .. }
                | Event::Synced { result, .. }
                | Event::Done { result, .. },
            ] => *result,
            other => panic!("one end of one request: {other:?}"),
        }
    }

    fn open(&mut self, path: &str) -> FileId {
        self.reactor.open(Path::new(path), CREATE).unwrap()
    }

    fn write(&mut self, file: FileId, bytes: &[u8], offset: u64) -> Outcome {
        self.reactor
            .write(file, Bytes::copy_from_slice(bytes), offset, 0);
        self.outcome()
    }

    fn write_durable(&mut self, file: FileId, bytes: &[u8], offset: u64) -> Outcome {
        self.reactor
            .write_durable(file, Bytes::copy_from_slice(bytes), offset, 0);
        self.outcome()
    }

    fn sync(&mut self, file: FileId) -> Outcome {
        self.reactor.sync(file, 0);
        self.outcome()
    }

    fn sync_folder(&mut self, path: &str) -> Outcome {
        let folder = self.reactor.open_dir(Path::new(path)).unwrap();
        let outcome = self.sync(folder);
        self.reactor.close_file(folder);
        outcome
    }

    fn reserve(&mut self, file: FileId, len: u64) -> Outcome {
        self.reactor.reserve(file, len, 0);
        self.outcome()
    }

    fn rename(&mut self, from: &str, to: &str) -> Outcome {
        self.reactor.rename(Path::new(from), Path::new(to), 0);
        self.outcome()
    }

    fn remove(&mut self, path: &str) -> Outcome {
        self.reactor.remove(Path::new(path), 0);
        self.outcome()
    }

    fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.world.read_file(HERE, Path::new(path))
    }
}

#[test]
fn what_was_synced_stays_and_the_rest_stays_goes_or_tears() {
    let [mut kept, mut lost, mut torn] = [0; 3];
    for seed in 0..100 {
        let mut host = Host::seeded(seed);
        let file = host.open("/d/a");
        host.sync_folder("/d").unwrap();
        host.write(file, b"synced", 0).unwrap();
        host.sync(file).unwrap();
        host.write(file, b" not synced", 6).unwrap();
        let all = b"synced not synced";
        assert_eq!(host.read("/d/a").unwrap(), all);
        host.crash();
        let left = host.read("/d/a").unwrap();
        assert!(left.starts_with(b"synced") && left.len() <= all.len());
        assert!(left.iter().zip(all).all(|(is, was)| is == was || *is == 0));
        match left.len() {
            6 => lost += 1,
            17 if left == all => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(kept > 0 && lost > 0 && torn > 0, "{kept} {lost} {torn}");
}

#[test]
fn a_name_lasts_from_the_sync_of_its_folder_on() {
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let mut host = Host::seeded(seed);
        for name in ["/d/old", "/d/gone"] {
            let file = host.open(name);
            host.write_durable(file, name.as_bytes(), 0).unwrap();
        }
        host.sync_folder("/d").unwrap();
        let file = host.open("/d/new");
        host.write_durable(file, b"/d/new", 0).unwrap();
        host.rename("/d/old", "/d/renamed").unwrap();
        host.remove("/d/gone").unwrap();
        if seed % 2 == 0 {
            // Says nothing about names elsewhere.
            host.sync_folder("/e").unwrap();
            host.crash();
            let is_there = |path: &str| host.read(path).is_some();
            assert_ne!(
                is_there("/d/old"),
                is_there("/d/renamed"),
                "a rename is whole"
            );
            seen.insert([is_there("/d/new"), is_there("/d/old"), is_there("/d/gone")]);
        } else {
            host.sync_folder("/d").unwrap();
            host.crash();
            assert_eq!(
                host.world.files(HERE),
                ["/d/new", "/d/renamed"].map(PathBuf::from)
            );
            assert_eq!(host.read("/d/renamed").unwrap(), b"/d/old");
        }
    }
    assert_eq!(seen.len(), 8, "every mixture comes up");
}

#[test]
fn a_rename_between_folders_lasts_from_the_sync_of_either_on() {
    for seed in 0..50 {
        let mut host = Host::seeded(seed);
        for path in ["/d/a", "/e/b"] {
            host.world
                .write_file(HERE, Path::new(path), path.as_bytes());
        }
        host.rename("/d/a", "/d/c").unwrap();
        host.rename("/e/b", "/d/c").unwrap();
        host.sync_folder("/e").unwrap();
        host.crash();
        // Whatever became of the first rename, the second came after it.
        assert_eq!(host.read("/d/c").unwrap(), b"/e/b");
        assert_eq!(host.read("/e/b"), None);
    }
}

#[test]
fn a_failed_sync_may_lose_what_it_should_have_covered_for_good() {
    let [mut kept, mut lost] = [0; 2];
    for seed in 0..100 {
        let mut host = Host::seeded(seed);
        let file = host.open("/d/a");
        host.sync_folder("/d").unwrap();
        host.write(file, b"doubtful", 0).unwrap();
        host.world.fail_syncs(HERE, 1);
        assert_eq!(host.sync(file), Err(libc::EIO));
        assert_eq!(
            host.read("/d/a").unwrap(),
            b"doubtful",
            "readers see it still"
        );
        host.write(file, b"sure", 8).unwrap();
        host.sync(file).unwrap();
        host.crash();
        let left = host.read("/d/a").unwrap();
        assert_eq!(&left[8..], b"sure");
        kept += usize::from(&left[..8] == b"doubtful");
        lost += usize::from(left[..8] == [0; 8]);
    }
    assert!(kept > 0 && lost > 0, "{kept} {lost}");
}

#[test]
fn a_durable_write_takes_the_length_with_it_and_no_other_write() {
    let mut lost = 0;
    for seed in 0..50 {
        let mut host = Host::seeded(seed);
        host.world
            .write_file(HERE, Path::new("/d/a"), b"what was there before");
        let how = OpenHow {
            truncate: true,
            ..CREATE
        };
        let file = host.reactor.open(Path::new("/d/a"), how).unwrap();
        host.reserve(file, 16).unwrap();
        host.write(file, b"other", 2).unwrap();
        host.write_durable(file, b"sure", 4).unwrap();
        host.crash();
        let left = host.read("/d/a").unwrap();
        assert_eq!(left.len(), 16, "{left:?}");
        assert_eq!((&left[..2], &left[4..8]), (&[0; 2][..], &b"sure"[..]));
        assert_eq!(left[8..], [0; 8]);
        lost += usize::from(&left[2..4] != b"ot");
        // One that fails comes back with its memory, and says nothing of what is there.
        let file = host.open("/d/a");
        host.world.fail_syncs(HERE, 1);
        assert_eq!(host.write_durable(file, b"fail", 4), Err(libc::EIO));
        host.write_durable(file, b"!", 0).unwrap();
        host.crash();
        let left = host.read("/d/a").unwrap();
        let may_be = left[4..8].iter().zip(b"sure".iter().zip(b"fail"));
        assert!(
            may_be
                .clone()
                .all(|(is, (old, new))| is == old || is == new)
        );
        assert_eq!(left[0], b'!');
    }
    assert!(lost > 0);
}

#[test]
fn a_full_disk_takes_what_fits_and_lets_old_bytes_change() {
    let mut host = Host::seeded(1);
    let limits = DiskFaults {
        capacity: Some(10),
        ..DiskFaults::default()
    };
    host.world.set_disk(HERE, limits);
    let (a, b) = (host.open("/d/a"), host.open("/d/b"));
    host.write(a, b"123456", 0).unwrap();
    assert_eq!(host.reserve(b, 5), Err(libc::ENOSPC));
    assert_eq!(host.read("/d/b").unwrap(), b"");
    host.reserve(b, 2).unwrap();
    assert_eq!(host.write_durable(b, b"abcdef", 0), Err(libc::ENOSPC));
    assert_eq!(host.read("/d/b").unwrap(), b"abcd");
    assert_eq!(host.write(b, b"far", 100), Err(libc::ENOSPC));
    host.write_durable(a, b"654321", 0).unwrap();
    host.sync(b).unwrap();
    host.reactor.close_file(a);
    host.remove("/d/a").unwrap();
    host.sync_folder("/d").unwrap();
    host.write_durable(b, b"ABCDEFGHIJ", 0).unwrap();
    assert_eq!(host.read("/d/b").unwrap(), b"ABCDEFGHIJ");
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let mut host = Host::seeded(1);
    let a = host.open("/d/a");
    host.write_durable(a, b"before", 0).unwrap();
    let mut faults = host.world.disk(HERE);
    faults.is_read_only = true;
    host.world.set_disk(HERE, faults);
    let refused = Err(libc::EROFS);
    assert_eq!(host.write(a, b"after", 0), refused);
    assert_eq!(host.write_durable(a, b"after", 0), refused);
    assert_eq!(host.reserve(a, 100), refused);
    assert_eq!(host.rename("/d/a", "/d/b"), refused);
    assert_eq!(host.remove("/d/a"), refused);
    assert_eq!(host.sync(a), refused);
    for path in ["/d/a", "/d/b"] {
        let error = host.reactor.open(Path::new(path), CREATE).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    }
    assert_eq!(host.rename("/d/b", "/d/a"), Err(libc::ENOENT));
    assert_eq!(host.read("/d/a").unwrap(), b"before");
    host.world.set_disk(HERE, DiskFaults::default());
    host.write(a, b"AFTER", 0).unwrap();
    assert_eq!(host.read("/d/a").unwrap(), b"AFTERe");
}

#[test]
fn faults_of_one_machine_are_its_own() {
    let mut host = Host::seeded(1);
    let faults = DiskFaults {
        failing_writes: 2,
        failing_syncs: 1,
        reserves_nothing: true,
        span: Some((3_000_000_000, 4_000_000_000)),
        ..DiskFaults::default()
    };
    host.world.set_disk(HERE, faults);
    let mut other = host.world.reactor(Machine(2));
    let file = host.open("/d/a");
    let far = other.open(Path::new("/d/a"), CREATE).unwrap();
    other.write(far, Bytes::from_static(b"fine"), 0, 0);
    host.world.advance(1_000_000);
    // Time would not pass it by.
    drop(other);
    let start = host.world.now();
    host.reserve(file, 1 << 20).unwrap();
    assert!(
        host.world.now() >= start + 3_000_000_000,
        "it is a slow disk"
    );
    assert_eq!(host.read("/d/a").unwrap(), b"");
    assert_eq!(host.write(file, b"one", 0), Err(libc::EIO));
    assert_eq!(host.write_durable(file, b"two", 0), Err(libc::EIO));
    assert_eq!(host.write_durable(file, b"three", 0), Err(libc::EIO));
    host.write_durable(file, b"four!", 0).unwrap();
    assert_eq!(host.read("/d/a").unwrap(), b"four!");
    let far = host.world.read_file(Machine(2), Path::new("/d/a"));
    assert_eq!(far.unwrap(), b"fine");
}

#[test]
fn drawn_faults_all_come_up() {
    let mut host = Host::seeded(7);
    host.world.set_faults(Faults {
        write_fails_per_million: 100_000,
        disk_full_per_million: 100_000,
        sync_fails_per_million: 100_000,
        name_fails_per_million: 100_000,
        disk_stalls_per_million: 100_000,
        ..Faults::default()
    });
    let file = host.open("/d/a");
    let mut seen = BTreeSet::new();
    let mut stalls = 0;
    for _ in 0..200 {
        let start = host.world.now();
        seen.insert(("write", host.write(file, b"x", 0)));
        seen.insert(("durable", host.write_durable(file, b"x", 0)));
        seen.insert(("sync", host.sync(file)));
        seen.insert(("rename", host.rename("/d/a", "/d/b")));
        seen.insert(("rename", host.rename("/d/b", "/d/a")));
        stalls += usize::from(host.world.now() > start + 10_000_000);
    }
    let expected = BTreeSet::from([
        ("write", Ok(())),
        ("write", Err(libc::EIO)),
        ("write", Err(libc::ENOSPC)),
        ("durable", Ok(())),
        ("durable", Err(libc::EIO)),
        ("durable", Err(libc::ENOSPC)),
        ("sync", Ok(())),
        ("sync", Err(libc::EIO)),
        ("rename", Ok(())),
        ("rename", Err(libc::EIO)),
        ("rename", Err(libc::ENOENT)),
    ]);
    assert_eq!(seen, expected);
    assert!(stalls > 10);
}

/// What may be found after a crash, worked out from the ends of requests alone.
#[derive(Default)]
struct Model {
    files: Vec<FileModel>,
    names: BTreeMap<PathBuf, usize>,
    /// Who may have a name after a crash.
    holders: BTreeMap<PathBuf, BTreeSet<Option<usize>>>,
    /// Changes of names that no sync covered.
    changes: Vec<[PathBuf; 2]>,
    /// Names that a failed sync left in doubt for good.
    in_doubt: BTreeSet<PathBuf>,
}

struct FileModel {
    open: FileId,
    bytes: Vec<ByteModel>,
    /// A crash leaves at least this length.
    len_min: usize,
    /// A crash leaves it under some name.
    must_be: bool,
}

#[derive(Clone)]
struct ByteModel {
    may_be: Vec<u8>,
    /// The sync that should have covered its last value failed.
    in_doubt: bool,
}

impl FileModel {
    fn extend(&mut self, len: usize) {
        let zero = ByteModel {
            may_be: vec![0],
            in_doubt: false,
        };
        self.bytes.resize(self.bytes.len().max(len), zero);
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.extend(offset + bytes.len());
        for (place, byte) in self.bytes[offset..].iter_mut().zip(bytes) {
            place.may_be.push(*byte);
            place.in_doubt = false;
        }
    }

    fn settle(&mut self, from: usize, to: usize) {
        for (at, place) in self.bytes.iter_mut().enumerate().take(to).skip(from) {
            if !place.in_doubt {
                place.may_be.drain(..place.may_be.len() - 1);
                self.len_min = self.len_min.max(at + 1);
            }
        }
    }

    fn doubt(&mut self, from: usize, to: usize) {
        let len_min = self.len_min;
        for (at, place) in self.bytes.iter_mut().enumerate().take(to).skip(from) {
            place.in_doubt |= place.may_be.len() > 1 || at >= len_min;
        }
    }
}

impl Model {
    /// Notes a name made, changed or removed.
    fn change(&mut self, file: usize, from: &Path, to: Option<&Path>) {
        let to = to.unwrap_or(from);
        if self.names.get(from) == Some(&file) {
            self.names.remove(from);
            self.holders.get_mut(from).unwrap().insert(None);
            self.files[file].must_be &= from != to;
        }
        if from != to || !self.holders[to].contains(&Some(file)) {
            self.names.insert(to.to_path_buf(), file);
            let holders = self.holders.get_mut(to).unwrap();
            for holder in holders.iter().flatten().filter(|holder| **holder != file) {
                self.files[*holder].must_be = false;
            }
            holders.insert(Some(file));
        }
        self.changes.push([from.to_path_buf(), to.to_path_buf()]);
    }

    fn on_folder_sync(&mut self, folder: &Path, outcome: Outcome) {
        let is_in = |path: &PathBuf| path.parent() == Some(folder);
        if outcome.is_err() {
            // Those of other folders may be what these build on.
            for path in std::mem::take(&mut self.changes).into_iter().flatten() {
                for file in self.holders[&path].iter().flatten() {
                    self.files[*file].must_be = false;
                }
                self.in_doubt.insert(path);
            }
            return;
        }
        self.changes.retain(|paths| !paths.iter().any(is_in));
        for (path, holders) in self.holders.iter_mut().filter(|(path, _)| is_in(path)) {
            if !self.in_doubt.contains(path) {
                let holder = self.names.get(path).copied();
                *holders = BTreeSet::from([holder]);
                if let Some(holder) = holder {
                    self.files[holder].must_be = true;
                }
            }
        }
    }
}

const PATHS: [&str; 5] = ["/d/a", "/d/b", "/d/c", "/e/a", "/e/b"];
const TAG: usize = 2;

/// Any history of requests, and three crashes in it: what a sync covered is there, nothing is there that
/// was never written, and no file is lost or doubled by a rename.
#[test]
fn after_any_history_a_crash_leaves_what_the_model_allows() {
    for seed in 0..2_000 {
        let mut host = Host::seeded(seed);
        for _ in 0..3 {
            let mut model = start(&mut host);
            for _ in 0..host.world.random(40) {
                step(&mut host, &mut model);
            }
            let in_flight = host.world.random(4);
            for _ in 0..in_flight {
                start_some(&mut host, &mut model);
            }
            host.crash();
            check(&host, &model, seed);
        }
    }
}

/// What is there after a start is durable.
fn start(host: &mut Host) -> Model {
    let mut model = Model::default();
    for path in PATHS.map(PathBuf::from) {
        let found = host.world.read_file(HERE, &path);
        let holder = found.map(|bytes| {
            let open = host.reactor.open(&path, OpenHow::default()).unwrap();
            let mut file = FileModel {
                open,
                bytes: Vec::new(),
                len_min: 0,
                must_be: true,
            };
            file.write(0, &bytes);
            // The tag is the file's place in the model, so that it is known again.
            let tag = [model.files.len() as u8 + 1; TAG];
            host.write_durable(open, &tag, 0).unwrap();
            file.write(0, &tag);
            file.settle(0, bytes.len());
            model.files.push(file);
            model.files.len() - 1
        });
        if let Some(holder) = holder {
            model.names.insert(path.clone(), holder);
        }
        model.holders.insert(path, BTreeSet::from([holder]));
    }
    model
}

fn step(host: &mut Host, model: &mut Model) {
    let pick = |host: &Host, bound: usize| host.world.random(bound as u64) as usize;
    let path = PathBuf::from(PATHS[pick(host, PATHS.len())]);
    let fails = pick(host, 10) == 0;
    let action = pick(host, 9);
    if action == 0 && !model.names.contains_key(&path) {
        let open = host.reactor.open(&path, CREATE).unwrap();
        let number = model.files.len();
        model.files.push(FileModel {
            open,
            bytes: Vec::new(),
            len_min: 0,
            must_be: false,
        });
        model.change(number, &path, None);
        let tag = [number as u8 + 1; TAG];
        host.write_durable(open, &tag, 0).unwrap();
        model.files[number].write(0, &tag);
        model.files[number].settle(0, TAG);
        return;
    }
    if action == 1 {
        let folder = path.parent().unwrap();
        host.world.fail_syncs(HERE, u32::from(fails));
        let outcome = host.sync_folder(folder.to_str().unwrap());
        assert_eq!(outcome.is_err(), fails);
        model.on_folder_sync(folder, outcome);
        return;
    }
    let Some(number) = model.names.get(&path).copied() else {
        return;
    };
    let open = model.files[number].open;
    let offset = TAG + pick(host, 60);
    let bytes: Vec<u8> = (0..1 + pick(host, 40))
        .map(|_| pick(host, 256) as u8)
        .collect();
    let end = offset + bytes.len();
    match action {
        2 | 3 => {
            host.write(open, &bytes, offset as u64).unwrap();
            model.files[number].write(offset, &bytes);
        }
        4 => {
            host.world.fail_syncs(HERE, u32::from(fails));
            let outcome = host.write_durable(open, &bytes, offset as u64);
            assert_eq!(outcome.is_err(), fails);
            let file = &mut model.files[number];
            let len = file.bytes.len();
            file.write(offset, &bytes);
            if fails {
                file.doubt(offset, end);
                // Lengths that were still to be made durable as well.
                let len_min = file.len_min;
                file.doubt(len_min, len.max(end));
            } else {
                file.settle(offset, end);
            }
        }
        5 => {
            host.world.fail_syncs(HERE, u32::from(fails));
            let outcome = host.sync(open);
            assert_eq!(outcome.is_err(), fails);
            let file = &mut model.files[number];
            let len = file.bytes.len();
            match outcome {
                Ok(()) => file.settle(0, len),
                Err(_) => file.doubt(0, len),
            }
        }
        6 => {
            host.reserve(open, end as u64).unwrap();
            model.files[number].extend(end);
        }
        7 => {
            let to = PathBuf::from(PATHS[pick(host, PATHS.len())]);
            host.rename(path.to_str().unwrap(), to.to_str().unwrap())
                .unwrap();
            if to != path {
                model.change(number, &path, Some(&to));
            }
        }
        _ => {
            host.remove(path.to_str().unwrap()).unwrap();
            model.change(number, &path, None);
        }
    }
}

/// Requests whose ends nobody will see.
fn start_some(host: &mut Host, model: &mut Model) {
    let path = PathBuf::from(PATHS[host.world.random(PATHS.len() as u64) as usize]);
    let Some(number) = model.names.get(&path).copied() else {
        return;
    };
    let open = model.files[number].open;
    let bytes = vec![host.world.random(256) as u8; 1 + host.world.random(30) as usize];
    let offset = TAG + host.world.random(60) as usize;
    match host.world.random(3) {
        0 => {
            model.files[number].write(offset, &bytes);
            host.reactor.write(open, bytes.into(), offset as u64, 0);
        }
        1 => {
            model.files[number].write(offset, &bytes);
            host.reactor
                .write_durable(open, bytes.into(), offset as u64, 0);
        }
        _ => {
            host.reactor.remove(&path, 0);
            model.change(number, &path, None);
        }
    }
}

fn check(host: &Host, model: &Model, seed: u64) {
    let mut found = BTreeSet::new();
    for (path, holders) in &model.holders {
        let bytes = host.world.read_file(HERE, path);
        let holder = bytes.as_ref().map(|bytes| bytes[0] as usize - 1);
        let at = format!("seed {seed}, {}", path.display());
        assert!(holders.contains(&holder), "{at}: {holder:?} of {holders:?}");
        let (Some(bytes), Some(holder)) = (bytes, holder) else {
            continue;
        };
        assert!(found.insert(holder), "{at}: file {holder} has two names");
        let file = &model.files[holder];
        let lens = file.len_min..=file.bytes.len();
        assert!(
            lens.contains(&bytes.len()),
            "{at}: length {} of {lens:?}",
            bytes.len()
        );
        for (place, (byte, model)) in bytes.iter().zip(&file.bytes).enumerate() {
            let may_be = &model.may_be;
            assert!(
                may_be.contains(byte),
                "{at}: byte {place} is {byte}, not of {may_be:?}"
            );
        }
    }
    for (number, file) in model.files.iter().enumerate() {
        assert!(
            !file.must_be || found.contains(&number),
            "seed {seed}: file {number} is lost"
        );
    }
}
