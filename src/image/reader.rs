//! Hands out the records of an image, a slice of them at a time.

use super::check::{Phase, Walk};
use super::{Cursor, EntryId, Fault, Head, ImageError, ItemKind, RELATIVE_UNTIL, StreamMeta, Tail};

/// Reads an image record by record. It owns its bytes (`Vec<u8>`, `Arc<[u8]>`, `bytes::Bytes`, or borrows
/// them as `&[u8]`), so that it can be kept from turn to turn.
///
/// Read images that [`check`](super::check()) accepted. On others nothing panics and nothing allocates, but
/// records before the fault have been handed out when the fault is met: the items of a faulty collection
/// end early, and the next call of [`next`](Self::next) returns the error.
///
/// The items of a collection are read as its iterator is driven. To stop in the middle of one, drop the
/// iterator and call [`resume`](Self::resume) in the next turn.
#[derive(Clone, Debug)]
pub struct ImageReader<B> {
    bytes: B,
    now: u64,
    walk: Walk,
    open: Option<Open>,
    fault: Option<ImageError>,
}

/// The collection whose items are being read: enough to name it again.
#[derive(Clone, Copy, Debug)]
struct Open {
    kind: OpenKind,
    key: (usize, usize),
    deadline: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
enum OpenKind {
    Items(ItemKind),
    Stream(StreamMeta),
}

/// The key of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key<'a> {
    /// The key's bytes.
    pub bytes: &'a [u8],
    /// When it expires, in Unix ms. Records of version 2 carry the remaining time; they count from the
    /// `now` that the reader was made with.
    pub deadline: Option<u64>,
    /// The record was begun in an earlier call; its items go on here.
    pub is_resumed: bool,
}

/// One record. Keys come in no order; nothing keeps a hostile image from naming a key or a member twice.
#[derive(Debug)]
pub enum Record<'a> {
    /// A string; integers are decimal text.
    String {
        /// Its key.
        key: Key<'a>,
        /// Its value.
        value: &'a [u8],
    },
    /// A hash.
    Hash {
        /// Its key.
        key: Key<'a>,
        /// Its fields and values. May be empty: no key is to be made then.
        pairs: Pairs<'a>,
    },
    /// A list.
    List {
        /// Its key.
        key: Key<'a>,
        /// Its elements, head first. May be empty: no key is to be made then.
        elements: Elements<'a>,
    },
    /// A set.
    Set {
        /// Its key.
        key: Key<'a>,
        /// Its members. May be empty: no key is to be made then.
        members: Elements<'a>,
    },
    /// A sorted set.
    SortedSet {
        /// Its key.
        key: Key<'a>,
        /// Its members with their scores, never NaN, as kevy writes them in ascending order. May be
        /// empty: no key is to be made then.
        members: Members<'a>,
    },
    /// A stream without its groups, which follow as [`Record::Group`]. An empty stream is a key.
    Stream {
        /// Its key.
        key: Key<'a>,
        /// Its counters.
        meta: StreamMeta,
        /// Its entries, as kevy writes them in ascending order, which a hostile image need not.
        entries: Entries<'a>,
    },
    /// A consumer group of the stream that came last.
    Group(Group<'a>),
    /// A hash field's deadline. The hash or the field may not exist: ignore it then.
    FieldTtl {
        /// The hash.
        key: &'a [u8],
        /// The field.
        field: &'a [u8],
        /// Unix ms.
        deadline: u64,
    },
    /// How far a group has read and who is active in it.
    GroupReads(GroupReads<'a>),
    /// A command of kevy's own; may be ignored.
    Aux(Aux<'a>),
}

/// A consumer group.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// The stream's key.
    pub key: &'a [u8],
    /// The group's name.
    pub name: &'a [u8],
    /// The last id delivered to it.
    pub last_delivered: EntryId,
    /// Its consumers.
    pub consumers: Consumers<'a>,
    /// What was delivered and not acknowledged.
    pub pending: PendingRows<'a>,
}

/// A trailer record about one group.
#[derive(Clone, Copy, Debug)]
pub struct GroupReads<'a> {
    /// The stream's key.
    pub key: &'a [u8],
    /// The group's name.
    pub group: &'a [u8],
    /// Entries the group has read, if that is known.
    pub entries_read: Option<u64>,
    /// Consumers with the time they were last active, instead of last seen.
    pub active: Consumers<'a>,
    /// Delivery counts that do not fit the u32 of [`Pending`].
    pub wide: Wide<'a>,
}

