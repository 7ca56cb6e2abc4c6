//! The journal: frames into sealed blocks, and a segment back into frames. One operation is one frame. The
//! naive twins format what ours copies, and copy what ours leaves where it is; both sum with the same
//! package.

use std::{hint::black_box, io::Write};

use ringkeep::{
    journal::{Block, Position, Stream, scan::Scan, segment::Segment},
    resp::{ParseLimits, Parser, Step},
};

use crate::measure::{Meter, compare};

pub fn run() {
    let value = [b'v'; 64];
    let large = [b'v'; 1024];
    let set: &[&[u8]] = &[b"SET", b"key:000000000042", &value];
    let short: &[&[u8]] = &[b"INCR", b"key:000000000042"];
    let long: &[&[u8]] = &[b"SET", b"key:000000000042", &large];
    let push: &[&[u8]] = &[b"RPUSH", b"list:42", b"one", b"two", b"three", b"four"];
    for (what, args) in [
        ("INCR, key of 16 bytes", short),
        ("SET, key of 16, value of 64", set),
        ("SET, key of 16, value of 1024", long),
        ("RPUSH, 4 short elements", push),
    ] {
        one(what, args);
    }
}

fn one(what: &str, args: &[&[u8]]) {
    let mut stream = Stream::new(0, START);
    let mut blocks = vec![block(&mut stream, args)];
    for count in 1..BLOCKS {
        blocks.push(block(&mut stream, args));
        assert_eq!(blocks[count].frames(), naive_block(offset(count), args));
    }
    let mut file = segment().compose().to_vec();
    blocks
        .iter()
        .for_each(|block| file.extend_from_slice(block.bytes()));
    assert_eq!(scan(&file), naive_scan(&blocks));
    let frame_len = blocks[0].frames().len() as f64 / FRAMES as f64;
    let operations = (BLOCKS * FRAMES) as u64;

    let nanos = compare(
        &format!("{what}: into blocks of {FRAMES}"),
        operations,
        |meter| compose(meter, args),
        |meter| compose_naively(meter, args),
    );
    rate(frame_len, nanos);
    let nanos = compare(
        &format!("{what}: out of a segment"),
        operations,
        |meter| {
            meter.time(|| black_box(scan(black_box(&file))));
        },
        |meter| {
            meter.time(|| black_box(naive_scan(black_box(&blocks))));
        },
    );
    rate(frame_len, nanos);
}

fn rate(frame_len: f64, nanos: f64) {
    println!(
        "  {:48} {frame_len:.0} bytes, {:.0} MB/s",
        "",
        frame_len / nanos * 1000.0
    );
}

fn compose(meter: &mut Meter, args: &[&[u8]]) {
    let mut stream = Stream::new(0, START);
    meter.time(|| {
        for _ in 0..BLOCKS {
            let block = block(&mut stream, black_box(args));
            black_box(block.bytes());
            stream.reuse(block.into_bytes());
        }
    });
}

/// A sealed block of units of one frame.
fn block(stream: &mut Stream, args: &[&[u8]]) -> Block {
    for _ in 0..FRAMES {
        stream.frame(0, args.iter().copied());
        stream.end_unit();
    }
    let mut block = stream.take_block().expect("units have ended");
    block.seal(1, START.offset);
    block
}

fn compose_naively(meter: &mut Meter, args: &[&[u8]]) {
    meter.time(|| {
        for count in 0..BLOCKS {
            let frames = naive_block(offset(count), black_box(args));
            black_box(crc32fast::hash(&frames));
        }
    });
}

/// The naive twin: everything formatted.
fn naive_block(first: u64, args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for at in 0..FRAMES as u64 {
        write!(bytes, "*2\r\n:{}\r\n*{}\r\n", first + at, args.len()).expect("a vector");
        for arg in args {
            write!(bytes, "${}\r\n", arg.len()).expect("a vector");
            bytes.extend_from_slice(arg);
            bytes.extend_from_slice(b"\r\n");
        }
    }
    bytes
}

/// Reads a segment as it comes from the disk. The sum of all offsets and lengths.
fn scan(file: &[u8]) -> u64 {
    let mut scan = Scan::default();
    let mut sum = 0;
    for piece in file.chunks(PIECE) {
        scan.feed(piece);
        while let Some(mut block) = scan.next().expect("a good header") {
            let mut frames = block.frames();
            while let Some(frame) = frames.next().expect("good frames") {
                let lens = frame.args.iter().map(|arg| arg.len() as u64);
                sum += frame.offset + lens.sum::<u64>();
            }
        }
    }
    sum
}

/// The naive twin: every argument copied, whole blocks at once.
fn naive_scan(blocks: &[Block]) -> u64 {
    let mut sum = 0;
    for block in blocks {
        black_box(crc32fast::hash(block.frames()));
        let mut rest = block.frames();
        while !rest.is_empty() {
            let line = rest[5..].iter().position(|byte| *byte == b'\r');
            let end = 5 + line.expect("an offset ends");
            let offset = std::str::from_utf8(&rest[5..end]).expect("digits");
            sum += offset.parse::<u64>().expect("an offset");
            rest = &rest[end + 2..];
            let mut parser = Parser::default();
            let step = parser.next(rest, 0, &ParseLimits::default());
            let Ok(Step::Request { end, .. }) = step else {
                panic!("a command");
            };
            let args = ringkeep::resp::Args::new(rest, parser.spans());
            let args: Vec<Vec<u8>> = args.iter().map(<[u8]>::to_vec).collect();
            sum += args.iter().map(|arg| arg.len() as u64).sum::<u64>();
            rest = &rest[end..];
        }
    }
    sum
}

fn segment() -> Segment {
    Segment {
        seq: 1,
        shard: 0,
        shard_count: 1,
        routing: 0,
        start: START,
        parent: Position::UNKNOWN,
    }
}

fn offset(block: usize) -> u64 {
    START.offset + (block * FRAMES) as u64
}

/// As high as offsets are in a directory that was made in our times.
const START: Position = Position {
    generation: 1,
    offset: 1_800_000_000 << 20,
};
const FRAMES: usize = 64;
const BLOCKS: usize = 500;
const PIECE: usize = 256 << 10;
