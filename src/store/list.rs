//! The list value: elements packed into nodes of some kilobytes, so that a short element costs two
//! bytes besides its own and a walk reads memory in order.
//!
//! A list of one node holds it in place (`listpack`). A larger one is a deque of nodes (`quicklist`).
//! The deque of nodes is the only memory that grows as a whole: 32 bytes per node of up to 8 KiB.

use std::{collections::VecDeque, collections::vec_deque, ops::Range};

use bytes::Bytes;

use super::{keyspace::Str, value::Typed};

/// A list of byte strings.
#[derive(Clone, Debug)]
pub struct List {
    repr: Repr,
}

#[derive(Clone, Debug)]
enum Repr {
    Packed(Box<Packed>),
    Quick(Box<Quick>),
}

/// The nodes of a large list. No node is empty; `len` is the sum of their elements.
#[derive(Clone, Debug, Default)]
struct Quick {
    nodes: VecDeque<Node>,
    len: usize,
}

#[derive(Clone, Debug)]
enum Node {
    Packed(Packed),
    /// One element that is too large to be packed. It is shared with replies under way.
    Big(Box<Bytes>),
}

/// From which end a list is read or changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The head.
    Left,
    /// The tail.
    Right,
}

/// Most bytes of elements in one node, as Redis's default `list-max-listpack-size -2`.
const NODE_BYTES: usize = 8192;

/// What Redis counts for a listpack besides its elements. Only the name of the encoding follows it.
const FRAME_BYTES: usize = 7;
/// Nodes that an estimate of the list's memory looks at.
const NODE_SAMPLE: usize = 16;

impl Default for List {
    fn default() -> Self {
        Self {
            repr: Repr::Packed(Box::default()),
        }
    }
}

impl List {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match &self.repr {
            Repr::Packed(packed) => packed.len(),
            Repr::Quick(quick) => quick.len,
        }
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says that elements of `bytes` in all are about to be added, so that a list that will not stay
    /// small changes its form before and not between them, as in Redis.
    pub fn expect(&mut self, bytes: usize) {
        if let Repr::Packed(packed) = &mut self.repr
            && packed.bytes() + FRAME_BYTES + bytes > NODE_BYTES
        {
            self.repr = Repr::Quick(Box::new(Quick::of(std::mem::take(&mut **packed))));
        }
    }

    /// Adds an element at an end.
    pub fn push(&mut self, end: End, value: &[u8]) {
        self.expect(value.len());
        match &mut self.repr {
            Repr::Packed(packed) => packed.push(end, value),
            Repr::Quick(quick) => quick.push(end, value),
        }
    }

