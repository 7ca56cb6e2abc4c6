//! Walks an image item by item, for the checker and for the reader.

use super::{
    BODY_VERSION, Cursor, Fault, GROUPS_SINCE, Head, Header, ImageError, ImageSummary, ItemKind,
    Tail,
};

/// Checks a whole image: every length inside, every type known, every score a number, the end record there
/// and no trailer record cut short. Linear in the length, allocates nothing.
///
/// # Errors
/// The first fault. The image is to be dropped whole.
pub fn check(bytes: &[u8]) -> Result<ImageSummary, ImageError> {
    let mut checker = Checker::default();
    checker.feed(bytes)?;
    checker.finish(bytes)
}

/// Checks an image while it grows, so that nothing is left to do when its last byte arrives.
///
/// Each call gets the image from its first byte; the checker goes on where it stopped. All calls together
/// are linear in the length of the image.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    walk: Walk,
}

impl Checker {
    /// Checks what has arrived since the last call.
    ///
    /// # Errors
    /// The first fault that more bytes cannot mend. The image is to be dropped; feed no more.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        let mut cursor = Cursor {
            bytes,
            at: self.walk.at,
        };
        loop {
            match self.walk.advance(&mut cursor) {
                Ok(true) => {}
                Ok(false) | Err(Fault::Short) => return Ok(()),
                Err(Fault::Bad(error)) => return Err(error),
            }
        }
    }

    /// The image is all there. `bytes` is what the last [`feed`](Self::feed) got.
    ///
    /// # Errors
    /// The image is cut short, or a fault of the bytes that `feed` has not seen yet.
    pub fn finish(mut self, bytes: &[u8]) -> Result<ImageSummary, ImageError> {
        self.feed(bytes)?;
        self.walk.at_end(bytes)?;
        Ok(self.walk.summary())
    }
}

/// One record of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span<'a> {
    /// What it is.
    pub kind: SpanKind<'a>,
    /// All of its bytes; of a stream with its groups.
    pub bytes: &'a [u8],
}

/// What a record of a body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpanKind<'a> {
    /// A key, as images have it.
    Key,
    /// More of a key.
    More,
    /// A field's deadline.
    FieldDeadline {
        /// The hash.
        key: &'a [u8],
        /// The field.
        field: &'a [u8],
        /// Unix ms.
        deadline: u64,
    },
    /// How far a group has read, as trailers of images have it.
    Reads,
}

/// Tells each record of a body.
///
/// # Errors
/// The first fault; what stands before it was told.
pub fn spans(body: &[u8], mut tell: impl FnMut(Span<'_>)) -> Result<(), ImageError> {
    let mut walk = Walk::of_body();
    let mut cursor = Cursor { bytes: body, at: 0 };
    let fault = |fault| match fault {
        Fault::Bad(error) => error,
        Fault::Short => ImageError::Truncated { at: body.len() },
    };
    while cursor.at < body.len() {
        let start = cursor.at;
        let kind = match walk.head(&mut cursor).map_err(fault)? {
            Head::Items { is_more: true, .. } => SpanKind::More,
            Head::FieldTtl {
                key,
                field,
                deadline,
            } => SpanKind::FieldDeadline {
                key,
                field,
                deadline,
            },
            Head::Reads { .. } => SpanKind::Reads,
            _ => SpanKind::Key,
        };
        walk.go_to(Phase::Record, &mut cursor).map_err(fault)?;
        let bytes = &body[start..cursor.at];
        tell(Span { kind, bytes });
    }
    Ok(())
}

/// What the next bytes of an image are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Phase {
    #[default]
    Header,
    Record,
    Strings(u32),
    Pairs(u32),
    Members(u32),
    Entries(u32),
    EntryPairs {
        left: u32,
        entries: u32,
    },
    GroupCount,
    Groups(u32),
    Consumers {
        left: u32,
        groups: u32,
    },
    PendingCount {
        groups: u32,
    },
    Pending {
        left: u32,
        groups: u32,
    },
    Trailer,
    Parts(u32),
    Readers(u32),
    WideCount,
    Wide(u32),
    Done,
}

