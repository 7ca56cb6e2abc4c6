//! The log and the groups against naive twins.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Model = BTreeMap<StreamId, Vec<(Vec<u8>, Vec<u8>)>>;

#[derive(Clone, Debug)]
enum Step {
    /// Adds an entry this far above the last id.
    Add(u64, u64, Vec<(Vec<u8>, Vec<u8>)>),
    /// Removes the entry at this place, counted from the front.
    Remove(usize),
    Trim(u64),
    TrimNodes(u64, Option<u64>),
    MinId(usize),
    Range(usize, usize),
}

fn pair() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let name = prop_oneof![Just(b"a".to_vec()), Just(b"name".to_vec()), Just(vec![])];
    let size = prop_oneof![8 => 0..20usize, 1 => 100..300usize, 1 => 5000..5001usize];
    (name, size.prop_map(|size| vec![b'v'; size]))
}

fn step() -> impl Strategy<Value = Step> {
    let pairs = prop::collection::vec(pair(), 0..4);
    prop_oneof![
        20 => (0..3u64, 0..3u64, pairs).prop_map(|(ms, seq, pairs)| Step::Add(ms, seq, pairs)),
        4 => (0..400usize).prop_map(Step::Remove),
        1 => (0..400u64).prop_map(Step::Trim),
        1 => (0..400u64, prop::option::of(0..200u64)).prop_map(|(len, limit)| Step::TrimNodes(len, limit)),
        1 => (0..400usize).prop_map(Step::MinId),
        4 => (0..400usize, 0..400usize).prop_map(|(from, to)| Step::Range(from, to)),
    ]
}

fn as_pairs(pairs: &[(Vec<u8>, Vec<u8>)]) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
    pairs.iter().map(|(name, value)| (&name[..], &value[..]))
}

fn same(entry: Entry<'_>, id: StreamId, pairs: &[(Vec<u8>, Vec<u8>)]) {
    assert_eq!(entry.id, id);
    assert_eq!(entry.len(), pairs.len());
    assert!(entry.pairs().eq(as_pairs(pairs)));
}

/// The id at a place, or one that is in a gap or past the end.
fn id_near(model: &Model, at: usize) -> StreamId {
    match model.keys().nth(at / 2) {
        Some(id) if at.is_multiple_of(2) => *id,
        Some(id) => StreamId::new(id.ms, id.seq + 1),
        None => StreamId::MAX,
    }
}

fn check_whole(log: &Log, model: &Model) {
    assert_eq!(log.len(), model.len() as u64);
    let all = || log.range(StreamId::MIN, StreamId::MAX);
    assert_eq!(all().count(), model.len());
    for (entry, (id, pairs)) in all().zip(model) {
        same(entry, *id, pairs);
    }
    let back = log.range_rev(StreamId::MIN, StreamId::MAX);
    assert!(back.map(|entry| entry.id).eq(model.keys().rev().copied()));
    assert_eq!(
        log.first().map(|entry| entry.id),
        model.keys().next().copied()
    );
    assert_eq!(
        log.last().map(|entry| entry.id),
        model.keys().next_back().copied()
    );
}

fn run(steps: Vec<Step>) {
    let mut log = Log::default();
    let mut model = Model::new();
    for step in steps {
        match step {
            Step::Add(ms, seq, pairs) => {
                let last = log.last_id();
                let id = match ms {
                    0 => StreamId::new(last.ms, last.seq + seq + 1),
                    ms => StreamId::new(last.ms + ms, seq),
                };
                assert_eq!(log.add(NewId::Exact(id), as_pairs(&pairs), 0), Ok(id));
                assert_eq!(
                    log.add(NewId::Exact(id), as_pairs(&pairs), 0),
                    Err(IdTooSmall)
                );
                model.insert(id, pairs);
            }
            Step::Remove(at) => {
                let last = model.keys().next_back().copied();
                assert_eq!(log.last().map(|entry| entry.id), last);
                let id = id_near(&model, at);
                assert_eq!(log.contains(id), model.contains_key(&id));
                assert_eq!(log.remove(id), model.remove(&id).is_some());
            }
            Step::Trim(max) => {
                let before = model.len() as u64;
                while model.len() as u64 > max {
                    model.pop_first();
                }
                let removed = log.trim(Trim::MaxLen(max), false, None);
                assert_eq!(removed, before - model.len() as u64);
            }
            Step::TrimNodes(max, limit) => {
                let before = log.len();
                let removed = log.trim(Trim::MaxLen(max), true, limit);
                assert!(limit.is_none_or(|limit| removed <= limit));
                assert!(removed == 0 || log.len() >= max);
                assert_eq!(log.len(), before - removed);
                for _ in 0..removed {
                    model.pop_first();
                }
            }
            Step::MinId(at) => {
                let min = id_near(&model, at);
                let before = model.len();
                model.retain(|id, _| *id >= min);
                let removed = log.trim(Trim::MinId(min), false, None);
                assert_eq!(removed, (before - model.len()) as u64);
            }
            Step::Range(from, to) => {
                let (from, to) = (id_near(&model, from), id_near(&model, to));
                let want: Vec<StreamId> = if from <= to {
                    model.range(from..=to).map(|(id, _)| *id).collect()
                } else {
                    Vec::new()
                };
                let found = log.range(from, to).map(|entry| entry.id);
                assert!(found.eq(want.iter().copied()));
                let found = log.range_rev(from, to).map(|entry| entry.id);
                assert!(found.eq(want.iter().rev().copied()));
            }
        }
    }
    check_whole(&log, &model);
    let held: usize = log.clone().heap_bytes();
    assert!(model.is_empty() == (held == 0), "{held} bytes held");
    while !log.free_slice(7) {}
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_log_is_an_ordered_map(steps in prop::collection::vec(step(), 1..600)) {
        run(steps);
    }

    #[test]
    fn pending_entries_have_one_owner(
        steps in prop::collection::vec((0..5u8, 0..4u32, 1..40u64), 1..300)
    ) {
        let mut group = Group::default();
        let mut model: BTreeMap<u64, (String, u64)> = BTreeMap::new();
        for (now, (step, consumer, seq)) in steps.into_iter().enumerate() {
            let name = format!("c{consumer}");
            let id = StreamId::new(1, seq);
            match step {
                0..=2 => {
                    let at = group.create_consumer(name.as_bytes(), 0, None);
                    group.assign(id, at, now as u64, 1);
                    model.insert(seq, (name, now as u64));
                }
                3 => assert_eq!(group.acknowledge(id), model.remove(&seq).is_some()),
                _ => {
                    let known = group.find(name.as_bytes()).is_some();
                    let before = model.len();
                    model.retain(|_, (owner, _)| *owner != name);
                    let removed = group.remove_consumer(name.as_bytes());
                    assert_eq!(removed, known.then_some(before - model.len()));
                }
            }
            assert_eq!(group.pending_len(), model.len());
            for ((id, row), (seq, (owner, time))) in group.pending_range(..).zip(&model) {
                assert_eq!((id.seq, row.delivered), (*seq, *time));
                assert_eq!(group.consumer(row.consumer).name(), owner.as_bytes());
            }
            for (at, consumer) in group.consumers() {
                let name = String::from_utf8_lossy(consumer.name());
                let own = model.iter().filter(|(_, (owner, _))| *owner == name);
                assert!(group.pending_of(at, ..).map(|id| id.seq).eq(own.map(|(seq, _)| *seq)));
            }
        }
    }
}