    /// The element at an end.
    pub fn peek(&self, end: End) -> Option<Str<'_>> {
        match end {
            End::Left => self.iter().next(),
            End::Right => self.iter().next_back(),
        }
    }

    /// Drops the element at an end; false if there was none.
    pub fn drop_end(&mut self, end: End) -> bool {
        let dropped = match &mut self.repr {
            Repr::Packed(packed) => packed.drop_end(end),
            Repr::Quick(quick) => quick.drop_end(end),
        };
        self.shrunk();
        dropped
    }

    /// The element at an index. Walks the nodes from the nearer end.
    pub fn get(&self, at: usize) -> Option<Str<'_>> {
        match &self.repr {
            Repr::Packed(packed) => packed.get(at).map(Str::Inline),
            Repr::Quick(quick) => {
                let (node, inner) = quick.locate(at)?;
                quick.nodes[node].get(inner)
            }
        }
    }

    /// Replaces the element at an index; false past the end.
    pub fn set(&mut self, at: usize, value: &[u8]) -> bool {
        if at >= self.len() {
            return false;
        }
        self.expect(value.len());
        match &mut self.repr {
            Repr::Packed(packed) => {
                packed.remove(at);
                packed.insert(at, value);
            }
            Repr::Quick(quick) => quick.set(at, value),
        }
        self.shrunk();
        true
    }

    /// Inserts an element so that it has index `at`, which is at most the length.
    pub fn insert(&mut self, at: usize, value: &[u8]) {
        assert!(at <= self.len(), "an insert past the end");
        self.expect(value.len());
        match &mut self.repr {
            Repr::Packed(packed) => packed.insert(at, value),
            Repr::Quick(quick) => quick.insert(at, value),
        }
    }

    /// The index of the first element equal to `value`.
    pub fn position(&self, value: &[u8]) -> Option<usize> {
        self.iter().position(|element| element.as_bytes() == value)
    }

    /// Removes up to `limit` elements equal to `value`, counted from an end; how many it were.
    pub fn remove_equal(&mut self, value: &[u8], from: End, limit: usize) -> usize {
        let removed = match &mut self.repr {
            Repr::Packed(packed) => packed.remove_equal(value, from, limit),
            Repr::Quick(quick) => quick.remove_equal(value, from, limit),
        };
        if removed > 0 {
            self.shrunk();
        }
        removed
    }

    /// Keeps the elements of a range of indexes and drops the others. Nodes outside the range are
    /// dropped as wholes.
    pub fn keep(&mut self, range: Range<usize>) {
        let end = range.end.min(self.len());
        let start = range.start.min(end);
        match &mut self.repr {
            Repr::Packed(packed) => packed.keep(start..end),
            Repr::Quick(quick) => quick.keep(start..end),
        }
        self.shrunk();
    }

    /// The elements from head to tail, or from both ends.
    pub fn iter(&self) -> Iter<'_> {
        match &self.repr {
            Repr::Packed(packed) => Iter {
                front: NodeIter::Packed(packed.iter()),
                nodes: None,
                back: NodeIter::empty(),
            },
            Repr::Quick(quick) => Iter {
                front: NodeIter::empty(),
                nodes: Some(quick.nodes.iter()),
                back: NodeIter::empty(),
            },
        }
    }

    /// The elements from index `at` on.
    pub fn iter_from(&self, at: usize) -> Iter<'_> {
        match &self.repr {
            Repr::Packed(packed) => Iter {
                front: NodeIter::Packed(packed.iter_from(at)),
                nodes: None,
                back: NodeIter::empty(),
            },
            Repr::Quick(quick) => match quick.locate(at) {
                None => Iter {
                    front: NodeIter::empty(),
                    nodes: None,
                    back: NodeIter::empty(),
                },
                Some((node, inner)) => Iter {
                    front: quick.nodes[node].iter_from(inner),
                    nodes: Some(quick.nodes.range(node + 1..)),
                    back: NodeIter::empty(),
                },
            },
        }
    }

    /// Takes the small form again if what is left fits well below its limit, as in Redis, so that a
    /// list at the border does not change its form with every operation.
    fn shrunk(&mut self) {
        let Repr::Quick(quick) = &mut self.repr else {
            return;
        };
        if quick.nodes.is_empty() {
            self.repr = Repr::Packed(Box::default());
            return;
        }
        if quick.nodes.len() == 1
            && let Node::Packed(packed) = &mut quick.nodes[0]
            && packed.bytes() + FRAME_BYTES <= NODE_BYTES / 2
        {
            self.repr = Repr::Packed(Box::new(std::mem::take(packed)));
        }
    }
}

impl Typed for List {
    const KIND: super::Kind = super::Kind::List;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn free_slice(&mut self, budget: usize) -> bool {
        let Repr::Quick(quick) = &mut self.repr else {
            self.repr = Repr::Packed(Box::default());
            return true;
        };
        let mut freed = 0;
        while freed < budget {
            let Some(node) = quick.nodes.pop_back() else {
                break;
            };
            freed += node.len();
            quick.len -= node.len();
        }
        quick.nodes.is_empty()
    }

