//! What unmodified kevy releases sent, read by our replica side.

use std::fs;
use std::path::{Path, PathBuf};

use ringkeep::image::{self, Checker, ImageError, ImageReader, Record};
use ringkeep::repl::Position;
use ringkeep::repl::link::{Action, DropReason, Event, Link, LinkConfig, Wire};

const VERSIONS: [(&str, Wire); 6] = [
    ("1.19.0", Wire::W1),
    ("2.0.20", Wire::W1),
    ("3.17.3", Wire::W2),
    ("5.4.0", Wire::W3),
    ("6.4.0", Wire::W3),
    ("7.0.0", Wire::W3),
];

fn folder(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/kevy")
        .join(version)
}

fn read(version: &str, name: &str) -> Vec<u8> {
    fs::read(folder(version).join(name)).expect("capture")
}

/// Names of the captures of one version that end like this.
fn names(version: &str, end: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder(version))
        .expect("folder")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .into_string()
                .expect("name")
        })
        .filter(|name| name.ends_with(end))
        .collect();
    names.sort();
    names
}

/// Everything a link made of a capture.
#[derive(Debug, Default, PartialEq)]
struct Followed {
    handshake: Vec<u8>,
    wire: Option<Wire>,
    images: Vec<(Vec<u8>, Position)>,
    frames: Vec<(u64, Vec<Vec<u8>>)>,
    history_starts: usize,
    acks: Vec<String>,
    dropped: Option<DropReason>,
    used: usize,
    position: Position,
}

/// A link that asks what the replica of the capture asked.
fn link_for(version: Wire, name: &str, request: &[u8]) -> Link {
    let text = String::from_utf8_lossy(request);
    let words: Vec<_> = text
        .split("\r\n")
        .filter(|word| !word.starts_with(['*', '$']))
        .collect();
    let number = |at: usize| words[at].parse::<u64>().expect("number");
    let position = match version {
        Wire::W3 => Position {
            generation: number(2),
            offset: number(3),
        },
        Wire::W1 | Wire::W2 => Position {
            generation: 0,
            offset: number(2),
        },
    };
    let stream = name.contains("-s1-") as usize;
    let fresh = position == Position::UNKNOWN && version == Wire::W3;
    Link::new(
        LinkConfig::new(21100, stream),
        position,
        (!fresh).then_some(version),
    )
}

fn follow(mut link: Link, bytes: &[u8], cuts: &[usize]) -> Followed {
    let mut out = Followed::default();
    assert_eq!(link.poll(0), Some(Action::Connect));
    link.on_connected(1);
    let Some(Action::Send(handshake)) = link.poll(1) else {
        panic!("no handshake");
    };
    out.handshake = handshake;
    let mut acks = Vec::new();
    for &end in cuts.iter().chain([&bytes.len()]) {
        loop {
            let (used, event) = link.feed(2, &bytes[out.used.min(end)..end]);
            out.used += used;
            let mut applied = None;
            match event {
                None => break,
                Some(Event::Up { wire, .. }) => out.wire = Some(wire),
                Some(Event::HistoryStart) => out.history_starts += 1,
                Some(Event::SnapshotBegin) => {}
                Some(Event::Units(_)) => panic!("no kevy says that"),
                Some(Event::Snapshot(image)) => {
                    applied = Some(image.position.offset);
                    out.images.push((image.bytes, image.position));
                }
                Some(Event::Frame { offset, args }) => {
                    applied = Some(offset + 1);
                    out.frames
                        .push((offset, args.iter().map(<[u8]>::to_vec).collect()));
                }
            }
            if let Some(applied) = applied {
                link.applied_through(applied);
            }
            while let Some(action) = link.poll(2) {
                if let Action::Send(bytes) = action {
                    acks.push(String::from_utf8(bytes).expect("text"));
                }
            }
        }
        while let Some(action) = link.poll(2) {
            match action {
                Action::Send(bytes) => acks.push(String::from_utf8(bytes).expect("text")),
                Action::Drop { reason, .. } => out.dropped = Some(reason),
                Action::Connect => panic!("too early"),
            }
        }
    }
    out.acks = acks;
    out.wire = link.status(2).wire.or(out.wire);
    out.position = link.position();
    out
}

