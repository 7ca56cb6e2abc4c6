//! RDB files: no input panics, the pieces in which a file comes make no difference, and the keys that are
//! read from a file are read again from the file that is written of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeep::{
    rdb::{Borrowed, FileError, FileReader, FileWriter, Item, Key},
    store::Value,
};

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    let (keys, shown, end) = read(bytes, bytes.len().max(1));
    let (_, again, again_end) = read(bytes, usize::from(step) + 1);
    assert_eq!((&shown, &end), (&again, &again_end));

    let mut writer = FileWriter::new(12, &[]);
    for key in &keys {
        let value = match &key.value {
            Value::String(text) => Borrowed::String(text),
            Value::Hash(hash) => Borrowed::Hash(hash),
            Value::List(list) => Borrowed::List(list),
            Value::Set(set) => Borrowed::Set(set),
            Value::Zset(zset) => Borrowed::Zset(zset),
            Value::Stream(stream) => Borrowed::Stream(stream),
        };
        writer.key(&key.name, key.deadline, value);
    }
    writer.end();
    let (copies, _, end) = read(&writer.take(), 4096);
    assert_eq!(end, Ok(true));
    assert_eq!(keys.len(), copies.len());
    for (key, copy) in keys.iter().zip(&copies) {
        assert_eq!((&key.name, key.deadline), (&copy.name, copy.deadline));
        assert_eq!(key.value.kind(), copy.value.kind());
    }
});

/// The keys, everything else as text, and whether the end was met.
fn read(bytes: &[u8], step: usize) -> (Vec<Key>, String, Result<bool, FileError>) {
    let mut reader = FileReader::default();
    let (mut keys, mut shown) = (Vec::new(), String::new());
    let mut pieces = bytes.chunks(step);
    let mut is_all = false;
    loop {
        match pieces.next() {
            Some(piece) => reader.feed(piece),
            None => is_all = true,
        }
        loop {
            match reader.next(is_all) {
                Ok(Some(Item::Key(key))) => keys.push(key),
                Ok(Some(Item::End)) => return (keys, shown, Ok(true)),
                Ok(Some(item)) => shown += &format!("{item:?}"),
                Ok(None) => break,
                Err(error) => return (keys, shown, Err(error)),
            }
        }
        if is_all {
            return (keys, shown, Ok(false));
        }
    }
}
