//! The keyspace against a naive twin, and its promises one by one.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::store::{Hash, List};

const START: Ms = 1_000_000_000_000;

/// Checks what must hold between operations.
fn check(space: &mut Keyspace) {
    space.settle();
    let mut keys = 0;
    let mut timers = 0;
    let mut expiring = 0;
    let mut place = Some(0);
    while let Some(from) = place {
        let mut batch = Vec::new();
        place = space.table.walk(from, |entry| batch.push(entry));
        for entry in batch {
            keys += 1;
            let found = space
                .find_cell(entry.cell())
                .expect("a slot without its key");
            assert_eq!(found.entry, entry);
            expiring += usize::from(found.head.has(DEADLINE));
            timers += (found.head.flags() & (DEADLINE | FIELDS)).count_ones() as usize;
        }
    }
    assert_eq!(space.len(), keys);
    assert_eq!(space.cells.arena.cells(), keys);
    assert_eq!(space.expiring(), expiring);
    assert_eq!(space.expiry.len(), timers);
}

fn scan_all(space: &mut Keyspace, now: Ms) -> BTreeMap<Vec<u8>, usize> {
    let mut seen = BTreeMap::new();
    let mut cursor = 0;
    loop {
        cursor = space.scan(cursor, 10, now, |key, _| {
            *seen.entry(key.to_vec()).or_default() += 1;
        });
        if cursor == 0 {
            return seen;
        }
    }
}

fn value_of(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(100) {
        0 => 4000 + rng.below(200),
        1 => rng.below(20_000),
        2..20 => rng.below(300),
        _ => rng.below(40),
    };
    let fill = rng.next_u64() as u8;
    vec![fill; len as usize]
}

fn key_of(rng: &mut Rng, range: u64) -> Vec<u8> {
    let number = rng.below(range);
    let mut key = format!("key:{number}").into_bytes();
    if number.is_multiple_of(97) {
        // Around the limit where keys leave their cells.
        key.resize(KEY_MAX - 3 + (number % 7) as usize, b'x');
    }
    key
}

#[test]
fn it_behaves_like_a_map_with_deadlines() {
    for seed in 0..6 {
        let mut rng = Rng::seeded(seed);
        let mut space = Keyspace::new(seed);
        space.note_expired(true);
        let mut model = BTreeMap::<Vec<u8>, (Vec<u8>, Option<Ms>)>::new();
        let mut now = START;
        let range = [50, 2000, 20_000][seed as usize % 3];
        for step in 0..60_000u64 {
            now += rng.below(3);
            let key = key_of(&mut rng, range);
            let chosen = key.clone();
            if model
                .get(&key)
                .is_some_and(|(_, due)| due.is_some_and(|due| due <= now))
            {
                model.remove(&key);
            }
            let deadline = (rng.below(3) == 0).then(|| now + 1 + rng.below(20_000));
            // Phases of growth and of shrinking.
            let removals = if step / 15_000 % 2 == 0 { 10 } else { 45 };
            match rng.below(100) {
                what if what < removals => {
                    assert_eq!(space.remove(&key, now), model.remove(&key).is_some());
                }
                45..65 => {
                    let value = value_of(&mut rng);
                    space.set_string(&key, &value, deadline);
                    model.insert(key, (value, deadline));
                }
                65..72 => {
                    assert_eq!(
                        space.set_deadline(&key, deadline, now),
                        model.contains_key(&key)
                    );
                    if let Some((_, due)) = model.get_mut(&key) {
                        *due = deadline;
                    }
                }
                72..80 => {
                    let more = value_of(&mut rng);
                    let cut = rng.below(3) == 0;
                    let change = |text: &mut Vec<u8>| {
                        text.extend_from_slice(&more);
                        if cut {
                            text.truncate(5);
                        }
                    };
                    space.update_string(&key, now, change).expect("a string");
                    let entry = model.entry(key.clone()).or_default();
                    change(&mut entry.0);
                    if entry.0.is_empty() && more.is_empty() && space.meta(&key, now).is_none() {
                        model.remove(&key);
                    }
                }
                80..84 => {
                    let taken = space.take(&key, now).map(|(value, due)| match value {
                        Value::String(text) => (text.to_vec(), due),
                        _ => panic!("no string was stored"),
                    });
                    assert_eq!(taken, model.remove(&key));
                }
                84..86 => {
                    let value = value_of(&mut rng);
                    space.insert(&key, Value::string(value.clone()), deadline);
                    model.insert(key, (value, deadline));
                }
                86..88 => {
                    let mut gone = Vec::new();
                    space.expire_due(now, 20, |key| gone.push(key.to_vec()));
                    // The twin has dropped the chosen key already if that was due.
                    for key in gone.into_iter().filter(|gone| *gone != key) {
                        let (_, due) = model.remove(&key).expect("it was there");
                        assert!(due.is_some_and(|due| due <= now));
                    }
                }
                88 => {
                    let picked = space.random_key(&mut rng, now);
                    if let Some(picked) = picked {
                        let (_, due) = &model[&picked];
                        assert!(due.is_none_or(|due| due > now));
                    }
                }
                _ => {
                    let got = space.string(&key, now).expect("a string");
                    let want = model.get(&key);
                    assert_eq!(
                        got.map(|text| text.as_bytes().to_vec()),
                        want.map(|(text, _)| text.clone())
                    );
                    assert_eq!(
                        space.meta(&key, now).and_then(|meta| meta.deadline),
                        model.get(&key).and_then(|(_, due)| *due)
                    );
                }
            }
            // The chosen key may have been found due and then made anew.
            for key in space.take_expired() {
                if *key != *chosen
                    && let Some((_, due)) = model.remove(&*key)
                {
                    assert!(due.is_some_and(|due| due <= now), "{key:?}");
                }
            }
            if step % 10_000 == 9_999 {
                check(&mut space);
                let seen = scan_all(&mut space, now);
                space.take_expired();
                model.retain(|_, (_, due)| due.is_none_or(|due| due > now));
                assert!(seen.keys().eq(model.keys()));
                assert_eq!(space.len(), model.len());
            }
        }
        while space.expire_due(now + 100_000, 100, |_| ()) {}
        check(&mut space);
        assert_eq!(space.expiring(), 0);
        space.clear();
        check(&mut space);
        while space.free_some(100) {}
        assert_eq!(space.used_bytes(), Keyspace::new(0).used_bytes());
        assert_eq!(space.waiting_bytes(), 0);
    }
}