/// Frames, snapshots and end of every replication capture.
#[test]
fn every_stream_is_followed_to_its_end() {
    let mut seen = 0;
    for (version, wire) in VERSIONS {
        for name in names(version, ".p2r.bin") {
            let bytes = read(version, &name);
            let text = String::from_utf8_lossy(&bytes);
            let frame_count = text.matches("\r\n:").count();
            let image_count = text.matches("+SNAPSHOT_END ").count();
            let request = if name.starts_with("repl-") {
                read(version, &name.replace(".p2r.", ".r2p."))
            } else if wire == Wire::W3 {
                b"*6\r\n$9\r\nREPLICATE\r\n$4\r\nFROM\r\n$1\r\n0\r\n$1\r\n0\r\n$2\r\nID\r\n"
                    .to_vec()
            } else {
                b"*5\r\n$9\r\nREPLICATE\r\n$4\r\nFROM\r\n$1\r\n0\r\n$2\r\nID\r\n".to_vec()
            };
            let what = format!("{version}/{name}");
            let followed = follow(link_for(wire, &name, &request), &bytes, &[]);
            assert_eq!(followed.used, bytes.len(), "{what}");
            assert_eq!(followed.frames.len(), frame_count, "{what}");
            assert_eq!(followed.images.len(), image_count, "{what}");
            if followed.dropped.is_none() {
                assert_eq!(followed.wire, Some(wire), "{what}");
            }
            // FLUSHALL changes the generation under a living link, which the next ping tells.
            let flushed = name.contains("flushall-conn0") || name.contains("2shard");
            let flushed = flushed && name.contains("conn0") && wire != Wire::W1;
            let end = flushed.then_some(DropReason::GenerationChanged);
            assert_eq!(followed.dropped, end, "{what}");
            if name.starts_with("repl-") {
                assert_handshake(&followed.handshake, &request, wire, &what);
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 39);
}

/// Byte for byte the real replica's, but for the name: older ones use another, and ours says what we are.
fn assert_handshake(ours: &[u8], theirs: &[u8], wire: Wire, what: &str) {
    let len = ours.len() - b"$30\r\nkevy-replica-21100#0+ringkeep1\r\n".len();
    let (name, theirs_name) = (&ours[len..], &theirs[len..]);
    assert_eq!(&theirs[..len], &ours[..len], "{what}");
    assert!(name.starts_with(b"$30\r\nkevy-replica-21100#"), "{what}");
    assert!(name.ends_with(b"+ringkeep1\r\n"), "{what}");
    if wire == Wire::W3 {
        let same = b"$30\r\nkevy-replica-21100#0".len();
        assert_eq!(&theirs_name[5..same], &name[5..same], "{what}");
    }
}

#[test]
fn where_a_stream_is_cut_changes_nothing() {
    for (version, wire) in VERSIONS {
        for name in names(version, ".p2r.bin")
            .iter()
            .filter(|name| name.starts_with("repl-"))
        {
            let request = read(version, &name.replace(".p2r.", ".r2p."));
            let bytes = read(version, name);
            let mut whole = follow(link_for(wire, name, &request), &bytes, &[]);
            // How many pings one ACK answers depends on how they arrive.
            whole.acks.clear();
            for cut in 0..bytes.len() {
                let mut parts = follow(link_for(wire, name, &request), &bytes, &[cut]);
                parts.acks.clear();
                assert_eq!(parts, whole, "{version}/{name} cut at {cut}");
            }
            let each: Vec<_> = (0..bytes.len()).collect();
            let mut bytewise = follow(link_for(wire, name, &request), &bytes, &each);
            bytewise.acks.clear();
            assert_eq!(bytewise, whole, "{version}/{name} byte by byte");
        }
    }
}

#[test]
fn frames_are_the_commands_that_the_transcript_lists() {
    for (version, wire) in VERSIONS {
        let bytes = read(version, "repl-live.p2r.bin");
        let request = read(version, "repl-live.r2p.bin");
        let followed = follow(link_for(wire, "repl-live", &request), &bytes, &[]);
        let transcript =
            String::from_utf8(read(version, "frames-by-command-1shard.txt")).expect("text");
        let mut checked = 0;
        for line in transcript.lines().skip(1) {
            let Some((command, frames)) = line.split_once(" | ") else {
                continue;
            };
            // The transcript goes on with flushes, which the capture has not.
            if command.starts_with("FLUSH") {
                break;
            }
            for frame in frames.split(" ; ") {
                let Some((offset, words)) = frame.split_once(": ") else {
                    continue;
                };
                let offset: usize = offset.parse().expect("offset");
                let verb = words.split(' ').next().unwrap_or_default();
                let (got, args) = &followed.frames[offset];
                assert_eq!(*got as usize, offset);
                assert_eq!(
                    args[0].escape_ascii().to_string(),
                    verb,
                    "{version} offset {offset}"
                );
                checked += 1;
            }
        }
        assert!(checked >= 80, "{version}: {checked}");
    }
}

#[test]
fn a_resumed_link_goes_on_where_it_was() {
    for (version, wire) in VERSIONS
        .into_iter()
        .filter(|(version, _)| *version != "6.4.0")
    {
        let request = read(version, "repl-resume.r2p.bin");
        let bytes = read(version, "repl-resume.p2r.bin");
        let followed = follow(link_for(wire, "repl-resume", &request), &bytes, &[]);
        let set = |offset, key: &str, value: &str| {
            (
                offset,
                ["SET", key, value]
                    .map(|word| word.as_bytes().to_vec())
                    .to_vec(),
            )
        };
        assert_eq!(followed.frames, [set(2, "c", "3"), set(3, "d", "4")]);
        assert_eq!(followed.history_starts, 0);
        assert_eq!(followed.position.offset, 4);
        let acks: &[&str] = if wire == Wire::W1 {
            &[]
        } else {
            &["REPLCONF ACK 4\r\n"]
        };
        assert_eq!(followed.acks, acks, "{version}");
    }
}

#[test]
fn a_fresh_link_keeps_its_position_until_the_snapshot_has_ended() {
    for (version, wire) in VERSIONS {
        let request = read(version, "repl-snapshot.r2p.bin");
        let bytes = read(version, "repl-snapshot.p2r.bin");
        let end = bytes
            .windows(14)
            .position(|part| part == b"+SNAPSHOT_END ")
            .expect("end");
        for cut in 0..end {
            let followed = follow(
                link_for(wire, "repl-snapshot", &request),
                &bytes[..cut],
                &[],
            );
            assert_eq!(
                followed.position,
                Position::UNKNOWN,
                "{version} cut at {cut}"
            );
        }
        let followed = follow(link_for(wire, "repl-snapshot", &request), &bytes, &[]);
        let [(image, position)] = &followed.images[..] else {
            panic!("{version}: one image");
        };
        assert_eq!(image, &read(version, "snapshot-payload.bin"), "{version}");
        assert_eq!(position.offset, followed.frames[0].0);
        assert_eq!(followed.position.offset, position.offset + 1);
    }
}

/// All that an image holds, one line per record.
fn describe(bytes: &[u8]) -> Result<Vec<String>, ImageError> {
    let mut lines = Vec::new();
    let mut reader = ImageReader::new(bytes, 0)?;
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let name = |key: image::Key<'_>| match key.deadline {
        Some(at) => format!("{} until {at}", text(key.bytes)),
        None => text(key.bytes),
    };
    while let Some(record) = reader.next()? {
        lines.push(match record {
            Record::String { key, value } => format!("string {} = {}", name(key), text(value)),
            Record::Hash { key, pairs } => {
                let pairs: Vec<_> = pairs
                    .map(|(f, v)| format!("{}={}", text(f), text(v)))
                    .collect();
                format!("hash {} = {}", name(key), pairs.join(" "))
            }
            Record::List { key, elements } => {
                format!(
                    "list {} = {}",
                    name(key),
                    elements.map(text).collect::<Vec<_>>().join(" ")
                )
            }
            Record::Set { key, members } => {
                format!(
                    "set {} = {}",
                    name(key),
                    members.map(text).collect::<Vec<_>>().join(" ")
                )
            }
            Record::SortedSet { key, members } => {
                let members: Vec<_> = members.map(|(m, s)| format!("{}:{s}", text(m))).collect();
                format!("zset {} = {}", name(key), members.join(" "))
            }
            Record::Stream { key, meta, entries } => {
                let entries: Vec<_> = entries
                    .map(|entry| {
                        let fields = entry
                            .fields
                            .map(|(f, v)| format!("{}={}", text(f), text(v)));
                        let fields = fields.collect::<Vec<_>>().join(" ");
                        format!("[{}-{} {fields}]", entry.id.ms, entry.id.seq)
                    })
                    .collect();
                let (last, deleted) = (meta.last_id, meta.max_deleted_id);
                format!(
                    "stream {} last {}-{} deleted {}-{} added {} {}",
                    name(key),
                    last.ms,
                    last.seq,
                    deleted.ms,
                    deleted.seq,
                    meta.entries_added,
                    entries.join(" ")
                )
            }
            Record::Group(group) => {
                let consumers = group
                    .consumers
                    .map(|c| text(c.name))
                    .collect::<Vec<_>>()
                    .join(" ");
                let pending: Vec<_> = group
                    .pending
                    .map(|p| {
                        format!(
                            "{}-{}@{}x{}",
                            p.id.ms,
                            p.id.seq,
                            text(p.consumer),
                            p.delivery_count
                        )
                    })
                    .collect();
                format!(
                    "group {} of {} at {}-{} consumers {consumers} pending {}",
                    text(group.name),
                    text(group.key),
                    group.last_delivered.ms,
                    group.last_delivered.seq,
                    pending.join(" ")
                )
            }
            Record::FieldTtl {
                key,
                field,
                deadline,
            } => {
                format!("field {}.{} until {deadline}", text(key), text(field))
            }
            Record::GroupReads(reads) => {
                let active = reads
                    .active
                    .map(|c| text(c.name))
                    .collect::<Vec<_>>()
                    .join(" ");
                let wide = reads.wide.count();
                let (key, group) = (text(reads.key), text(reads.group));
                format!(
                    "reads {key} {group} {:?} active {active} wide {wide}",
                    reads.entries_read
                )
            }
            Record::Aux(aux) => format!("aux {}", aux.parts.count()),
        });
    }
    Ok(lines)
}

#[test]
fn the_small_image_holds_what_was_written() {
    let mut lines = describe(&read("7.0.0", "snapshot-small-payload.bin")).expect("good image");
    let wanted = [
        "list l = a b",
        "string k until 3999999999999 = v",
        "hash h = f=1",
        "set s = m",
        "stream x last 2-0 deleted 1-1 added 2 [2-0 f=v]",
        "group g of x at 2-0 consumers c pending 2-0@cx1",
        "zset z = m:2.5",
        "field h.f until 4000000000001",
        "aux 6",
        "reads x g Some(2) active c wide 0",
    ];
    assert_eq!(lines, wanted);
    let summary = image::check(&read("7.0.0", "snapshot-small-payload.bin")).expect("good image");
    assert_eq!(
        (summary.version, summary.key_count, summary.deadline_count),
        (6, 6, 1)
    );
    assert_eq!(
        (
            summary.field_deadline_count,
            summary.group_count,
            summary.end
        ),
        (1, 1, 408)
    );

    // Older versions wrote the same data, less what they do not know.
    let mut older = describe(&read("2.0.20", "snapshot-small-payload.bin")).expect("good image");
    let known = |line: &String| !line.starts_with("aux") && !line.starts_with("reads");
    lines.retain(|line| known(line) && !line.starts_with("field"));
    let sorted = |lines: &mut Vec<String>| {
        // Deadlines move by what passed between command and image.
        let mut lines: Vec<_> = lines
            .iter()
            .map(|line| line.replace("4000000000000", "3999999999999"))
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&mut older), sorted(&mut lines));
}

