use proptest::prelude::*;

use super::{listpack::Builder, *};
use crate::{
    each_collection,
    store::{End, Hash, InValue, List, NewId, Set, Stream, StreamId, Typed, Value, Zset},
};

fn borrowed(value: &Value) -> Borrowed<'_> {
    match value {
        Value::String(text) => Borrowed::String(text),
        Value::Hash(hash) => Borrowed::Hash(hash),
        Value::List(list) => Borrowed::List(list),
        Value::Set(set) => Borrowed::Set(set),
        Value::Zset(zset) => Borrowed::Zset(zset),
        Value::Stream(stream) => Borrowed::Stream(stream),
    }
}

fn bytes_of(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_value(borrowed(value), &mut bytes);
    bytes
}

fn read_all(bytes: &[u8]) -> Result<Value, Damaged> {
    let (kind, mut rest) = bytes.split_first().ok_or(Damaged)?;
    let value = read_value(*kind, &mut rest)?;
    assert!(rest.is_empty(), "{} bytes are left", rest.len());
    Ok(value)
}

/// Everything that the value is, in text.
fn shown(value: &Value) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut lines: Vec<String> = match value {
        Value::String(bytes) => vec![text(bytes)],
        Value::List(list) => {
            return list
                .iter()
                .map(|item| text(item.as_bytes()) + ",")
                .collect();
        }
        Value::Set(set) => set.iter().map(|member| text(&member)).collect(),
        Value::Zset(zset) => zset
            .iter()
            .map(|(member, score)| format!("{score} {}", text(member)))
            .collect(),
        Value::Hash(hash) => hash
            .iter()
            .map(|(field, value)| {
                format!("{} {} {:?}", text(field), text(value), hash.deadline(field))
            })
            .collect(),
        Value::Stream(stream) => {
            let log = stream.log();
            let mut lines = vec![format!(
                "{} {} {} {}",
                log.len(),
                log.last_id(),
                log.max_deleted(),
                log.entries_added()
            )];
            for entry in log.range(StreamId::MIN, StreamId::MAX) {
                let pairs: Vec<_> = entry
                    .pairs()
                    .map(|(name, value)| text(name) + &text(value))
                    .collect();
                lines.push(format!("{} {pairs:?}", entry.id));
            }
            for (name, group) in stream.groups() {
                lines.push(format!(
                    "{} {} {:?}",
                    text(name),
                    group.last_id,
                    group.entries_read
                ));
                for (at, consumer) in group.consumers() {
                    let pending: Vec<_> = group
                        .pending_of(at, ..)
                        // Whose they are is said by the consumer's name: numbers are given anew.
                        .map(|id| (id, group.pending(id).map(|row| (row.delivered, row.count))))
                        .collect();
                    lines.push(format!(
                        "{} {} {pending:?}",
                        text(consumer.name()),
                        consumer.seen
                    ));
                }
            }
            return lines.join("\n");
        }
    };
    lines.sort();
    lines.join("\n")
}

type Texts = Vec<Vec<u8>>;

fn value_of(form: u8, texts: Texts, numbers: Vec<u64>) -> Value {
    let numbers = numbers.iter().cycle().copied();
    match form {
        0 => Value::string(texts.concat()),
        1 => {
            let mut list = List::default();
            texts.iter().for_each(|text| list.push(End::Right, text));
            Value::List(list)
        }
        2 | 3 => {
            let mut set = Set::default();
            for (text, number) in texts.iter().zip(numbers) {
                let digits = (number as i64 >> (number % 60)).to_string();
                set.insert(if form == 2 { text } else { digits.as_bytes() });
            }
            Value::Set(set)
        }
        4 => {
            let mut zset = Zset::default();
            for (text, number) in texts.iter().zip(numbers) {
                let score = f64::from_bits(number);
                zset.insert(text, if score.is_nan() { number as f64 } else { score });
            }
            Value::Zset(zset)
        }
        5 | 6 => {
            let mut hash = Hash::default();
            for (text, number) in texts.iter().zip(numbers) {
                hash.set(text, number.to_string().as_bytes());
                if form == 6 && number % 2 == 0 {
                    hash.set_deadline(text, Some(number >> 2));
                }
            }
            Value::Hash(hash)
        }
        _ => {
            let mut stream = Stream::default();
            for (at, (text, number)) in texts.iter().zip(numbers).enumerate() {
                let id = StreamId::new(at as u64 / 3, number % 1000 + 1000 * (at as u64 + 1));
                let pairs = [(&b"field"[..], &text[..]), (text, b"1")];
                let pairs = &pairs[..1 + (number % 2) as usize];
                let added = stream.add(NewId::Exact(id), pairs.iter().copied(), 0);
                if number % 5 == 0 && added.is_ok() {
                    stream.log_mut().remove(id);
                }
            }
            stream.create_group(b"group", StreamId::MIN, None);
            for consumer in ["one", "other"] {
                let Some((_, group)) = stream.with_group(b"group") else {
                    unreachable!("it was made above")
                };
                let at = group.create_consumer(consumer.as_bytes(), 7, Some(8));
                stream.deliver(b"group", at, Some(3), false, false, 9, |_| ());
            }
            stream.wrap()
        }
    }
}

