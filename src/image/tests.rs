use super::*;
use proptest::prelude::*;

/// An image as a list of parts.
struct Builder(Vec<u8>);

impl Builder {
    fn new(version: u8) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.push(version);
        if version >= 5 {
            bytes.extend([7_u64.to_le_bytes(), 9_u64.to_le_bytes()].concat());
        }
        Self(bytes)
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn number(self, number: u32) -> Self {
        self.raw(&number.to_le_bytes())
    }

    fn wide(self, number: u64) -> Self {
        self.raw(&number.to_le_bytes())
    }

    fn text(self, text: &str) -> Self {
        self.number(text.len() as u32).raw(text.as_bytes())
    }

    fn key(self, kind: u8, key: &str) -> Self {
        self.raw(&[kind, 0]).text(key)
    }

    fn end(self) -> Vec<u8> {
        self.raw(&[END]).0
    }
}

#[test]
fn each_version_has_its_own_header() {
    for version in 2..=7 {
        let bytes = Builder::new(version).key(STRING, "k").text("v").end();
        let summary = check(&bytes).expect("good image");
        assert_eq!(
            (summary.version, summary.key_count, summary.end),
            (version, 1, bytes.len())
        );
        assert_eq!(summary.feed, if version >= 5 { (7, 9) } else { (0, 0) });
    }
    for version in [0, 1, 8, 255] {
        assert_eq!(
            check(&Builder::new(version).end()),
            Err(ImageError::UnsupportedVersion(version))
        );
    }
    assert_eq!(check(b"REDIS0011"), Err(ImageError::BadMagic));
    assert_eq!(check(b"K"), Err(ImageError::Truncated { at: 0 }));
    assert_eq!(Checker::default().feed(b"KX"), Err(ImageError::BadMagic));
    assert_eq!(
        ImageReader::new(b"KEVY", 0).err(),
        Some(ImageError::Truncated { at: 0 })
    );
}

#[test]
fn version_2_counts_time_to_live_from_now() {
    for (version, ttl, deadline) in [(2, 50, 1050), (3, 50, 50), (2, u64::MAX, u64::MAX)] {
        let bytes = Builder::new(version)
            .raw(&[STRING, 1])
            .wide(ttl)
            .text("k")
            .text("v")
            .end();
        let mut reader = ImageReader::new(bytes, 1000).expect("good image");
        let Ok(Some(Record::String { key, value })) = reader.next() else {
            panic!("a string");
        };
        assert_eq!(
            (key.bytes, key.deadline, value),
            (&b"k"[..], Some(deadline), &b"v"[..])
        );
        assert!(reader.next().expect("good image").is_none());
    }
}

#[test]
fn another_ttl_flag_than_one_means_none() {
    let bytes = Builder::new(4).raw(&[STRING, 2]).text("k").text("v").end();
    assert_eq!(
        check(&bytes).map(|summary| (summary.key_count, summary.deadline_count)),
        Ok((1, 0))
    );
}

#[test]
fn records_exist_from_their_version_on() {
    let field = |version| {
        Builder::new(version)
            .raw(&[FIELD_TTL])
            .text("h")
            .text("f")
            .wide(1)
            .end()
    };
    assert_eq!(
        check(&field(5)),
        Err(ImageError::UnknownRecord {
            at: 25,
            kind: FIELD_TTL
        })
    );
    assert_eq!(
        check(&field(6)).map(|summary| summary.field_deadline_count),
        Ok(1)
    );
    let stub = |version| {
        Builder::new(version)
            .key(SEGMENT_STUB, "k")
            .number(1)
            .number(2)
            .end()
    };
    assert_eq!(
        check(&stub(6)),
        Err(ImageError::UnknownRecord {
            at: 25,
            kind: SEGMENT_STUB
        })
    );
    assert_eq!(check(&stub(7)), Err(ImageError::SegmentStub { at: 25 }));
    let other = Builder::new(4).raw(&[9]).end();
    assert_eq!(
        check(&other),
        Err(ImageError::UnknownRecord { at: 9, kind: 9 })
    );
}

#[test]
fn streams_have_groups_from_version_4_on() {
    let stream = |version| {
        Builder::new(version)
            .key(STREAM, "x")
            .raw(&[0; 40])
            .number(1)
            .wide(1)
            .wide(2)
            .number(1)
            .text("f")
            .text("v")
    };
    assert_eq!(
        check(&stream(3).end()).map(|summary| summary.group_count),
        Ok(0)
    );
    let group = stream(4)
        .number(2)
        .text("g")
        .raw(&[0; 16])
        .number(0)
        .number(0);
    let groups = group.text("g2").raw(&[0; 16]).number(0).number(0).end();
    assert_eq!(check(&groups).map(|summary| summary.group_count), Ok(2));
}