#[test]
fn every_full_image_holds_a_key_of_each_type() {
    for (version, _) in VERSIONS {
        let bytes = read(version, "snapshot-payload.bin");
        let lines = describe(&bytes).expect("good image");
        let find = |start: &str| {
            lines
                .iter()
                .find(|line| line.starts_with(start))
                .unwrap_or_else(|| panic!("{version}: {start} in {lines:#?}"))
        };
        assert!(
            find("list list").ends_with("= a b  c"),
            "{version}: {}",
            find("list list")
        );
        assert!(find("string str:plain").ends_with("= hello"));
        assert!(find("string str:int").ends_with("= 12345"));
        assert!(find("string str:empty").ends_with("= "));
        find("string str:ttl until ");
        assert_eq!(
            *find("zset zset"),
            format!(
                "zset zset = ninf:-inf neg:-0.1 one:1 two:2.5 big:{} pinf:inf",
                1e100
            )
        );
        find("hash hash:ttl until ");
        find("set set:int");
        find("stream stream:empty");
        find("stream stream last");
        find("group ");
        find("zset geo");
    }
}

#[test]
fn disk_images_are_read_too() {
    for version in ["1.19.0", "2.0.20", "5.4.0", "7.0.0"] {
        let bytes = read(version, "dump-0.rdb");
        let summary = image::check(&bytes).expect("good image");
        assert!(summary.key_count > 10, "{version}");
        assert!(describe(&bytes).is_ok());
        // Only 7.0 ends its files with an id that is none of the image's records.
        let rest = if version == "7.0.0" { 16 } else { 0 };
        assert_eq!(summary.end + rest, bytes.len(), "{version}");
    }
}