    fn heap_bytes(&self) -> usize {
        match &self.repr {
            Repr::Packed(packed) => size_of::<Packed>() + packed.buffer.capacity(),
            Repr::Quick(quick) => {
                let nodes = quick.nodes.capacity() * size_of::<Node>();
                let step = quick.nodes.len().div_ceil(NODE_SAMPLE).max(1);
                let sampled = quick.nodes.iter().step_by(step);
                let count = sampled.len().max(1);
                let inner: usize = sampled.map(Node::heap_bytes).sum();
                size_of::<Quick>() + nodes + inner * quick.nodes.len() / count
            }
        }
    }

    fn encoding(&self) -> &'static str {
        match &self.repr {
            Repr::Packed(_) => "listpack",
            Repr::Quick(_) => "quicklist",
        }
    }
}

/// The elements of a [`List`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    front: NodeIter<'a>,
    nodes: Option<vec_deque::Iter<'a, Node>>,
    back: NodeIter<'a>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Str<'a>;

    fn next(&mut self) -> Option<Str<'a>> {
        loop {
            if let Some(element) = self.front.next() {
                return Some(element);
            }
            match self.nodes.as_mut().and_then(Iterator::next) {
                Some(node) => self.front = node.iter_from(0),
                None => return self.back.next(),
            }
        }
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(element) = self.back.next_back() {
                return Some(element);
            }
            match self.nodes.as_mut().and_then(DoubleEndedIterator::next_back) {
                Some(node) => self.back = node.iter_from(0),
                None => return self.front.next_back(),
            }
        }
    }
}

#[derive(Clone, Debug)]
enum NodeIter<'a> {
    Packed(PackedIter<'a>),
    Big(Option<&'a Bytes>),
}

impl<'a> NodeIter<'a> {
    fn empty() -> Self {
        NodeIter::Big(None)
    }

    fn next(&mut self) -> Option<Str<'a>> {
        match self {
            NodeIter::Packed(packed) => packed.next().map(Str::Inline),
            NodeIter::Big(bytes) => bytes.take().map(Str::Shared),
        }
    }

    fn next_back(&mut self) -> Option<Str<'a>> {
        match self {
            NodeIter::Packed(packed) => packed.next_back().map(Str::Inline),
            NodeIter::Big(bytes) => bytes.take().map(Str::Shared),
        }
    }
}

impl Node {
    fn of(value: &[u8]) -> Self {
        if is_big(value) {
            return Node::Big(Box::new(Bytes::copy_from_slice(value)));
        }
        let mut packed = Packed::default();
        packed.push(End::Right, value);
        Node::Packed(packed)
    }

    fn len(&self) -> usize {
        match self {
            Node::Packed(packed) => packed.len(),
            Node::Big(_) => 1,
        }
    }

    fn get(&self, at: usize) -> Option<Str<'_>> {
        match self {
            Node::Packed(packed) => packed.get(at).map(Str::Inline),
            Node::Big(bytes) => (at == 0).then_some(Str::Shared(bytes)),
        }
    }

    fn iter_from(&self, at: usize) -> NodeIter<'_> {
        match self {
            Node::Packed(packed) => NodeIter::Packed(packed.iter_from(at)),
            Node::Big(bytes) => NodeIter::Big((at == 0).then_some(bytes)),
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Node::Packed(packed) => packed.buffer.capacity(),
            Node::Big(bytes) => size_of::<Bytes>() + bytes.len(),
        }
    }
}

impl Quick {
    fn of(packed: Packed) -> Self {
        let len = packed.len();
        let mut nodes = VecDeque::new();
        if len > 0 {
            nodes.push_back(Node::Packed(packed));
        }
        Self { nodes, len }
    }

    /// The node that holds the element at an index, and the element's place in it.
    fn locate(&self, at: usize) -> Option<(usize, usize)> {
        if at >= self.len {
            return None;
        }
        if at < self.len / 2 {
            let mut before = 0;
            for (place, node) in self.nodes.iter().enumerate() {
                if at < before + node.len() {
                    return Some((place, at - before));
                }
                before += node.len();
            }
        } else {
            let mut before = self.len;
            for (place, node) in self.nodes.iter().enumerate().rev() {
                before -= node.len();
                if at >= before {
                    return Some((place, at - before));
                }
            }
        }
        None
    }