#[test]
fn growth_and_shrinking_move_few_entries_at_a_time() {
    let mut space = Keyspace::new(5);
    let key = |at: u64| format!("some:key:{at}").into_bytes();
    for at in 0..200_000 {
        space.set_string(&key(at), b"value", None);
    }
    check(&mut space);
    assert!(space.table.most_moved() <= 900);
    let grown = space.table.segments();
    assert!(grown < 200_000 / 300, "{grown} segments");
    for at in 0..200_000 {
        let got = space.string(&key(at), START).expect("a string");
        assert_eq!(got.expect("present").as_bytes(), b"value");
    }
    for at in 0..199_990 {
        assert!(space.remove(&key(at), START));
        if at % 50_000 == 0 {
            check(&mut space);
        }
    }
    check(&mut space);
    assert!(space.table.most_moved() <= 900);
    assert_eq!(space.table.segments(), 1);
    assert!(space.used_bytes() < 1 << 20);
    let mut rng = Rng::seeded(1);
    let mut picked = BTreeSet::new();
    for _ in 0..500 {
        picked.insert(space.random_key(&mut rng, START));
    }
    assert_eq!(picked.len(), 10);
}

#[test]
fn a_scan_meets_every_key_that_stays() {
    for seed in 0..8u64 {
        let mut rng = Rng::seeded(seed);
        let mut space = Keyspace::new(seed);
        let stays = |at: u64| format!("stays:{at}").into_bytes();
        let comes = |at: u64| format!("comes:{at}").into_bytes();
        // Even seeds grow while scanned, odd ones shrink.
        let grows = seed % 2 == 0;
        let first = if grows { 0 } else { 60_000 };
        for at in 0..2_000 {
            space.set_string(&stays(at), b"", None);
        }
        for at in 0..first {
            space.set_string(&comes(at), b"", None);
        }
        let mut seen = BTreeSet::new();
        let (mut cursor, mut at, mut calls) = (0, 0, 0);
        loop {
            cursor = space.scan(cursor, 10, START, |key, _| {
                seen.insert(key.to_vec());
            });
            assert!(cursor < 1 << 48);
            if cursor == 0 {
                break;
            }
            for key in (0..2_000).step_by(97).map(stays) {
                assert!(space.place(&key) >= cursor || seen.contains(&key));
            }
            calls += 1;
            for _ in 0..rng.below(300) {
                at += 1;
                // A scan of what grows faster than it is scanned would not end.
                if grows && at < 60_000 {
                    space.set_string(&comes(at), b"", None);
                } else if !grows {
                    space.remove(&comes(at), START);
                }
            }
        }
        assert!(calls > 50);
        for at in 0..2_000 {
            assert!(seen.contains(&stays(at)), "{at} was missed, seed {seed}");
        }
    }
}