#[test]
fn a_score_is_a_number() {
    let scored = |score: f64| {
        Builder::new(4)
            .key(SORTED_SET, "z")
            .number(1)
            .text("m")
            .wide(score.to_bits())
            .end()
    };
    assert!(check(&scored(f64::NEG_INFINITY)).is_ok());
    assert_eq!(
        check(&scored(f64::NAN)),
        Err(ImageError::BadScore { at: 20 })
    );
    let mut reader = ImageReader::new(scored(f64::NAN), 0).expect("header");
    let Ok(Some(Record::SortedSet { members, .. })) = reader.next() else {
        panic!("a sorted set");
    };
    assert_eq!(members.count(), 0);
    assert_eq!(reader.next().err(), Some(ImageError::BadScore { at: 20 }));
    assert_eq!(reader.next().err(), Some(ImageError::BadScore { at: 20 }));
    assert!(reader.resume().is_none());
}

#[test]
fn a_false_count_reserves_nothing() {
    for (kind, item_len_min) in [(HASH, 8), (LIST, 4), (SET, 4), (SORTED_SET, 12)] {
        let bytes = Builder::new(4)
            .key(kind, "k")
            .number(u32::MAX)
            .raw(&[0; 24])
            .0;
        assert!(matches!(check(&bytes), Err(ImageError::Truncated { .. })));
        let mut reader = ImageReader::new(&bytes[..], 0).expect("header");
        let hint = match reader.next().expect("head") {
            Some(Record::Hash { pairs, .. }) => pairs.size_hint(),
            Some(
                Record::List {
                    elements: items, ..
                }
                | Record::Set { members: items, .. },
            ) => items.size_hint(),
            Some(Record::SortedSet { members, .. }) => members.size_hint(),
            other => panic!("{other:?}"),
        };
        assert_eq!(hint.0, 24 / item_len_min);
    }
}

#[test]
fn one_auxiliary_frame_is_read_and_the_rest_is_ignored() {
    let aux = |builder: Builder| builder.raw(&[AUX]).number(1).text("X");
    let bytes = aux(Builder(Builder::new(4).end()));
    let end = bytes.0.len();
    let twice = aux(bytes).0;
    assert_eq!(check(&twice).map(|summary| summary.end), Ok(end));
    let mut reader = ImageReader::new(&twice[..], 0).expect("header");
    assert!(matches!(reader.next(), Ok(Some(Record::Aux(aux))) if aux.parts.eq([b"X"])));
    assert!(matches!(reader.next(), Ok(None)));
    assert!(matches!(reader.next(), Ok(None)));
    let cut = &twice[..end - 1];
    assert!(matches!(check(cut), Err(ImageError::Truncated { .. })));
    let trash = [Builder::new(4).end(), b"trash".to_vec()].concat();
    assert_eq!(check(&trash).map(|summary| summary.end), Ok(10));
}

#[test]
fn a_collection_is_loaded_in_slices() {
    let mut builder = Builder::new(4).key(LIST, "l").number(5);
    for element in ["a", "b", "c", "d", "e"] {
        builder = builder.text(element);
    }
    let bytes = builder.key(STRING, "s").text("v").end();
    let mut reader = ImageReader::new(bytes::Bytes::from(bytes), 0).expect("header");
    let mut seen = Vec::new();
    let Ok(Some(Record::List { key, mut elements })) = reader.next() else {
        panic!("a list");
    };
    assert!(!key.is_resumed);
    seen.extend(elements.by_ref().take(2).map(<[u8]>::to_vec));
    while let Some(Record::List { key, mut elements }) = reader.resume() {
        assert!(key.is_resumed && key.bytes == b"l");
        seen.extend(elements.by_ref().take(2).map(<[u8]>::to_vec));
    }
    assert_eq!(seen.concat(), b"abcde");
    assert!(matches!(
        reader.next(),
        Ok(Some(Record::String { value: b"v", .. }))
    ));
    assert!(reader.resume().is_none());
}

#[test]
fn next_skips_what_was_not_read() {
    let bytes = Builder::new(4)
        .key(SET, "s")
        .number(2)
        .text("a")
        .text("b")
        .key(STRING, "k")
        .text("v")
        .end();
    let mut reader = ImageReader::new(bytes, 0).expect("header");
    assert!(matches!(reader.next(), Ok(Some(Record::Set { .. }))));
    assert!(matches!(
        reader.next(),
        Ok(Some(Record::String { value: b"v", .. }))
    ));
}