    fn push(&mut self, end: End, value: &[u8]) {
        self.len += 1;
        let node = match end {
            End::Left => self.nodes.front_mut(),
            End::Right => self.nodes.back_mut(),
        };
        if let Some(Node::Packed(packed)) = node
            && packed.has_room(value)
        {
            return packed.push(end, value);
        }
        let node = Node::of(value);
        match end {
            End::Left => self.nodes.push_front(node),
            End::Right => self.nodes.push_back(node),
        }
    }

    fn drop_end(&mut self, end: End) -> bool {
        let node = match end {
            End::Left => self.nodes.front_mut(),
            End::Right => self.nodes.back_mut(),
        };
        let Some(node) = node else {
            return false;
        };
        self.len -= 1;
        if let Node::Packed(packed) = node {
            packed.drop_end(end);
            if packed.len() > 0 {
                return true;
            }
        }
        match end {
            End::Left => self.nodes.pop_front(),
            End::Right => self.nodes.pop_back(),
        };
        true
    }

    fn set(&mut self, at: usize, value: &[u8]) {
        let Some((place, inner)) = self.locate(at) else {
            return;
        };
        match &mut self.nodes[place] {
            Node::Packed(packed) => {
                packed.remove(inner);
                if packed.has_room(value) {
                    return packed.insert(inner, value);
                }
                if packed.len() == 0 {
                    self.nodes[place] = Node::of(value);
                    return;
                }
            }
            Node::Big(_) => {
                self.nodes[place] = Node::of(value);
                return;
            }
        }
        self.insert_in(place, inner, value);
    }

    fn insert(&mut self, at: usize, value: &[u8]) {
        if at == self.len {
            return self.push(End::Right, value);
        }
        let Some((place, inner)) = self.locate(at) else {
            return;
        };
        self.len += 1;
        self.insert_in(place, inner, value);
    }

    /// Inserts before element `inner` of a node (which may be its end), splitting the node if it is
    /// full. Does not count.
    fn insert_in(&mut self, place: usize, inner: usize, value: &[u8]) {
        if let Node::Packed(packed) = &mut self.nodes[place]
            && packed.has_room(value)
        {
            return packed.insert(inner, value);
        }
        if inner == 0
            && place > 0
            && let Node::Packed(before) = &mut self.nodes[place - 1]
            && before.has_room(value)
        {
            return before.push(End::Right, value);
        }
        let mut after = place;
        if inner > 0 {
            after += 1;
            if let Node::Packed(packed) = &mut self.nodes[place]
                && inner < packed.len()
            {
                let tail = packed.split_off(inner);
                self.nodes.insert(after, Node::Packed(tail));
            }
        }
        self.nodes.insert(after, Node::of(value));
    }

    fn remove_equal(&mut self, value: &[u8], from: End, limit: usize) -> usize {
        let mut removed = 0;
        let mut emptied = false;
        let count = self.nodes.len();
        for step in 0..count {
            if removed == limit {
                break;
            }
            let place = match from {
                End::Left => step,
                End::Right => count - 1 - step,
            };
            removed += match &mut self.nodes[place] {
                Node::Packed(packed) => {
                    let gone = packed.remove_equal(value, from, limit - removed);
                    emptied |= packed.len() == 0;
                    gone
                }
                Node::Big(bytes) if bytes[..] == *value => {
                    self.nodes[place] = Node::Packed(Packed::default());
                    emptied = true;
                    1
                }
                Node::Big(_) => 0,
            };
        }
        self.len -= removed;
        if emptied {
            self.nodes.retain(|node| node.len() > 0);
        }
        removed
    }