fn images() -> Vec<(String, Vec<u8>)> {
    let mut images = Vec::new();
    for (version, _) in VERSIONS {
        for end in ["payload.bin", ".rdb"] {
            for name in names(version, end) {
                images.push((format!("{version}/{name}"), read(version, &name)));
            }
        }
    }
    images
}

#[test]
fn an_image_cut_anywhere_is_incomplete() {
    for (name, bytes) in images() {
        let whole = image::check(&bytes).expect("good image");
        // Behind its end record, an image is complete wherever a trailer record begins or ends.
        let complete: Vec<_> = (0..whole.end)
            .filter(|&cut| image::check(&bytes[..cut]).is_ok())
            .collect();
        let trailer_count = describe(&bytes)
            .expect("good image")
            .iter()
            .filter(|line| line.starts_with("aux") || line.starts_with("reads"))
            .count();
        assert_eq!(complete.len(), trailer_count, "{name}: {complete:?}");
        for cut in 0..whole.end {
            let checked = image::check(&bytes[..cut]);
            assert_eq!(
                checked.is_ok(),
                describe(&bytes[..cut]).is_ok(),
                "{name} cut at {cut}"
            );
            if let Err(error) = checked {
                assert!(
                    matches!(error, ImageError::Truncated { at } if at <= cut),
                    "{name}: {error}"
                );
            }
        }
    }
}

