//! The frozen files of `tests/golden/journal/`: they are composed again byte for byte, read, cut anywhere and
//! flipped everywhere. A difference here is a change of the format on disk.

use std::{fs, path::PathBuf};

use ringkeep::journal::{
    Position, Stream,
    bundle::Bundle,
    frame::compose,
    meta::Meta,
    scan::{Scan, ScanEnd, Tail},
    segment::{HeaderFault, SEGMENT_HEADER_LEN, Segment},
    snapshot::{
        CHUNK_HEADER_LEN, Chunk, Composer, FOOTER_LEN, Kind, Reader, SNAPSHOT_HEADER_LEN, Snapshot,
        SnapshotFault, SnapshotReason, Summary,
    },
};

const START: Position = Position {
    generation: 0x1122_3344,
    offset: 97,
};

const SEGMENT: Segment = Segment {
    seq: 0x0a0b,
    shard: 1,
    shard_count: 2,
    routing: 0,
    start: START,
    parent: Position {
        generation: 0x1122_3300,
        offset: 12,
    },
};

/// Blocks of the frozen segment: where they begin, and where the torn one does.
struct Composed {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

/// An ordinary block of two units, a shared one, one that changes the database, one of database 3, then the
/// torn beginning of another, and zeros.
fn segment() -> Composed {
    let mut stream = Stream::new(SEGMENT.shard, START);
    let mut composed = Composed {
        bytes: SEGMENT.compose().to_vec(),
        places: Vec::new(),
    };
    let mut durable = START.offset;
    let frame = |stream: &mut Stream, database, line: &str| {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        stream.frame(database, args.into_iter());
    };
    let mut write = |stream: &mut Stream, composed: &mut Composed| {
        let mut block = stream.take_block().expect("a unit has ended");
        block.seal(SEGMENT.seq, durable);
        durable = block.end();
        composed.places.push(composed.bytes.len());
        composed.bytes.extend_from_slice(block.bytes());
    };
    frame(&mut stream, 0, "SET key value");
    stream.end_unit();
    frame(&mut stream, 0, "SET counter 1");
    frame(&mut stream, 0, "PEXPIREAT counter 4000000000000");
    stream.end_unit();
    write(&mut stream, &mut composed);
    frame(&mut stream, 0, "DEL key");
    let first = stream.unit_first().expect("it is open");
    stream.end_shared_unit(&[(0, 5000), (1, first)]);
    write(&mut stream, &mut composed);
    frame(&mut stream, 3, "RPUSH list a bb ccc");
    stream.end_unit();
    write(&mut stream, &mut composed);
    frame(&mut stream, 3, "LPOP list 2");
    stream.end_unit();
    write(&mut stream, &mut composed);
    frame(&mut stream, 3, "SET never confirmed");
    stream.end_unit();
    write(&mut stream, &mut composed);
    composed.bytes.truncate(composed.bytes.len() - 10);
    composed.bytes.resize(composed.bytes.len() + 100, 0);
    composed
}

const SNAPSHOT: Snapshot = Snapshot {
    seq: 7,
    shard: 1,
    shard_count: 2,
    routing: 0,
    generation: 0x1122_3344,
    start: 90,
};

/// Two strings, one with a deadline; two frames of database 0; a set of database 3; the footer.
fn snapshot() -> Vec<u8> {
    let mut out = Vec::new();
    let mut composer = Composer::new(&SNAPSHOT, &mut out);
    let chunk = composer.open(&mut out);
    out.extend_from_slice(b"\x01\0\x03\0\0\0key\x05\0\0\0value");
    out.extend_from_slice(b"\x01\x01\0\x40\x94\x52\xa3\x03\0\0\x07\0\0\0counter\x01\0\0\x001");
    composer.close(&mut out, chunk, Kind::Records, 0, 2);
    let chunk = composer.open(&mut out);
    compose(&mut out, 93, [b"DEL".as_slice(), b"key"].into_iter());
    compose(&mut out, 96, [b"INCR".as_slice(), b"counter"].into_iter());
    composer.close(&mut out, chunk, Kind::Frames, 0, 2);
    let chunk = composer.open(&mut out);
    out.extend_from_slice(b"\x04\0\x01\0\0\0s\x02\0\0\0\x01\0\0\0a\x01\0\0\0b");
    composer.close(&mut out, chunk, Kind::Records, 3, 1);
    composer.finish(&mut out, 97);
    out
}

const META: Meta = Meta {
    shard_count: 2,
    routing: 1,
};

fn bundle() -> Bundle {
    Bundle {
        seq: 0x0c0d,
        snapshots: vec![(0, 5), (1, 7)],
    }
}

/// What a segment is found to hold, and how it ends.
fn scanned(bytes: &[u8], piece: usize) -> Result<(Vec<String>, ScanEnd), HeaderFault> {
    let mut scan = Scan::default();
    let mut found = Vec::new();
    for piece in bytes.chunks(piece) {
        scan.feed(piece);
        while let Some(mut block) = scan.next()? {
            let parts: Vec<(u32, u64)> = block.participants().collect();
            if !parts.is_empty() {
                found.push(format!("{parts:?}"));
            }
            let mut frames = block.frames();
            while let Some(frame) = frames.next().expect("what has good sums has good frames") {
                let words: Vec<_> = frame.args.iter().map(String::from_utf8_lossy).collect();
                found.push(format!(
                    "{}/{} {}",
                    frame.offset,
                    frame.database,
                    words.join(" ")
                ));
            }
        }
    }
    Ok((found, scan.finish()?))
}

/// What a snapshot is found to hold.
fn read(bytes: &[u8], piece: usize) -> Result<(Vec<String>, Summary), SnapshotFault> {
    let mut reader = Reader::default();
    let mut found = Vec::new();
    for piece in bytes.chunks(piece) {
        reader.feed(piece);
        while let Some(chunk) = reader.next()? {
            match chunk {
                Chunk::Records {
                    database,
                    count,
                    body,
                } => found.push(format!("{count} of {database}: {}", body.escape_ascii())),
                Chunk::Frames(mut frames) => {
                    while let Some(frame) = frames.next().expect("good frames") {
                        let words: Vec<_> =
                            frame.args.iter().map(String::from_utf8_lossy).collect();
                        found.push(format!(
                            "{}/{} {}",
                            frame.offset,
                            frame.database,
                            words.join(" ")
                        ));
                    }
                }
            }
        }
    }
    Ok((found, reader.finish()?))
}

const SEGMENT_SAYS: [&str; 7] = [
    "97/0 SET key value",
    "98/0 SET counter 1",
    "99/0 PEXPIREAT counter 4000000000000",
    "[(0, 5000), (1, 100)]",
    "100/0 DEL key",
    // 101 is the SELECT.
    "102/3 RPUSH list a bb ccc",
    "103/3 LPOP list 2",
];

#[test]
fn the_frozen_files_are_composed_again() {
    for (name, composed) in [
        ("journal-1-0000000000000a0b.rkj", segment().bytes),
        ("snapshot-1-0000000000000007.rks", snapshot()),
        ("ringkeep.meta", META.compose().to_vec()),
        ("bundle-0000000000000c0d.rkb", bundle().compose()),
    ] {
        assert_eq!(frozen(name), composed, "{name}");
    }
}

#[test]
fn the_frozen_segment_is_read_to_its_torn_tail() {
    let bytes = frozen("journal-1-0000000000000a0b.rkj");
    assert_eq!(Segment::read(&bytes), Ok(SEGMENT));
    let (found, end) = scanned(&bytes, 4096).expect("a good header");
    assert_eq!(found, SEGMENT_SAYS);
    assert_eq!((end.next, end.at), (104, segment().places[4] as u64));
    assert!(matches!(end.tail, Tail::Torn(_)), "{end:?}");
}

#[test]
fn the_frozen_snapshot_is_read_to_its_footer() {
    let bytes = frozen("snapshot-1-0000000000000007.rks");
    let (found, summary) = read(&bytes, 4096).expect("a good file");
    assert_eq!(
        found,
        [
            concat!(
                r"2 of 0: \x01\x00\x03\x00\x00\x00key\x05\x00\x00\x00value",
                r"\x01\x01\x00@\x94R\xa3\x03\x00\x00\x07\x00\x00\x00counter\x01\x00\x00\x001"
            ),
            "93/0 DEL key",
            "96/0 INCR counter",
            r"1 of 3: \x04\x00\x01\x00\x00\x00s\x02\x00\x00\x00\x01\x00\x00\x00a\x01\x00\x00\x00b",
        ]
    );
    let wanted = Summary {
        end: 97,
        record_count: 3,
        frame_count: 2,
        chunk_count: 3,
        file_len: bytes.len() as u64,
    };
    assert_eq!(summary, wanted);
    let tail = &bytes[bytes.len() - FOOTER_LEN..];
    assert_eq!(Summary::read(tail, bytes.len() as u64), Ok(wanted));
}

#[test]
fn the_frozen_meta_is_read_and_refused_when_it_is_spoiled() {
    let bytes = frozen("ringkeep.meta");
    assert_eq!(Meta::read(&bytes), Ok(META));
    for at in 0..bytes.len() {
        assert_eq!(Meta::read(&bytes[..at]), Err(HeaderFault::Cut));
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            assert!(Meta::read(&bad).is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn the_frozen_bundle_is_read_and_refused_when_it_is_spoiled() {
    let bytes = frozen("bundle-0000000000000c0d.rkb");
    assert_eq!(Bundle::read(&bytes), Ok(bundle()));
    for at in 0..bytes.len() {
        assert_eq!(Bundle::read(&bytes[..at]), Err(HeaderFault::Cut));
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            assert!(Bundle::read(&bad).is_err(), "bit {bit} of byte {at}");
        }
    }
}

/// What a segment cut at `at` says: the whole blocks before the cut.
fn lines_before(places: &[usize], at: usize) -> usize {
    let lines = [0, 3, 5, 6, 7];
    let whole = places[1..].iter().filter(|place| **place <= at).count();
    lines[whole]
}

#[test]
fn a_segment_cut_anywhere_says_what_stands_before_the_cut() {
    let bytes = frozen("journal-1-0000000000000a0b.rkj");
    let places = segment().places;
    for at in 0..bytes.len() {
        let result = scanned(&bytes[..at], 61);
        if at < SEGMENT_HEADER_LEN {
            assert_eq!(result, Err(HeaderFault::Cut));
            continue;
        }
        let (found, end) = result.expect("a good header");
        assert_eq!(
            found,
            SEGMENT_SAYS[..lines_before(&places, at)],
            "cut at {at}"
        );
        let is_between = places.contains(&at);
        assert_eq!(end.tail == Tail::Zeros, is_between, "cut at {at}: {end:?}");
        assert!(
            !matches!(end.tail, Tail::Damaged { .. } | Tail::Clean),
            "cut at {at}: {end:?}"
        );
    }
}

#[test]
fn every_flipped_bit_of_a_segment_is_found_or_means_nothing() {
    let bytes = frozen("journal-1-0000000000000a0b.rkj");
    let places = segment().places;
    // The torn block is the proof that those before were durable, as long as its header is good.
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            let place = format!("bit {bit} of byte {at}");
            let result = scanned(&bad, 4096);
            if at < SEGMENT_HEADER_LEN {
                assert!(result.is_err(), "{place}");
                continue;
            }
            let (found, end) = result.expect("a good header");
            let spoiled = places.iter().filter(|place| **place <= at).count() - 1;
            let lines = lines_before(&places, places[spoiled]);
            assert_eq!(found, SEGMENT_SAYS[..lines], "{place}");
            assert_eq!(end.at, places[spoiled] as u64, "{place}");
            let is_damage = matches!(end.tail, Tail::Damaged { .. });
            assert_eq!(is_damage, spoiled < 4, "{place}: {end:?}");
            assert!(
                is_damage || matches!(end.tail, Tail::Torn(_)),
                "{place}: {end:?}"
            );
        }
    }
}

#[test]
fn the_last_block_is_vouched_for_by_a_clean_end() {
    let places = segment().places;
    let mut stream = Stream::new(
        SEGMENT.shard,
        Position {
            offset: 104,
            ..START
        },
    );
    let mut end_block = stream.clean_end();
    end_block.seal(SEGMENT.seq, 104);
    let mut bytes = frozen("journal-1-0000000000000a0b.rkj")[..places[4]].to_vec();
    bytes.extend_from_slice(end_block.bytes());
    bytes.resize(bytes.len() + 64, 0);
    let (found, end) = scanned(&bytes, 4096).expect("a good header");
    assert_eq!((found.len(), end.tail), (7, Tail::Clean));
    for at in SEGMENT_HEADER_LEN..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            let (found, end) = scanned(&bad, 4096).expect("a good header");
            let place = format!("bit {bit} of byte {at}: {end:?}");
            if at < places[4] {
                assert!(matches!(end.tail, Tail::Damaged { .. }), "{place}");
            } else {
                // Nothing but the knowledge of a clean end can be lost there.
                assert_eq!(
                    (&found[..], end.next),
                    (&SEGMENT_SAYS.map(String::from)[..], 104),
                    "{place}"
                );
                assert_ne!(end.tail, Tail::Clean, "{place}");
            }
        }
    }
}

#[test]
fn a_snapshot_that_is_cut_or_flipped_anywhere_is_refused() {
    let bytes = frozen("snapshot-1-0000000000000007.rks");
    for at in 0..bytes.len() {
        let fault = read(&bytes[..at], 61).expect_err("a cut file");
        let wanted = match at {
            0..SNAPSHOT_HEADER_LEN => SnapshotReason::Header(HeaderFault::Cut),
            _ => SnapshotReason::Cut,
        };
        assert_eq!(fault.reason, wanted, "cut at {at}");
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            let fault = read(&bad, 61).expect_err("a spoiled file");
            // It is found in the header or chunk in which it is.
            assert!(fault.at as usize <= at, "bit {bit} of byte {at}: {fault}");
            let is_footer = at >= bytes.len() - FOOTER_LEN;
            let tail = &bad[bytes.len() - FOOTER_LEN..];
            assert_eq!(Summary::read(tail, bytes.len() as u64).is_err(), is_footer);
        }
    }
    assert!(bytes.len() > SNAPSHOT_HEADER_LEN + 3 * CHUNK_HEADER_LEN + FOOTER_LEN);
}

fn frozen(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/journal");
    fs::read(folder.join(name)).expect("a frozen file")
}
