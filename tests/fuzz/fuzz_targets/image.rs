//! Snapshot images: no input panics, and checker and reader agree on what is good, however the image
//! arrives and in whatever slices it is read. Bodies of snapshots: what loads is written again and loads as
//! the same keys.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeep::image::{Checker, ImageError, ImageReader, Record, check};
use ringkeep::store::{Budget, Keyspace, Walk};

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let whole = check(bytes);
    assert_eq!(whole.is_ok(), read(bytes, cut as usize % 7 + 1).is_ok());

    let mut checker = Checker::default();
    let step = cut as usize + 1;
    let fed = (0..bytes.len())
        .step_by(step)
        .try_for_each(|end| checker.feed(&bytes[..end]));
    assert_eq!(fed.and_then(|()| checker.finish(bytes)), whole);

    // The same bytes as records to be put in, as a primary's image is and as a body is.
    if let Ok(mut reader) = ImageReader::new(bytes, 0) {
        put_all(&mut reader, step);
    }
    put_all(&mut ImageReader::of_body(bytes), step);
    let mut keys = Keyspace::new(1);
    let loaded = keys.load(bytes);
    assert_eq!(
        loaded.is_ok(),
        read_on(ImageReader::of_body(bytes), step).is_ok()
    );
    let written = write(&keys, step);
    let mut again = Keyspace::new(2);
    for body in &written {
        assert!(again.load(body).is_ok());
    }
    assert_eq!(again.len(), keys.len());
    assert_eq!(
        lens(&write(&again, usize::MAX)),
        lens(&write(&keys, usize::MAX))
    );
});

fn put_all(reader: &mut ImageReader<&[u8]>, step: usize) {
    let mut keys = Keyspace::new(1);
    loop {
        while let Some(record) = reader.resume() {
            keys.put_record(record, step);
        }
        match reader.next() {
            Ok(Some(record)) => keys.put_record(record, step),
            Ok(None) | Err(_) => return,
        }
    }
}

fn write(keys: &Keyspace, bytes: usize) -> Vec<Vec<u8>> {
    let mut walk = Walk::default();
    let budget = Budget {
        records: 100,
        bytes,
    };
    let mut bodies = Vec::new();
    loop {
        let mut body = Vec::new();
        let slice = walk.next_slice(keys, budget, &mut body);
        bodies.push(body);
        if slice.is_last {
            return bodies;
        }
    }
}

/// Two keyspaces have their keys in another order, but as many bytes of them.
fn lens(bodies: &[Vec<u8>]) -> usize {
    bodies.iter().map(Vec::len).sum()
}

fn read(bytes: &[u8], budget: usize) -> Result<(), ImageError> {
    read_on(ImageReader::new(bytes, 0)?, budget)
}

fn read_on(mut reader: ImageReader<&[u8]>, budget: usize) -> Result<(), ImageError> {
    loop {
        let Some(record) = reader.next()? else {
            return Ok(());
        };
        take(record, budget);
        while let Some(record) = reader.resume() {
            take(record, budget);
        }
    }
}

/// Reads up to `budget` items of a record, and everything inside of them.
fn take(record: Record<'_>, budget: usize) -> usize {
    match record {
        Record::Hash { pairs, .. } => pairs.take(budget).count(),
        Record::List { elements, .. } => elements.take(budget).count(),
        Record::Set { members, .. } => members.take(budget).count(),
        Record::SortedSet { members, .. } => members
            .take(budget)
            .inspect(|(_, score)| assert!(!score.is_nan()))
            .count(),
        Record::Stream { entries, .. } => entries
            .take(budget)
            .map(|entry| 1 + entry.fields.count())
            .sum(),
        Record::Group(group) => group.consumers.count() + group.pending.count(),
        Record::GroupReads(reads) => reads.active.count() + reads.wide.count(),
        Record::Aux(aux) => aux.parts.count(),
        Record::String { .. } | Record::FieldTtl { .. } => 1,
    }
}