/// The auxiliary frame.
#[derive(Clone, Copy, Debug)]
pub struct Aux<'a> {
    /// Its arguments, the command's name first.
    pub parts: Parts<'a>,
}

/// An entry of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its id.
    pub id: EntryId,
    /// Its fields and values.
    pub fields: Fields<'a>,
}

/// A consumer of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Consumer<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// When it was last seen (in [`Group`]) or active (in [`GroupReads`]), in Unix ms.
    pub at: u64,
}

/// An entry that was delivered and not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pending<'a> {
    /// The entry.
    pub id: EntryId,
    /// Who has it.
    pub consumer: &'a [u8],
    /// When it was delivered last, in Unix ms.
    pub delivered_at: u64,
    /// How often.
    pub delivery_count: u32,
}

/// A delivery count above 2^32 - 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WideCount {
    /// The pending entry.
    pub id: EntryId,
    /// How often it was delivered.
    pub delivery_count: u64,
}

impl<B: AsRef<[u8]>> ImageReader<B> {
    /// A reader at the first record. `now` is Unix ms.
    ///
    /// # Errors
    /// The header is no image's, or of a version that is not known.
    pub fn new(bytes: B, now: u64) -> Result<Self, ImageError> {
        let mut walk = Walk::default();
        let mut cursor = Cursor {
            bytes: bytes.as_ref(),
            at: 0,
        };
        walk.advance(&mut cursor)
            .map_err(|fault| final_error(fault, 0))?;
        Ok(Self {
            bytes,
            now,
            walk,
            open: None,
            fault: None,
        })
    }