#[test]
fn the_expiry_index_holds_each_deadline_once() {
    let mut rng = Rng::seeded(9);
    let mut space = Keyspace::new(9);
    let key = |at: u64| format!("{at}").into_bytes();
    for at in 0..500 {
        space.set_string(&key(at), b"1", None);
    }
    for _ in 0..50_000 {
        let at = key(rng.below(500));
        match rng.below(4) {
            0 => space.set_string(&at, b"2", Some(START + rng.below(5_000))),
            1 => space.set_string(&at, b"2", None),
            2 => {
                space.set_deadline(&at, None, 0);
            }
            _ => {
                space.set_deadline(&at, Some(START + rng.below(5_000)), 0);
            }
        }
        assert_eq!(space.expiry.len(), space.expiring());
    }
    check(&mut space);
    assert!(space.len() == 500);
    // Every key goes at its very millisecond, and not before.
    let mut left = BTreeMap::new();
    for at in 0..500 {
        let meta = space.meta(&key(at), 0).expect("present");
        if let Some(due) = meta.deadline {
            left.insert(key(at), due);
        }
    }
    for now in START..START + 5_001 {
        assert!(
            space
                .next_expiry()
                .is_none_or(|next| left.values().all(|due| *due >= next))
        );
        while space.expire_due(now, 3, |key| assert_eq!(left.remove(key), Some(now))) {}
        assert!(left.values().all(|due| *due > now));
    }
    assert!(left.is_empty());
}

#[test]
fn many_keys_due_in_one_second_are_served_in_slices() {
    let mut space = Keyspace::new(2);
    for at in 0..20_000u64 {
        let due = START + at % 900;
        space.set_string(&at.to_le_bytes(), b"", Some(due));
    }
    let mut gone = 0;
    let mut calls = 0;
    while space.expire_due(START + 450, 50, |_| gone += 1) {
        calls += 1;
        assert!(calls < 2_000);
    }
    assert_eq!(gone, (0..20_000).filter(|at| at % 900 <= 450).count());
    check(&mut space);
}

#[test]
fn types_are_kept_apart_and_encodings_are_those_of_redis() {
    let mut space = Keyspace::new(1);
    for (text, want) in [
        ("123", "int"),
        ("-9223372036854775808", "int"),
        ("9223372036854775808", "embstr"),
        ("0123", "embstr"),
        ("", "embstr"),
        (&"x".repeat(44), "embstr"),
        (&"x".repeat(45), "raw"),
        (&"x".repeat(50_000), "raw"),
    ] {
        space.set_string(b"k", text.as_bytes(), None);
        assert_eq!(space.encoding(b"k", START), Some(want), "{text}");
    }
    assert_eq!(space.get::<List>(b"k", START).err(), Some(WrongType));
    assert_eq!(
        space.get_or_create::<List>(b"k", START).err(),
        Some(WrongType)
    );
    space.set_string(b"k", b"small", None);
    assert_eq!(space.get_mut::<List>(b"k", START).err(), Some(WrongType));
    space.insert(b"k", Value::List(List::default()), Some(START + 10));
    assert_eq!(space.string(b"k", START).err(), Some(WrongType));
    assert!(space.update_string(b"k", START, |_| ()).is_err());
    assert_eq!(space.get_mut::<Hash>(b"k", START).err(), Some(WrongType));
    assert!(
        space
            .get::<List>(b"k", START + 9)
            .is_ok_and(|list| list.is_some())
    );
    assert!(
        space
            .get::<List>(b"k", START + 10)
            .is_ok_and(|list| list.is_none())
    );
    assert!(space.get_or_create::<List>(b"k", START + 10).is_ok());
    assert!(space.remove_if_empty(b"k"));
    check(&mut space);
}

#[test]
fn idle_time_counts_from_the_last_use() {
    let mut space = Keyspace::new(1);
    let idle = |space: &mut Keyspace, now| space.meta(b"k", now).map(|meta| meta.idle_secs);
    space.expire_due(START, 1, |_| ());
    space.set_string(b"k", b"v", None);
    assert_eq!(idle(&mut space, START + 5_000), Some(5));
    assert!(space.contains(b"k", START + 6_000));
    assert_eq!(idle(&mut space, START + 16_000), Some(10));
    space.set_string(b"k", b"v", None);
    assert_eq!(idle(&mut space, START + 16_000), Some(0));
}

#[test]
fn a_shared_value_is_not_changed_under_its_holder() {
    let mut space = Keyspace::new(1);
    space.set_string(b"k", &[b'a'; 10_000], None);
    let Ok(Some(Str::Shared(held))) = space.string(b"k", START) else {
        panic!("a large value is shared")
    };
    let held = held.clone();
    let grow = |text: &mut Vec<u8>| text.push(b'b');
    space.update_string(b"k", START, grow).expect("a string");
    assert_eq!(held.len(), 10_000);
    assert_eq!(
        space
            .string(b"k", START)
            .map(|text| text.map(|text| text.as_bytes().len())),
        Ok(Some(10_001))
    );
}

