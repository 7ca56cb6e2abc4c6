//! Snapshot images: no input panics, and checker and reader agree on what is good, however the image
//! arrives and in whatever slices it is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeep::image::{Checker, ImageError, ImageReader, Record, check};

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
});

fn read(bytes: &[u8], budget: usize) -> Result<(), ImageError> {
    let mut reader = ImageReader::new(bytes, 0)?;
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