    fn keep(&mut self, range: Range<usize>) {
        if range.is_empty() {
            *self = Quick::default();
            return;
        }
        // The tail first, so that the indexes of the head stay valid.
        if let Some((place, inner)) = self.locate(range.end) {
            self.nodes.truncate(place + usize::from(inner > 0));
            if inner > 0
                && let Some(Node::Packed(packed)) = self.nodes.back_mut()
            {
                packed.keep(0..inner);
            }
            self.len = range.end;
        }
        if let Some((place, inner)) = self.locate(range.start) {
            self.nodes.drain(..place);
            if inner > 0
                && let Some(Node::Packed(packed)) = self.nodes.front_mut()
            {
                let len = packed.len();
                packed.keep(inner..len);
            }
            self.len -= range.start;
        }
    }
}

/// Elements in one block. Each is its length, its bytes and its length again (to be read from
/// behind), see [`frame_bytes`]. The bytes before `start` are free, so that both ends can grow and
/// shrink without moving the rest.
#[derive(Clone, Debug, Default)]
struct Packed {
    buffer: Vec<u8>,
    start: u32,
    count: u32,
}

/// Size of the small lengths, which take one byte at each end; longer ones take two.
const SHORT_LEN: usize = 0x80;

/// Bytes that an element of `len` bytes takes in a node.
fn frame_bytes(len: usize) -> usize {
    if len < SHORT_LEN { len + 2 } else { len + 4 }
}

/// Too large for a node?
fn is_big(value: &[u8]) -> bool {
    frame_bytes(value.len()) > NODE_BYTES
}

/// Writes an element's frame into a place of exactly its size.
fn write_frame(place: &mut [u8], value: &[u8]) {
    let (len, size) = (value.len(), place.len());
    if len < SHORT_LEN {
        place[0] = len as u8;
        place[1..size - 1].copy_from_slice(value);
        place[size - 1] = len as u8;
    } else {
        // Fifteen bits; the byte at the outer edge has its high bit set.
        let (high, low) = (0x80 | (len >> 8) as u8, len as u8);
        place[..2].copy_from_slice(&[high, low]);
        place[2..size - 2].copy_from_slice(value);
        place[size - 2..].copy_from_slice(&[low, high]);
    }
}

impl Packed {
    fn len(&self) -> usize {
        self.count as usize
    }

    /// Bytes of the elements with their frames.
    fn bytes(&self) -> usize {
        self.buffer.len() - self.start as usize
    }

    fn has_room(&self, value: &[u8]) -> bool {
        self.bytes() + frame_bytes(value.len()) <= NODE_BYTES
    }