/// A place in an image that knows what comes next. It only ever stands between two items, so it can wait
/// there for more bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Walk {
    pub(super) at: usize,
    pub(super) phase: Phase,
    pub(super) header: Header,
    aux_seen: bool,
    key_count: u64,
    deadline_count: u64,
    field_deadline_count: u64,
    group_count: u64,
}

impl Walk {
    /// A walk through a body, which begins with a record.
    pub(super) fn of_body() -> Self {
        let header = Header {
            version: BODY_VERSION,
            is_body: true,
            ..Header::default()
        };
        Self {
            header,
            phase: Phase::Record,
            ..Self::default()
        }
    }

    /// Takes the next items, at least one if it is there. False at the end of the image.
    pub(super) fn advance(&mut self, cursor: &mut Cursor<'_>) -> Result<bool, Fault> {
        match self.phase {
            Phase::Header => {
                self.header = cursor.header()?;
                self.settle(cursor, Phase::Record);
            }
            Phase::Record => {
                self.head(cursor)?;
            }
            Phase::Strings(left) => {
                self.items(cursor, left, Phase::Strings, |c| c.string().map(drop))?
            }
            Phase::Pairs(left) => self.items(cursor, left, Phase::Pairs, |c| c.pair().map(drop))?,
            Phase::Members(left) => {
                self.items(cursor, left, Phase::Members, |c| c.member().map(drop))?
            }
            Phase::Entries(0) => self.settle(cursor, self.after_entries()),
            Phase::Entries(entries) => {
                cursor.id()?;
                let left = cursor.u32()?;
                self.settle(
                    cursor,
                    Phase::EntryPairs {
                        left,
                        entries: entries - 1,
                    },
                );
            }
            Phase::EntryPairs { left, entries } => {
                let phase = |left| Phase::EntryPairs { left, entries };
                self.items(cursor, left, phase, |c| c.pair().map(drop))?;
            }
            Phase::GroupCount => {
                let groups = cursor.u32()?;
                self.settle(cursor, Phase::Groups(groups));
            }
            Phase::Groups(0) => self.settle(cursor, Phase::Record),
            Phase::Groups(groups) => {
                cursor.string()?;
                cursor.id()?;
                let left = cursor.u32()?;
                self.group_count += 1;
                self.settle(
                    cursor,
                    Phase::Consumers {
                        left,
                        groups: groups - 1,
                    },
                );
            }
            Phase::Consumers { left, groups } => {
                let phase = |left| Phase::Consumers { left, groups };
                self.items(cursor, left, phase, |c| c.consumer().map(drop))?;
            }
            Phase::PendingCount { groups } => {
                let left = cursor.u32()?;
                self.settle(cursor, Phase::Pending { left, groups });
            }
            Phase::Pending { left, groups } => {
                let phase = |left| Phase::Pending { left, groups };
                self.items(cursor, left, phase, |c| c.pending().map(drop))?;
            }
            Phase::Trailer => {
                self.tail(cursor)?;
            }
            Phase::Parts(left) => {
                self.items(cursor, left, Phase::Parts, |c| c.string().map(drop))?
            }
            Phase::Readers(left) => {
                self.items(cursor, left, Phase::Readers, |c| c.consumer().map(drop))?
            }
            Phase::WideCount => {
                let left = cursor.u32()?;
                self.settle(cursor, Phase::Wide(left));
            }
            Phase::Wide(left) => self.items(cursor, left, Phase::Wide, |c| c.wide().map(drop))?,
            Phase::Done => return Ok(false),
        }
        Ok(true)
    }

    /// Takes items until the walk stands at `phase`, where the rest of the record leads.
    pub(super) fn go_to(&mut self, phase: Phase, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        while self.phase != phase {
            self.advance(cursor)?;
        }
        Ok(())
    }

