//! Segments: no input panics, where the bytes are cut changes nothing, and what a block holds is what its
//! numbers say. The first byte says whether the sums are put right first, as chance never does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeep::journal::{
    Position,
    scan::{Scan, ScanEnd},
    segment::{BLOCK_HEADER_LEN, BLOCK_MAGIC, SEGMENT_HEADER_LEN, Segment},
};

const SEGMENT: Segment = Segment {
    seq: 1,
    shard: 0,
    shard_count: 1,
    routing: 0,
    start: Position {
        generation: 1,
        offset: 0,
    },
    parent: Position::UNKNOWN,
};

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (cut, is_mended, bytes) = input;
    let mut bytes = bytes.to_vec();
    if is_mended {
        bytes = mended(&bytes);
    }
    let whole = scan(&bytes, bytes.len().max(1));
    assert_eq!(whole, scan(&bytes, cut as usize + 1));
});

/// What is found: offsets and database of the good frames, and the end.
fn scan(bytes: &[u8], piece: usize) -> Option<(Vec<String>, ScanEnd)> {
    let mut scan = Scan::default();
    let mut found = Vec::new();
    let mut next = None;
    for piece in bytes.chunks(piece) {
        scan.feed(piece);
        while let Some(mut block) = scan.next().ok()? {
            assert!(next.is_none_or(|next| next == block.first));
            next = Some(block.end);
            found.extend(block.participants().map(|part| format!("{part:?}")));
            let (first, end) = (block.first, block.end);
            let mut frames = block.frames();
            loop {
                match frames.next() {
                    Ok(Some(frame)) => {
                        assert!((first..end).contains(&frame.offset));
                        let args: Vec<&[u8]> = frame.args.iter().collect();
                        found.push(format!("{} {} {args:?}", frame.offset, frame.database));
                    }
                    Ok(None) => break,
                    Err(fault) => {
                        found.push(fault.to_string());
                        break;
                    }
                }
            }
        }
    }
    Some((found, scan.finish().ok()?))
}

/// A good header before the bytes, and right sums, names and lengths in the blocks that stand one behind
/// the other; each block's length is its first byte.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let mut file = SEGMENT.compose().to_vec();
    let mut rest = bytes;
    while let [len, body @ ..] = rest {
        let Some((header, body)) = body.split_at_checked(BLOCK_HEADER_LEN - 4) else {
            break;
        };
        let (body, left) = body.split_at(body.len().min(*len as usize));
        let mut header = header.to_vec();
        header[..4].copy_from_slice(&BLOCK_MAGIC);
        // Segment and generation are 1; the numbers that are left to chance stay small.
        header[8..24].fill(0);
        (header[8], header[16]) = (1, 1);
        header[5..8].fill(0);
        header[25..32].fill(0);
        header[33..40].fill(0);
        header[40..48].copy_from_slice(&(body.len() as u64).to_le_bytes());
        header[48..52].fill(0);
        for at in [53, 61] {
            header[at..at + 3].fill(0);
        }
        header[64..68].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        let sum = crc32fast::hash(&header);
        file.extend_from_slice(&header);
        file.extend_from_slice(&sum.to_le_bytes());
        file.extend_from_slice(body);
        rest = left;
    }
    assert!(file.len() >= SEGMENT_HEADER_LEN);
    file.extend_from_slice(rest);
    file
}