#[test]
fn an_image_may_arrive_in_any_pieces() {
    for (name, bytes) in images() {
        let whole = image::check(&bytes).expect("good image");
        for len in [1, 2, 3, 7, 64] {
            let mut checker = Checker::default();
            for end in (0..bytes.len()).step_by(len) {
                checker
                    .feed(&bytes[..end])
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
            }
            assert_eq!(checker.finish(&bytes), Ok(whole), "{name} by {len}");
        }
    }
}

#[test]
fn a_flipped_byte_is_refused_or_read_the_same_by_checker_and_reader() {
    for (name, mut bytes) in images() {
        for at in 0..bytes.len() {
            let good = bytes[at];
            for bad in (0..8).map(|bit| good ^ (1 << bit)).chain([0, 0xff, 0x7f]) {
                bytes[at] = bad;
                let checked = image::check(&bytes);
                let read = describe(&bytes);
                // Which item the end of the image cuts is told less finely by the reader.
                let kind =
                    |error: Option<ImageError>| error.map(|error| std::mem::discriminant(&error));
                assert_eq!(
                    kind(checked.err()),
                    kind(read.err()),
                    "{name} byte {at} = {bad:#x}"
                );
                if let Ok(summary) = checked {
                    assert!(summary.end <= bytes.len());
                }
            }
            bytes[at] = good;
        }
    }
}

#[test]
fn a_spoiled_snapshot_drops_the_link_and_asks_for_all() {
    let request = read("7.0.0", "repl-snapshot.r2p.bin");
    let mut bytes = read("7.0.0", "repl-snapshot.p2r.bin");
    let magic = bytes
        .windows(8)
        .position(|part| part == b"KEVYSNAP")
        .expect("image");
    bytes[magic + 25] = 0x77;
    let link = link_for(Wire::W3, "repl-snapshot", &request);
    let followed = follow(link, &bytes, &[]);
    let reason = DropReason::BadImage(ImageError::UnknownRecord { at: 25, kind: 0x77 });
    assert_eq!(followed.dropped, Some(reason));
    assert_eq!(followed.images, []);
    assert_eq!(followed.position, Position::UNKNOWN);
}