    /// The next record, or `None` behind the last. Items of the record before that were not read are
    /// skipped.
    ///
    /// # Errors
    /// The image is faulty here; the same error returns from every later call.
    #[allow(clippy::should_implement_trait)] // a record borrows from the reader
    pub fn next(&mut self) -> Result<Option<Record<'_>>, ImageError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        match self.step() {
            Ok(step) => Ok(self.record(step)),
            Err(fault) => {
                let error = final_error(fault, self.walk.at);
                self.fault = Some(error);
                Err(error)
            }
        }
    }

    /// Was the last record left with items unread?
    pub fn is_inside(&self) -> bool {
        self.fault.is_none() && is_open(self.walk.phase)
    }

    /// The record whose items were left unread in part, to go on with them; `None` if there is none, which
    /// includes a collection whose items ended in a fault.
    pub fn resume(&mut self) -> Option<Record<'_>> {
        if self.fault.is_some() || !is_open(self.walk.phase) {
            return None;
        }
        Some(self.open_record(self.open?, true))
    }

    /// How many bytes of the image have been read.
    pub fn read_len(&self) -> usize {
        self.walk.at
    }

    /// The whole image.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// Goes to the next record and takes its head, as places in the image: a borrow of a record inside the
    /// loop that skips to it would last too long.
    fn step(&mut self) -> Result<Step, Fault> {
        let bytes = self.bytes.as_ref();
        let mut cursor = Cursor {
            bytes,
            at: self.walk.at,
        };
        let place = |part: &[u8]| {
            let start = part.as_ptr().addr() - bytes.as_ptr().addr();
            (start, start + part.len())
        };
        loop {
            match self.walk.phase {
                Phase::Record => match self.walk.head(&mut cursor)? {
                    Head::End => {}
                    Head::String { key, ttl, value } => {
                        return Ok(Step::String {
                            key: place(key),
                            ttl,
                            value: place(value),
                        });
                    }
                    Head::Items { kind, key, ttl, .. } => {
                        return Ok(Step::Open {
                            kind: OpenKind::Items(kind),
                            key: place(key),
                            ttl,
                        });
                    }
                    Head::Stream { key, ttl, meta, .. } => {
                        return Ok(Step::Open {
                            kind: OpenKind::Stream(meta),
                            key: place(key),
                            ttl,
                        });
                    }
                    Head::FieldTtl {
                        key,
                        field,
                        deadline,
                    } => {
                        return Ok(Step::FieldTtl {
                            key: place(key),
                            field: place(field),
                            deadline,
                        });
                    }
                },
                Phase::Groups(left) if left > 0 => {
                    let start = cursor.at;
                    // The whole group is walked here, so that its two lists can be handed out together.
                    let end = Phase::Groups(left - 1);
                    while self.walk.phase != end {
                        self.walk.advance(&mut cursor)?;
                    }
                    return Ok(Step::Group { start });
                }
                Phase::Trailer if cursor.at == bytes.len() => return Ok(Step::End),
                Phase::Trailer => {
                    let start = cursor.at;
                    let step = match self.walk.tail(&mut cursor)? {
                        Tail::End => return Ok(Step::End),
                        Tail::Aux { .. } => Step::Aux { start },
                        Tail::Reads { .. } => Step::Reads { start },
                    };
                    while self.walk.phase != Phase::Trailer {
                        self.walk.advance(&mut cursor)?;
                    }
                    return Ok(step);
                }
                Phase::Done => return Ok(Step::End),
                _ => {
                    self.walk.advance(&mut cursor)?;
                }
            }
        }
    }

    fn record(&mut self, step: Step) -> Option<Record<'_>> {
        match step {
            Step::Open { kind, key, ttl } => {
                let open = Open {
                    kind,
                    key,
                    deadline: self.deadline(ttl),
                };
                self.open = Some(open);
                Some(self.open_record(open, false))
            }
            Step::String { key, ttl, value } => {
                let bytes = self.bytes.as_ref();
                let key = Key {
                    bytes: &bytes[key.0..key.1],
                    deadline: self.deadline(ttl),
                    is_resumed: false,
                };
                Some(Record::String {
                    key,
                    value: &bytes[value.0..value.1],
                })
            }
            Step::FieldTtl {
                key,
                field,
                deadline,
            } => {
                let bytes = self.bytes.as_ref();
                let (key, field) = (&bytes[key.0..key.1], &bytes[field.0..field.1]);
                Some(Record::FieldTtl {
                    key,
                    field,
                    deadline,
                })
            }
            // The three below were walked to their end already: reading them again cannot fail.
            Step::Group { start } => {
                let key = self.open.map_or((0, 0), |open| open.key);
                let bytes = self.bytes.as_ref();
                group(Cursor { bytes, at: start }, &bytes[key.0..key.1])
                    .ok()
                    .map(Record::Group)
            }
            Step::Reads { start } => reads(self.cursor(start)).ok().map(Record::GroupReads),
            Step::Aux { start } => aux(self.cursor(start)).ok().map(Record::Aux),
            Step::End => None,
        }
    }

    fn open_record(&mut self, open: Open, is_resumed: bool) -> Record<'_> {
        let bytes = self.bytes.as_ref();
        let key = Key {
            bytes: &bytes[open.key.0..open.key.1],
            deadline: open.deadline,
            is_resumed,
        };
        let cursor = Cursor {
            bytes,
            at: self.walk.at,
        };
        let live = Live {
            cursor,
            walk: &mut self.walk,
            fault: &mut self.fault,
        };
        match open.kind {
            OpenKind::Items(ItemKind::Hash) => Record::Hash {
                key,
                pairs: Pairs(live),
            },
            OpenKind::Items(ItemKind::List) => Record::List {
                key,
                elements: Elements(live),
            },
            OpenKind::Items(ItemKind::Set) => Record::Set {
                key,
                members: Elements(live),
            },
            OpenKind::Items(ItemKind::SortedSet) => Record::SortedSet {
                key,
                members: Members(live),
            },
            OpenKind::Stream(meta) => Record::Stream {
                key,
                meta,
                entries: Entries(live),
            },
        }
    }

    fn cursor(&self, at: usize) -> Cursor<'_> {
        Cursor {
            bytes: self.bytes.as_ref(),
            at,
        }
    }

    fn deadline(&self, ttl: Option<u64>) -> Option<u64> {
        let start = if self.walk.header.version <= RELATIVE_UNTIL {
            self.now
        } else {
            0
        };
        ttl.map(|ttl| start.saturating_add(ttl))
    }
}

