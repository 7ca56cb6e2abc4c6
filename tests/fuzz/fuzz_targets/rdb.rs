//! Dumped values: no input panics, and what is read is written and read again as the same bytes, except
//! where tables without an order stand for it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringkeep::{
    rdb::{Borrowed, read_value, write_value},
    store::Value,
};

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, mut rest)) = bytes.split_first() else {
        return;
    };
    let Ok(value) = read_value(*kind, &mut rest) else {
        return;
    };
    let first = written(&value);
    let mut rest = &first[1..];
    let again = read_value(first[0], &mut rest).expect("it was written just now");
    assert!(rest.is_empty());
    let second = written(&again);
    assert_eq!(first[0], second[0]);
    if matches!(
        value,
        Value::String(_) | Value::List(_) | Value::Zset(_) | Value::Stream(_)
    ) {
        assert_eq!(first, second);
    }
});

fn written(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    let value = match value {
        Value::String(text) => Borrowed::String(text),
        Value::Hash(hash) => Borrowed::Hash(hash),
        Value::List(list) => Borrowed::List(list),
        Value::Set(set) => Borrowed::Set(set),
        Value::Zset(zset) => Borrowed::Zset(zset),
        Value::Stream(stream) => Borrowed::Stream(stream),
    };
    write_value(value, &mut bytes);
    bytes
}