    fn iter(&self) -> PackedIter<'_> {
        PackedIter {
            frames: &self.buffer[self.start as usize..],
        }
    }

    fn iter_from(&self, at: usize) -> PackedIter<'_> {
        PackedIter {
            frames: &self.buffer[self.offset(at)..],
        }
    }

    fn get(&self, at: usize) -> Option<&[u8]> {
        (at < self.len()).then(|| self.iter_from(at).next())?
    }

    /// Where the frame of an element begins in the buffer; the end of the buffer for the length.
    fn offset(&self, at: usize) -> usize {
        let mut frames = self.iter();
        if at <= self.len() / 2 {
            for _ in 0..at {
                frames.next();
            }
            self.buffer.len() - frames.frames.len()
        } else {
            for _ in at..self.len() {
                frames.next_back();
            }
            self.start as usize + frames.frames.len()
        }
    }

    fn push(&mut self, end: End, value: &[u8]) {
        match end {
            End::Left if self.count > 0 => self.push_front(value),
            _ => {
                let at = self.buffer.len();
                self.write_at(at, value);
            }
        }
    }

    fn push_front(&mut self, value: &[u8]) {
        let need = frame_bytes(value.len());
        if (self.start as usize) < need {
            // As much room again as the elements take, so that a run of pushes costs their sum; but
            // a full node ends without room left.
            let live = self.bytes();
            let spare = live.min(NODE_BYTES.saturating_sub(live + need));
            let mut grown = Vec::with_capacity(spare + need + live);
            grown.resize(spare + need, 0);
            grown.extend_from_slice(&self.buffer[self.start as usize..]);
            self.buffer = grown;
            self.start = (spare + need) as u32;
        }
        let start = self.start as usize;
        write_frame(&mut self.buffer[start - need..start], value);
        self.start -= need as u32;
        self.count += 1;
    }

    fn insert(&mut self, at: usize, value: &[u8]) {
        if at == 0 {
            return self.push(End::Left, value);
        }
        self.write_at(self.offset(at), value);
    }

    /// Writes a frame before the one at a byte offset, moving those behind it.
    fn write_at(&mut self, mut at: usize, value: &[u8]) {
        let need = frame_bytes(value.len());
        at -= self.make_room(need);
        let end = self.buffer.len();
        self.buffer.resize(end + need, 0);
        self.buffer.copy_within(at..end, at + need);
        write_frame(&mut self.buffer[at..at + need], value);
        self.count += 1;
    }

    /// Makes the buffer able to take `need` bytes more at its end; by how much the elements moved to
    /// the front for it.
    fn make_room(&mut self, need: usize) -> usize {
        let start = self.start as usize;
        if self.buffer.len() + need <= self.buffer.capacity() {
            return 0;
        }
        if start > 0 && start >= self.buffer.len() / 2 {
            self.buffer.drain(..start);
            self.start = 0;
            if self.buffer.len() + need <= self.buffer.capacity() {
                return start;
            }
            self.grow(need);
            return start;
        }
        self.grow(need);
        0
    }

    /// Grows by an eighth at least, as there can be very many small lists, but not past a full node where
    /// the elements do not ask for it.
    fn grow(&mut self, need: usize) {
        let wanted = self.buffer.len() + need;
        let roomy = (wanted + wanted / 8).min(NODE_BYTES);
        self.buffer
            .reserve_exact(wanted.max(roomy) - self.buffer.len());
    }

    fn drop_end(&mut self, end: End) -> bool {
        let mut frames = self.iter();
        let gone = match end {
            End::Left => frames.next(),
            End::Right => frames.next_back(),
        };
        let Some(gone) = gone else {
            return false;
        };
        let size = frame_bytes(gone.len());
        match end {
            End::Left => self.start += size as u32,
            End::Right => self.buffer.truncate(self.buffer.len() - size),
        }
        self.count -= 1;
        self.tidy();
        true
    }

    fn remove(&mut self, at: usize) {
        if at == 0 {
            self.drop_end(End::Left);
            return;
        }
        let from = self.offset(at);
        if let Some(gone) = self.iter_from(at).next() {
            let size = frame_bytes(gone.len());
            self.buffer.drain(from..from + size);
            self.count -= 1;
        }
    }

    fn remove_equal(&mut self, value: &[u8], from: End, limit: usize) -> usize {
        let matches = self.iter().filter(|element| *element == value).count();
        let gone = matches.min(limit);
        if gone == 0 {
            return 0;
        }
        // Counted from the right, the first matches of the node are the ones that stay.
        let stay = match from {
            End::Left => 0,
            End::Right => matches - gone,
        };
        let mut seen = 0;
        let (mut read, mut write) = (self.start as usize, self.start as usize);
        while read < self.buffer.len() {
            let mut frames = PackedIter {
                frames: &self.buffer[read..],
            };
            let element = frames.next().unwrap_or_default();
            let size = frame_bytes(element.len());
            let is_match = element == value;
            let drop = is_match && seen >= stay && seen < stay + gone;
            seen += usize::from(is_match);
            if !drop {
                self.buffer.copy_within(read..read + size, write);
                write += size;
            }
            read += size;
        }
        self.buffer.truncate(write);
        self.count -= gone as u32;
        self.tidy();
        gone
    }

    fn keep(&mut self, range: Range<usize>) {
        let (from, to) = (self.offset(range.start), self.offset(range.end));
        self.buffer.truncate(to);
        self.start = from as u32;
        self.count = range.len() as u32;
        self.tidy();
    }

    fn split_off(&mut self, at: usize) -> Packed {
        let from = self.offset(at);
        let tail = Packed {
            buffer: self.buffer[from..].to_vec(),
            start: 0,
            count: self.count - at as u32,
        };
        self.buffer.truncate(from);
        self.count = at as u32;
        tail
    }

    /// Gives memory back once most of the buffer is unused. Amortized over the removals before.
    fn tidy(&mut self) {
        if self.count == 0 {
            self.buffer.clear();
            self.start = 0;
        }
        if self.buffer.capacity() >= 1024 && self.bytes() * 4 < self.buffer.capacity() {
            let mut smaller = Vec::with_capacity(self.bytes() * 2);
            smaller.extend_from_slice(&self.buffer[self.start as usize..]);
            self.buffer = smaller;
            self.start = 0;
        }
    }
}

