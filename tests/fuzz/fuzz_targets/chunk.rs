//! Snapshot files: no input panics, where the bytes are cut changes nothing, and a file with another byte in
//! it is refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeep::journal::snapshot::{
    Chunk, Composer, FOOTER_LEN, Kind, Reader, Snapshot, SnapshotFault, Summary,
};

const SNAPSHOT: Snapshot = Snapshot {
    seq: 1,
    shard: 0,
    shard_count: 1,
    routing: 0,
    generation: 1,
    start: 0,
};

fuzz_target!(
    |input: (u8, Option<Vec<(bool, u8, Vec<u8>)>>, u16, u8, &[u8])| {
        let (cut, chunks, at, bits, bytes) = input;
        let piece = cut as usize + 1;
        let Some(chunks) = chunks else {
            assert_eq!(read(bytes, bytes.len().max(1)), read(bytes, piece));
            let _ = Summary::read(bytes, at as u64);
            return;
        };
        let mut file = composed(&chunks);
        let whole = read(&file, file.len());
        assert!(whole.1.is_ok());
        assert_eq!(whole, read(&file, piece));
        let tail = &file[file.len() - FOOTER_LEN..];
        assert_eq!(Summary::read(tail, file.len() as u64), whole.1);
        let at = at as usize % file.len();
        file[at] ^= bits;
        let spoiled = read(&file, piece);
        assert_eq!(spoiled.1.is_ok(), bits == 0);
    }
);

/// A file of these chunks, with records or frames.
fn composed(chunks: &[(bool, u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut composer = Composer::new(&SNAPSHOT, &mut out);
    for (is_frames, count, body) in chunks {
        let kind = if *is_frames {
            Kind::Frames
        } else {
            Kind::Records
        };
        let chunk = composer.open(&mut out);
        out.extend_from_slice(body);
        composer.close(&mut out, chunk, kind, 0, u32::from(*count));
    }
    composer.finish(&mut out, 100);
    out
}

fn read(bytes: &[u8], piece: usize) -> (Vec<String>, Result<Summary, SnapshotFault>) {
    let mut reader = Reader::default();
    let mut found = Vec::new();
    for piece in bytes.chunks(piece) {
        reader.feed(piece);
        loop {
            match reader.next() {
                Ok(None) => break,
                Err(fault) => return (found, Err(fault)),
                Ok(Some(Chunk::Records { count, body, .. })) => {
                    found.push(format!("{count} {body:?}"))
                }
                Ok(Some(Chunk::Frames(mut frames))) => {
                    let mut last = None;
                    while let Ok(Some(frame)) = frames.next() {
                        assert!(last.is_none_or(|last| last < frame.offset));
                        last = Some(frame.offset);
                        found.push(format!("{} {}", frame.offset, frame.args.len()));
                    }
                }
            }
        }
    }
    (found, reader.finish())
}