/// What [`ImageReader::step`] found, by place.
enum Step {
    Open {
        kind: OpenKind,
        key: (usize, usize),
        ttl: Option<u64>,
    },
    String {
        key: (usize, usize),
        ttl: Option<u64>,
        value: (usize, usize),
    },
    FieldTtl {
        key: (usize, usize),
        field: (usize, usize),
        deadline: u64,
    },
    Group {
        start: usize,
    },
    Reads {
        start: usize,
    },
    Aux {
        start: usize,
    },
    End,
}

fn group<'a>(mut cursor: Cursor<'a>, key: &'a [u8]) -> Result<Group<'a>, Fault> {
    let name = cursor.string()?;
    let last_delivered = cursor.id()?;
    let left = cursor.u32()?;
    let consumers = Consumers(Run { cursor, left });
    for _ in 0..left {
        cursor.consumer()?;
    }
    let left = cursor.u32()?;
    Ok(Group {
        key,
        name,
        last_delivered,
        consumers,
        pending: PendingRows(Run { cursor, left }),
    })
}

fn reads(mut cursor: Cursor<'_>) -> Result<GroupReads<'_>, Fault> {
    let Tail::Reads {
        key,
        group,
        entries_read,
        count,
    } = cursor.tail(true)?
    else {
        return Err(Fault::Short);
    };
    let active = Consumers(Run {
        cursor,
        left: count,
    });
    for _ in 0..count {
        cursor.consumer()?;
    }
    let left = cursor.u32()?;
    Ok(GroupReads {
        key,
        group,
        entries_read,
        active,
        wide: Wide(Run { cursor, left }),
    })
}

fn aux(mut cursor: Cursor<'_>) -> Result<Aux<'_>, Fault> {
    let Tail::Aux { count } = cursor.tail(false)? else {
        return Err(Fault::Short);
    };
    Ok(Aux {
        parts: Parts(Run {
            cursor,
            left: count,
        }),
    })
}

fn is_open(phase: Phase) -> bool {
    match phase {
        Phase::Strings(left) | Phase::Pairs(left) | Phase::Members(left) | Phase::Entries(left) => {
            left > 0
        }
        _ => false,
    }
}

fn final_error(fault: Fault, at: usize) -> ImageError {
    match fault {
        Fault::Short => ImageError::Truncated { at },
        Fault::Bad(error) => error,
    }
}

/// Items that are read out of the reader's own place.
#[derive(Debug)]
struct Live<'a> {
    cursor: Cursor<'a>,
    walk: &'a mut Walk,
    fault: &'a mut Option<ImageError>,
}

impl<'a> Live<'a> {
    #[inline]
    fn left(&self) -> u32 {
        match self.walk.phase {
            Phase::Strings(left)
            | Phase::Pairs(left)
            | Phase::Members(left)
            | Phase::Entries(left) => left,
            _ => 0,
        }
    }

    #[inline]
    fn take<T>(
        &mut self,
        phase: impl Fn(u32) -> Phase,
        read: impl Fn(&mut Cursor<'a>) -> Result<T, Fault>,
    ) -> Option<T> {
        let left = self.left();
        if left == 0 || self.fault.is_some() {
            return None;
        }
        match read(&mut self.cursor) {
            Ok(item) => {
                self.walk.at = self.cursor.at;
                self.walk.phase = self.walk.after(phase(left - 1));
                Some(item)
            }
            Err(fault) => {
                *self.fault = Some(final_error(fault, self.walk.at));
                None
            }
        }
    }

    /// No more than the bytes that are left can hold, so that a false count reserves nothing.
    fn hint(&self, item_len_min: usize) -> usize {
        (self.left() as usize).min((self.cursor.bytes.len() - self.cursor.at) / item_len_min)
    }
}

/// Items inside a part of the image that was walked already.
#[derive(Clone, Copy, Debug)]
struct Run<'a> {
    cursor: Cursor<'a>,
    left: u32,
}

impl<'a> Run<'a> {
    #[inline]
    fn take<T>(&mut self, read: impl Fn(&mut Cursor<'a>) -> Result<T, Fault>) -> Option<T> {
        if self.left == 0 {
            return None;
        }
        let item = read(&mut self.cursor).ok();
        self.left = if item.is_some() { self.left - 1 } else { 0 };
        item
    }

    fn hint(&self, item_len_min: usize) -> usize {
        (self.left as usize).min((self.cursor.bytes.len() - self.cursor.at) / item_len_min)
    }
}

macro_rules! live_items {
    ($(#[$doc:meta])* $name:ident, $item:ty, $len_min:expr, $phase:path, $read:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name<'a>(Live<'a>);

        impl<'a> Iterator for $name<'a> {
            type Item = $item;

            #[inline]
            fn next(&mut self) -> Option<Self::Item> {
                self.0.take($phase, $read)
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                let hint = self.0.hint($len_min);
                (hint, Some(hint))
            }
        }
    };
}

macro_rules! run_items {
    ($(#[$doc:meta])* $name:ident, $item:ty, $len_min:expr, $read:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<'a>(Run<'a>);

        impl<'a> Iterator for $name<'a> {
            type Item = $item;

            #[inline]
            fn next(&mut self) -> Option<Self::Item> {
                self.0.take($read)
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                let hint = self.0.hint($len_min);
                (hint, Some(hint))
            }
        }
    };
}

live_items!(
    /// Elements of a list or members of a set. The size hint is exact for checked images, and safe to
    /// reserve by for all.
    Elements, &'a [u8], 4, Phase::Strings, |c: &mut Cursor<'a>| c.string()
);
live_items!(
    /// Fields and values of a hash. The size hint is exact for checked images, and safe to reserve by for
    /// all.
    Pairs, (&'a [u8], &'a [u8]), 8, Phase::Pairs, |c: &mut Cursor<'a>| c.pair()
);
live_items!(
    /// Members and scores of a sorted set. The size hint is exact for checked images, and safe to reserve
    /// by for all.
    Members, (&'a [u8], f64), 12, Phase::Members, |c: &mut Cursor<'a>| c.member()
);
live_items!(
    /// Entries of a stream. The size hint is exact for checked images, and safe to reserve by for all.
    Entries, Entry<'a>, 20, Phase::Entries, entry
);
run_items!(
    /// Fields and values of a stream entry.
    Fields, (&'a [u8], &'a [u8]), 8, |c: &mut Cursor<'a>| c.pair()
);
run_items!(
    /// Consumers of a group.
    Consumers, Consumer<'a>, 12, |c: &mut Cursor<'a>| {
        let (name, at) = c.consumer()?;
        Ok(Consumer { name, at })
    }
);
run_items!(
    /// Pending entries of a group.
    PendingRows, Pending<'a>, 32, |c: &mut Cursor<'a>| c.pending()
);
run_items!(
    /// Delivery counts that need 64 bits.
    Wide, WideCount, 24, |c: &mut Cursor<'a>| c.wide()
);
run_items!(
    /// Arguments of the auxiliary frame.
    Parts, &'a [u8], 4, |c: &mut Cursor<'a>| c.string()
);

fn entry<'a>(cursor: &mut Cursor<'a>) -> Result<Entry<'a>, Fault> {
    let id = cursor.id()?;
    let left = cursor.u32()?;
    let fields = Fields(Run {
        cursor: *cursor,
        left,
    });
    for _ in 0..left {
        cursor.pair()?;
    }
    Ok(Entry { id, fields })
}