/// Drives a reader to its end, every item of it, stopping in the middle as `budget` says.
fn read_all(bytes: &[u8], budget: usize) -> Result<usize, ImageError> {
    let mut reader = ImageReader::new(bytes, 0)?;
    let mut count = 0;
    let mut is_resuming = false;
    loop {
        let record = if is_resuming { reader.resume() } else { None };
        let record = match record {
            Some(record) => record,
            None => match reader.next()? {
                Some(record) => record,
                None => return Ok(count),
            },
        };
        is_resuming = true;
        count += match record {
            Record::Hash { pairs, .. } => pairs.take(budget).count(),
            Record::List { elements, .. } => elements.take(budget).count(),
            Record::Set { members, .. } => members.take(budget).count(),
            Record::SortedSet { members, .. } => members.take(budget).count(),
            Record::Stream { entries, .. } => entries
                .take(budget)
                .map(|entry| 1 + entry.fields.count())
                .sum(),
            Record::Group(group) => group.consumers.count() + group.pending.count(),
            Record::GroupReads(reads) => reads.active.count() + reads.wide.count(),
            Record::Aux(aux) => aux.parts.count(),
            Record::String { .. } | Record::FieldTtl { .. } => 1,
        };
    }
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..6).prop_map(|text| {
        let len = (text.len() as u32).to_le_bytes();
        [&len[..], &text].concat()
    })
}

fn items(item: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(item, 0..5)
        .prop_map(|items| [&(items.len() as u32).to_le_bytes()[..], &items.concat()].concat())
}

fn fixed(len: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), len)
}

fn joined(parts: impl Strategy<Value = (Vec<u8>, Vec<u8>)>) -> impl Strategy<Value = Vec<u8>> {
    parts.prop_map(|(first, second)| [first, second].concat())
}

fn record() -> impl Strategy<Value = Vec<u8>> {
    let pair = || joined((text(), text()));
    let score = any::<f64>().prop_filter("number", |score| !score.is_nan());
    let member = joined((
        text(),
        score.prop_map(|score| score.to_bits().to_le_bytes().to_vec()),
    ));
    let entry = joined((fixed(16), items(pair())));
    let pending = joined((joined((fixed(16), text())), fixed(12)));
    let group = joined((
        joined((text(), fixed(16))),
        joined((items(joined((text(), fixed(8)))), items(pending))),
    ));
    let stream = joined((fixed(40), joined((items(entry), items(group)))));
    let payload = prop_oneof![
        text().prop_map(|payload| (STRING, payload)),
        items(pair()).prop_map(|payload| (HASH, payload)),
        items(text()).prop_map(|payload| (LIST, payload)),
        items(text()).prop_map(|payload| (SET, payload)),
        items(member).prop_map(|payload| (SORTED_SET, payload)),
        stream.prop_map(|payload| (STREAM, payload)),
    ];
    (payload, text(), any::<Option<u64>>()).prop_map(|((kind, payload), key, ttl)| {
        let mut bytes = vec![kind, ttl.is_some() as u8];
        bytes.extend(ttl.iter().flat_map(|ttl| ttl.to_le_bytes()));
        [bytes, key, payload].concat()
    })
}

fn image() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(record(), 0..8)
        .prop_map(|records| Builder::new(6).raw(&records.concat()).end())
}