#[test]
fn hashes_lose_their_fields_in_time_whether_read_or_not() {
    let mut space = Keyspace::new(1);
    let make = |space: &mut Keyspace, key: &[u8], due: &[Ms]| {
        let hash = space.get_or_create::<Hash>(key, START).expect("a hash");
        for (at, due) in due.iter().enumerate() {
            let field = [b'a' + at as u8];
            hash.set(&field, b"1");
            if *due > 0 {
                hash.set_deadline(&field, Some(START + due));
            }
        }
    };
    make(&mut space, b"all", &[10, 20]);
    make(&mut space, b"some", &[10, 0]);
    make(&mut space, b"none", &[0]);
    make(&mut space, b"read", &[10, 15, 0]);
    space.set_deadline(b"all", Some(START + 5_000), START);
    check(&mut space);
    assert_eq!((space.expiry.len(), space.expiring()), (4, 1));

    let read = space.get::<Hash>(b"read", START + 10).expect("a hash");
    assert_eq!(read.map(Hash::len), Some(2));
    let mut gone = Vec::new();
    space.expire_due(START + 12, 10, |key| gone.push(key.to_vec()));
    assert!(gone.is_empty());
    check(&mut space);
    assert_eq!(space.expiry.len(), 3);
    space.expire_due(START + 20, 10, |key| gone.push(key.to_vec()));
    assert_eq!(gone, [b"all"]);
    check(&mut space);
    assert_eq!((space.len(), space.expiry.len()), (3, 0));

    // A deadline that is taken back, and one on a hash that is then removed.
    make(&mut space, b"some", &[0, 50]);
    let some = space.get_mut::<Hash>(b"some", START + 20).expect("a hash");
    some.expect("present").set_deadline(b"b", None);
    make(&mut space, b"none", &[50]);
    assert!(space.remove(b"none", START + 21));
    check(&mut space);
    assert_eq!((space.len(), space.expiry.len()), (2, 0));

    // The last field goes when the key is looked at.
    make(&mut space, b"last", &[50]);
    assert_eq!(space.meta(b"last", START + 50), None);
    make(&mut space, b"last", &[50]);
    assert!(
        scan_all(&mut space, START + 50)
            .keys()
            .all(|key| key != b"last")
    );
    check(&mut space);
}

#[test]
fn large_collections_are_freed_in_slices() {
    let mut space = Keyspace::new(1);
    for key in [b"1", b"2", b"3"] {
        let hash = space.get_or_create::<Hash>(key, START).expect("a hash");
        for at in 0..10_000u32 {
            hash.set(&at.to_le_bytes(), b"value");
        }
    }
    assert!(space.remove(b"1", START));
    space.set_string(b"2", b"small", None);
    let mut calls = 0;
    while space.free_some(100) {
        calls += 1;
    }
    assert!(calls > 50, "{calls} calls");
    space.clear();
    assert!(space.free_some(100));
    while space.free_some(100) {}
    assert!(!space.free_some(100));
}

#[test]
fn due_keys_stay_while_a_primary_counts_the_time() {
    let mut space = Keyspace::new(1);
    let due = START + 10;
    for key in [b"a", b"b", b"c", b"d"] {
        space.set_string(key, b"1", Some(due));
    }
    let fields = space.get_or_create::<Hash>(b"h", START).expect("a hash");
    fields.set(b"f", b"1");
    fields.set_deadline(b"f", Some(due));
    space.due_keys(DueKeys::Hidden);
    // Nobody sees them.
    let seen = space.string(b"a", due).expect("no other type");
    assert!(seen.is_none());
    assert_eq!(space.meta(b"b", due), None);
    assert!(!space.contains(b"c", due));
    assert_eq!(scan_all(&mut space, due).keys().collect::<Vec<_>>(), [b"h"]);
    assert_eq!(space.over_by(due), due);
    assert_eq!(space.len(), 5);
    // Who changes one finds none there.
    assert!(!space.set_deadline(b"d", None, due));
    assert_eq!(space.len(), 4);
    check(&mut space);
    // The primary sees all of them.
    space.due_keys(DueKeys::Shown);
    assert_eq!(space.over_by(due), 0);
    assert!(space.set_deadline(b"a", None, due));
    assert!(space.remove(b"b", due));
    assert_eq!(scan_all(&mut space, due).len(), 3);
    let fields = space.get::<Hash>(b"h", due).expect("a hash");
    assert_eq!(fields.map(Hash::len), Some(1));
    check(&mut space);
    // Back to the node's own clock.
    space.due_keys(DueKeys::Go);
    assert!(space.contains(b"a", due));
    assert!(!space.contains(b"c", due));
    assert_eq!(scan_all(&mut space, due).len(), 1);
    assert_eq!(space.len(), 1);
    check(&mut space);
}