#[test]
fn small_entries_fill_nodes_of_a_hundred() {
    let mut log = Log::default();
    for seq in 1..=250 {
        let pair = [(&b"field"[..], &b"value"[..])];
        let id = NewId::Exact(StreamId::new(1, seq));
        assert!(log.add(id, pair.iter().copied(), 0).is_ok());
    }
    assert_eq!(log.node_count(), 3);
    assert_eq!(log.trim(Trim::MaxLen(60), true, None), 100);
    assert_eq!(log.trim(Trim::MaxLen(60), true, Some(99)), 0);
    assert_eq!(log.trim(Trim::MaxLen(60), false, None), 90);
    // A hundred entries of one field cost little more than their values.
    assert!(log.heap_bytes() / 60 < 20, "{}", log.heap_bytes());
}

#[test]
fn generated_ids_rise_whatever_the_clock_does() {
    let mut log = Log::default();
    let mut add = |id, now| {
        log.add(id, std::iter::empty(), now)
            .map(|id| id.to_string())
    };
    assert_eq!(add(NewId::Auto, 5), Ok("5-0".into()));
    assert_eq!(add(NewId::Auto, 5), Ok("5-1".into()));
    assert_eq!(add(NewId::Auto, 3), Ok("5-2".into()));
    assert_eq!(add(NewId::AutoSeq(5), 9), Ok("5-3".into()));
    assert_eq!(add(NewId::AutoSeq(4), 9), Err(IdTooSmall));
    assert_eq!(add(NewId::AutoSeq(6), 9), Ok("6-0".into()));
    let full = StreamId::new(7, u64::MAX);
    assert!(add(NewId::Exact(full), 9).is_ok());
    assert_eq!(add(NewId::AutoSeq(7), 9), Err(IdTooSmall));
    assert_eq!(add(NewId::Auto, 7), Ok("8-0".into()));
    assert!(add(NewId::Exact(StreamId::MAX), 9).is_ok());
    assert_eq!(add(NewId::Auto, 9), Err(IdTooSmall));
}

#[test]
fn an_image_rebuilds_the_same_stream() {
    let mut stream = Stream::restored(StreamId::new(9, 9), StreamId::new(2, 0), 12);
    let pairs = [(&b"f"[..], &b"v"[..])];
    assert!(
        stream
            .log_mut()
            .restore(StreamId::new(1, 1), pairs.iter().copied())
    );
    assert!(
        !stream
            .log_mut()
            .restore(StreamId::new(1, 1), pairs.iter().copied())
    );
    let group = stream.create_group(b"g", StreamId::new(1, 1), Some(11));
    let group = group.expect("the name is free");
    let consumer = group.create_consumer(b"c", 40, Some(30));
    group.assign(StreamId::new(1, 1), consumer, 20, 3);
    assert_eq!(stream.log().last_id(), StreamId::new(9, 9));
    assert_eq!(stream.log().entries_added(), 12);
    let copy = stream.clone();
    assert!(stream.destroy_group(b"g") && !stream.destroy_group(b"g"));
    assert_eq!(copy.group(b"g").map(Group::pending_len), Some(1));
    while !stream.free_slice(1) {}
}