/// The elements of one node from both ends.
#[derive(Clone, Debug)]
struct PackedIter<'a> {
    frames: &'a [u8],
}

impl<'a> Iterator for PackedIter<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let edge = usize::from(*self.frames.first()?);
        let (len, edges) = if edge < SHORT_LEN {
            (edge, 1)
        } else {
            ((edge & 0x7f) << 8 | usize::from(self.frames[1]), 2)
        };
        let element = &self.frames[edges..edges + len];
        self.frames = &self.frames[edges + len + edges..];
        Some(element)
    }
}

impl DoubleEndedIterator for PackedIter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let edge = usize::from(*self.frames.last()?);
        let end = self.frames.len();
        let (len, edges) = if edge < SHORT_LEN {
            (edge, 1)
        } else {
            ((edge & 0x7f) << 8 | usize::from(self.frames[end - 2]), 2)
        };
        let element = &self.frames[end - edges - len..end - edges];
        self.frames = &self.frames[..end - edges - len - edges];
        Some(element)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Act {
        Push(End, Vec<u8>),
        Drop(End),
        Set(usize, Vec<u8>),
        Insert(usize, Vec<u8>),
        RemoveEqual(usize, End, usize),
        Keep(usize, usize),
    }

    fn end() -> impl Strategy<Value = End> {
        prop_oneof![Just(End::Left), Just(End::Right)]
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            8 => prop::collection::vec(b'a'..=b'c', 0..3),
            4 => prop::collection::vec(any::<u8>(), 100..300),
            3 => (any::<u8>(), 2000usize..5000).prop_map(|(byte, len)| vec![byte; len]),
            1 => (any::<u8>(), 8180usize..8200).prop_map(|(byte, len)| vec![byte; len]),
        ]
    }

    fn act() -> impl Strategy<Value = Act> {
        let at = 0usize..1000;
        prop_oneof![
            12 => (end(), value()).prop_map(|(end, value)| Act::Push(end, value)),
            5 => end().prop_map(Act::Drop),
            3 => (at.clone(), value()).prop_map(|(at, value)| Act::Set(at, value)),
            4 => (at.clone(), value()).prop_map(|(at, value)| Act::Insert(at, value)),
            2 => (at.clone(), end(), 1usize..4)
                .prop_map(|(at, end, limit)| Act::RemoveEqual(at, end, limit)),
            1 => (0usize..4, 0usize..4).prop_map(|(head, tail)| Act::Keep(head, tail)),
        ]
    }

    fn texts<'a>(elements: impl Iterator<Item = Str<'a>>) -> Vec<Vec<u8>> {
        elements
            .map(|element| element.as_bytes().to_vec())
            .collect()
    }

    fn check(list: &List, model: &VecDeque<Vec<u8>>, at: usize) {
        assert_eq!(list.len(), model.len());
        assert!(*model == texts(list.iter()));
        assert!(texts(list.iter().rev()).iter().rev().eq(model));
        assert!(texts(list.iter_from(at)).iter().eq(model.iter().skip(at)));
        assert_eq!(texts(list.get(at).into_iter()).first(), model.get(at));
        if let Repr::Quick(quick) = &list.repr {
            assert!(quick.nodes.iter().all(|node| node.len() > 0));
            assert_eq!(quick.nodes.iter().map(Node::len).sum::<usize>(), quick.len);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_list_is_a_deque(acts in prop::collection::vec(act(), 1..200)) {
            let (mut list, mut model) = (List::default(), VecDeque::<Vec<u8>>::new());
            for act in acts {
                let mut looked_at = 0;
                match act {
                    Act::Push(end, value) => {
                        list.push(end, &value);
                        match end {
                            End::Left => model.push_front(value),
                            End::Right => model.push_back(value),
                        }
                    }
                    Act::Drop(end) => {
                        let want = match end {
                            End::Left => model.pop_front(),
                            End::Right => model.pop_back(),
                        };
                        assert_eq!(list.peek(end).map(|e| e.as_bytes().to_vec()), want);
                        assert_eq!(list.drop_end(end), want.is_some());
                    }
                    Act::Set(at, value) => {
                        let at = at % (model.len() + 1);
                        assert_eq!(list.set(at, &value), at < model.len());
                        if let Some(old) = model.get_mut(at) {
                            *old = value;
                        }
                        looked_at = at;
                    }
                    Act::Insert(at, value) => {
                        let at = at % (model.len() + 1);
                        list.insert(at, &value);
                        model.insert(at, value);
                        looked_at = at;
                    }
                    Act::RemoveEqual(at, end, limit) => {
                        let value = model.get(at % (model.len() + 1)).cloned().unwrap_or_default();
                        assert_eq!(list.position(&value), model.iter().position(|e| *e == value));
                        let mut places: Vec<usize> =
                            (0..model.len()).filter(|at| model[*at] == value).collect();
                        if end == End::Right {
                            places.reverse();
                        }
                        places.truncate(limit);
                        assert_eq!(list.remove_equal(&value, end, limit), places.len());
                        places.sort_unstable();
                        for place in places.into_iter().rev() {
                            model.remove(place);
                        }
                    }
                    Act::Keep(head, tail) => {
                        let end = model.len().saturating_sub(tail);
                        let start = head.min(end);
                        list.keep(start..end);
                        model = model.drain(start..end).collect();
                    }
                }
                check(&list, &model, looked_at);
            }
            let copy = list.clone();
            while !list.free_slice(10) {}
            prop_assert!(list.is_empty());
            prop_assert_eq!(copy.len(), model.len());
        }
    }

    #[test]
    fn the_encoding_changes_at_eight_kilobytes_and_back_at_four() {
        let mut list = List::default();
        for _ in 0..80 {
            list.push(End::Right, &[b'x'; 100]);
        }
        assert_eq!(list.encoding(), "listpack");
        list.push(End::Right, &[b'x'; 100]);
        assert_eq!(list.encoding(), "quicklist");
        list.keep(0..41);
        assert_eq!(list.encoding(), "quicklist");
        list.keep(0..40);
        assert_eq!(list.encoding(), "listpack");
    }

    #[test]
    fn a_queue_keeps_its_memory() {
        let mut list = List::default();
        for turn in 0..100_000u32 {
            list.push(End::Right, &turn.to_le_bytes());
            if turn > 100 {
                list.drop_end(End::Left);
            }
        }
        assert!(list.heap_bytes() <= 4096, "{}", list.heap_bytes());
    }

    #[test]
    fn short_elements_cost_two_bytes() {
        for end in [End::Left, End::Right] {
            let mut list = List::default();
            for _ in 0..100_000 {
                list.push(end, b"0123456789");
            }
            let per_element = list.heap_bytes() as f64 / 100_000.0;
            assert!(per_element < 12.5, "{per_element}");
        }
    }
}