fn texts() -> impl Strategy<Value = Texts> {
    let text = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..12),
        2 => "-?[0-9]{1,20}".prop_map(String::into_bytes),
        1 => prop::collection::vec(0u8..3, 0..300),
        1 => prop::collection::vec(any::<u8>(), 9000..9001),
    ];
    prop_oneof![
        prop::collection::vec(text, 1..20),
        prop::collection::vec("[a-z]{1,5}[0-9]{4}".prop_map(String::into_bytes), 500..600),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_was_written_is_read_back(
        form in 0u8..8,
        texts in texts(),
        numbers in prop::collection::vec(any::<u64>(), 1..40),
    ) {
        let value = value_of(form, texts, numbers);
        let read = read_all(&bytes_of(&value)).expect("it was written just now");
        prop_assert_eq!(shown(&read), shown(&value));
        let encoding = |value: &Value| each_collection!(value, _text => "", inner => inner.encoding());
        let (was, is) = (encoding(&value), encoding(&read));
        // A hash forgets that it had deadlines; a set may have lost what made it large.
        prop_assert!(was == is || was == "listpackex", "{was} became {is}");
    }

    #[test]
    fn damage_is_refused_or_makes_a_whole_value(
        form in 0u8..8,
        texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 1..8),
        numbers in prop::collection::vec(any::<u64>(), 1..8),
        kind in prop::option::weighted(0.2, 0u8..26),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let mut bytes = bytes_of(&value_of(form, texts, numbers));
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes[0] = kind.unwrap_or(bytes[0]);
        if let Some(cut) = cut {
            bytes.truncate(1 + cut.index(bytes.len()));
        }
        let (kind, mut rest) = bytes.split_first().expect("there is a kind");
        if let Ok(value) = read_value(*kind, &mut rest) {
            let again = read_all(&bytes_of(&value)).expect("it was written just now");
            prop_assert_eq!(shown(&again), shown(&value));
        }
    }
}

#[test]
fn compression_cannot_be_used_to_fill_the_memory() {
    // One literal, then copies of 264 bytes each.
    let mut packed = vec![0, b'x'];
    packed.extend([0xe0, 0xff, 0].repeat(500_000));
    let len = 1 + 264 * 500_000_usize;
    let mut list = vec![kind::LIST, 0x80, 0, 0, 1, 0];
    for _ in 0..256 {
        list.push(0xc3);
        for size in [packed.len(), len] {
            list.push(0x80);
            list.extend((size as u32).to_be_bytes());
        }
        list.extend_from_slice(&packed);
        if list.len() > 16 << 20 {
            break;
        }
    }
    // The ninth string of 126 MiB would pass the bound.
    assert!(EXPANDED_MAX / len < 9);
    let mut rest = &list[1..];
    assert_eq!(read_value(kind::LIST, &mut rest).err(), Some(Damaged));
    assert!(list.len() - rest.len() < 10 * packed.len() + 200);
}

#[test]
fn long_field_names_cannot_be_multiplied() {
    // Each entry of a listpack has the long name of its head, by mention; in memory they lie apart.
    let mut entries = Builder::new();
    let name = vec![b'n'; 1 << 20];
    for number in [2000, 0, 1] {
        entries.push_int(number);
    }
    entries.push(&name);
    entries.push_int(0);
    for at in 0..2000 {
        for number in [2, at, 0] {
            entries.push_int(number);
        }
        entries.push(b"v");
        entries.push_int(4);
    }
    let entries = entries.finish();
    let mut bytes = vec![kind::STREAM_2, 1, 16];
    bytes.extend([0; 15]);
    bytes.push(1);
    bytes.push(0x80);
    bytes.extend((entries.len() as u32).to_be_bytes());
    bytes.extend(entries);
    assert_eq!(read_all(&bytes).err(), Some(Damaged));
}