    /// Takes the head of a record. The walk stands at one.
    pub(super) fn head<'a>(&mut self, cursor: &mut Cursor<'a>) -> Result<Head<'a>, Fault> {
        let head = cursor.head(self.header)?;
        let next = match head {
            Head::End => Phase::Trailer,
            Head::String { ttl, .. } => {
                self.count_key(ttl);
                Phase::Record
            }
            Head::Items {
                kind, ttl, count, ..
            } => {
                self.count_key(ttl);
                match kind {
                    ItemKind::Hash => Phase::Pairs(count),
                    ItemKind::List | ItemKind::Set => Phase::Strings(count),
                    ItemKind::SortedSet => Phase::Members(count),
                }
            }
            Head::Stream { ttl, count, .. } => {
                self.count_key(ttl);
                Phase::Entries(count)
            }
            Head::FieldTtl { .. } => {
                self.field_deadline_count += 1;
                Phase::Record
            }
            Head::Reads { count } => Phase::Readers(count),
        };
        self.settle(cursor, next);
        Ok(head)
    }

    /// Takes the head of a trailer record. The walk stands behind the end record.
    pub(super) fn tail<'a>(&mut self, cursor: &mut Cursor<'a>) -> Result<Tail<'a>, Fault> {
        let tail = cursor.tail(self.aux_seen)?;
        let next = match tail {
            Tail::End => Phase::Done,
            Tail::Aux { count } => {
                self.aux_seen = true;
                Phase::Parts(count)
            }
            Tail::Reads { count, .. } => Phase::Readers(count),
        };
        self.settle(cursor, next);
        Ok(tail)
    }

    /// Where the walk goes when the items of a phase are used up.
    pub(super) fn after(&self, phase: Phase) -> Phase {
        match phase {
            Phase::Entries(0) => self.after_entries(),
            Phase::EntryPairs { left: 0, entries } => Phase::Entries(entries),
            Phase::Consumers { left: 0, groups } => Phase::PendingCount { groups },
            Phase::Pending { left: 0, groups } => Phase::Groups(groups),
            Phase::Strings(0) | Phase::Pairs(0) | Phase::Members(0) | Phase::Groups(0) => {
                Phase::Record
            }
            Phase::Wide(0) if self.header.is_body => Phase::Record,
            Phase::Parts(0) | Phase::Wide(0) => Phase::Trailer,
            Phase::Readers(0) => Phase::WideCount,
            unfinished => unfinished,
        }
    }

    /// An image may end only where nothing is open.
    pub(super) fn at_end(&self, bytes: &[u8]) -> Result<(), ImageError> {
        match self.phase {
            Phase::Done => Ok(()),
            Phase::Trailer if self.at == bytes.len() => Ok(()),
            _ => Err(ImageError::Truncated { at: self.at }),
        }
    }

    fn after_entries(&self) -> Phase {
        if self.header.version >= GROUPS_SINCE {
            Phase::GroupCount
        } else {
            Phase::Record
        }
    }

    /// Takes as many of `left` items as there are, and remembers how many are open still.
    #[inline]
    fn items<'a>(
        &mut self,
        cursor: &mut Cursor<'a>,
        mut left: u32,
        phase: impl Fn(u32) -> Phase,
        take: impl Fn(&mut Cursor<'a>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut at = cursor.at;
        let mut outcome = Ok(());
        while left > 0 && outcome.is_ok() {
            outcome = take(cursor);
            if outcome.is_ok() {
                at = cursor.at;
                left -= 1;
            }
        }
        cursor.at = at;
        self.settle(cursor, self.after(phase(left)));
        outcome
    }

    fn settle(&mut self, cursor: &Cursor<'_>, phase: Phase) {
        self.at = cursor.at;
        self.phase = phase;
    }

    fn count_key(&mut self, ttl: Option<u64>) {
        self.key_count += 1;
        self.deadline_count += ttl.is_some() as u64;
    }

    fn summary(&self) -> ImageSummary {
        ImageSummary {
            version: self.header.version,
            feed: self.header.feed,
            key_count: self.key_count,
            deadline_count: self.deadline_count,
            field_deadline_count: self.field_deadline_count,
            group_count: self.group_count,
            end: self.at,
        }
    }
}
