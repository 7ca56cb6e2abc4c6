//! Snapshot images: no input panics, and checker and reader agree on what is good, however the image
//! arrives and in whatever slices it is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeep::repl::image::{Checker, ImageError, ImageReader, Record, check};

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

fn take(record: Record<'_>, budget: usize) {
    match record {
        Record::Hash { pairs, .. } => drop(pairs.take(budget).count()),
        Record::List { elements, .. } => drop(elements.take(budget).count()),
        Record::Set { members, .. } => drop(members.take(budget).count()),
        Record::SortedSet { members, .. } => {
            assert!(members.take(budget).all(|(_, score)| !score.is_nan()))
        }
        Record::Stream { entries, .. } => entries
            .take(budget)
            .for_each(|entry| drop(entry.fields.count())),
        Record::Group(group) => drop((group.consumers.count(), group.pending.count())),
        Record::GroupReads(reads) => drop((reads.active.count(), reads.wide.count())),
        Record::Aux(aux) => drop(aux.parts.count()),
        Record::String { .. } | Record::FieldTtl { .. } => {}
    }
}