proptest! {
    #[test]
    fn good_images_are_accepted_and_read_alike_in_any_slices(bytes in image(), budget in 1..4_usize) {
        prop_assert!(check(&bytes).is_ok());
        prop_assert_eq!(read_all(&bytes, budget), read_all(&bytes, usize::MAX));
    }

    #[test]
    fn checker_and_reader_agree_on_spoiled_images(
        mut bytes in image(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        budget in 1..4_usize,
    ) {
        for (at, to) in flips {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        prop_assert_eq!(check(&bytes).is_ok(), read_all(&bytes, budget).is_ok());
        bytes.truncate(cut.index(bytes.len()));
        prop_assert_eq!(check(&bytes).is_ok(), read_all(&bytes, budget).is_ok());
    }

    #[test]
    fn a_checker_fed_in_pieces_says_the_same(
        mut bytes in image(),
        flip in any::<Option<(prop::sample::Index, u8)>>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        if let Some((at, to)) = flip {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.sort_unstable();
        let mut checker = Checker::default();
        let fed = cuts.iter().try_for_each(|&cut| checker.feed(&bytes[..cut]));
        prop_assert_eq!(fed.and_then(|()| checker.finish(&bytes)), check(&bytes));
    }
}

/// A body with one record of each type, among them one that goes on and one of an absent key.
fn body() -> Vec<u8> {
    let mut bytes = Vec::new();
    let id = |ms| EntryId { ms, seq: 0 };
    let mut writer = Writer::new(&mut bytes);
    writer.string(b"s", Some(9), b"v");
    let kinds = [
        (ItemKind::Hash, false, &b"h"[..]),
        (ItemKind::Set, false, b"t"),
        (ItemKind::List, true, b"l"),
        (ItemKind::SortedSet, true, b"z"),
    ];
    for (kind, is_more, key) in kinds {
        let mut items = writer.begin(kind, is_more, key, None);
        match kind {
            ItemKind::Hash => writer.pair(&mut items, b"f", b"v"),
            ItemKind::SortedSet => writer.member(&mut items, b"m", 1.5),
            ItemKind::List => writer.element(&mut items, b"e"),
            ItemKind::Set => {}
        }
        writer.end(items);
    }
    writer.field_deadline(b"h", b"f", 7);
    let meta = StreamMeta {
        last_id: id(2),
        max_deleted_id: id(1),
        entries_added: 2,
    };
    writer.stream(b"x", None, meta, 1);
    writer.entry(id(2), [(&b"f"[..], &b"v"[..])].into_iter());
    writer.groups(1);
    let consumer = Consumer { name: b"c", at: 5 };
    let pending = Pending {
        id: id(2),
        consumer: b"c",
        delivered_at: 5,
        delivery_count: u32::MAX,
    };
    writer.group(b"g", id(2), [consumer].into_iter(), [pending].into_iter());
    let wide = WideCount {
        id: id(2),
        delivery_count: 1 << 40,
    };
    writer.group_reads(
        b"x",
        b"g",
        Some(1),
        [consumer].into_iter(),
        [wide].into_iter(),
    );
    writer.string(b"s2", None, b"");
    bytes
}

fn names(bytes: &[u8]) -> Result<Vec<String>, ImageError> {
    let mut reader = ImageReader::of_body(bytes);
    let mut names = Vec::new();
    while let Some(record) = reader.next()? {
        let is_resumed = matches!(
            record,
            Record::List { key, .. } | Record::SortedSet { key, .. } if key.is_resumed
        );
        let name = String::from_utf8_lossy(record.key().expect("all have a key")).into_owned();
        names.push(if is_resumed { format!("+{name}") } else { name });
    }
    Ok(names)
}

#[test]
fn a_body_ends_with_its_bytes_and_has_everything_in_its_place() {
    let bytes = body();
    let wanted = ["s", "h", "t", "+l", "+z", "h", "x", "x", "x", "s2"];
    assert_eq!(names(&bytes).expect("a good body"), wanted);
    assert_eq!(names(&[]), Ok(Vec::new()));
    let unknown = |kind| Err(ImageError::UnknownRecord { at: 0, kind });
    for kind in [END, SEGMENT_STUB, AUX, 12, 255] {
        assert_eq!(names(&[kind, 0, 0]), unknown(kind));
    }
    // Only collections go on.
    for kind in [END, STRING, STREAM, MORE] {
        assert_eq!(names(&[MORE, kind, 0]), unknown(kind));
    }
    // Neither do images know what is ours.
    let image = Builder::new(6).raw(&[MORE]).key(LIST, "l").number(0).end();
    let error = ImageError::UnknownRecord { at: 25, kind: MORE };
    assert_eq!(check(&image), Err(error));
}

#[test]
fn a_body_cut_anywhere_but_between_records_is_incomplete() {
    let bytes = body();
    let mut good = Vec::new();
    for cut in 0..bytes.len() {
        match names(&bytes[..cut]) {
            Ok(names) => good.push(names.len()),
            Err(error) => assert!(matches!(error, ImageError::Truncated { .. }), "{error}"),
        }
    }
    // The stream and its group are one.
    assert_eq!(good, [0, 1, 2, 3, 4, 5, 6, 8, 9]);
}

#[test]
fn strings_are_taken_until_something_else_comes() {
    let bytes = body();
    let mut reader = ImageReader::of_body(&bytes[..]);
    let mut strings = arrayvec::ArrayVec::<_, 4>::new();
    reader.strings(&mut strings).expect("good");
    let first = StringRecord {
        key: b"s",
        value: b"v",
        deadline: Some(9),
    };
    assert_eq!(strings[..], [first]);
    strings.clear();
    reader.strings(&mut strings).expect("good");
    assert!(strings.is_empty());
    assert!(matches!(reader.next(), Ok(Some(Record::Hash { .. }))));
    // Inside of the hash.
    reader.strings(&mut strings).expect("good");
    assert!(strings.is_empty());
    let mut cut = ImageReader::of_body(&bytes[..5]);
    assert_eq!(
        cut.strings(&mut strings),
        Err(ImageError::Truncated { at: 0 })
    );
    assert!(cut.next().is_err());
}
