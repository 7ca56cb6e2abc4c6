//! An ordered sequence of (score, id) with ranks: a B+ tree whose inner nodes count the elements
//! below each child. Members are not kept here: where scores tie, the caller compares.

/// Elements of a leaf. A leaf is 760 bytes, just below an allocator's size class.
const LEAF_LEN: usize = 63;
/// Children of an inner node.
const INNER_LEN: usize = 32;
/// Kids of each node that an estimate of the tree's memory looks at.
const KID_SAMPLE: usize = 4;

/// The sequence. Every operation takes logarithmic time and touches one path; no memory grows as a
/// whole.
#[derive(Clone, Debug)]
pub struct Tree {
    root: Node,
    len: usize,
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Box<Leaf>),
    /// Never without children, all of one height.
    Inner(Vec<Kid>),
}

#[derive(Clone, Debug)]
struct Leaf {
    scores: [f64; LEAF_LEN],
    ids: [u32; LEAF_LEN],
    len: u16,
}

/// A child with a copy of its first element and the number of elements below it.
#[derive(Clone, Debug)]
struct Kid {
    score: f64,
    id: u32,
    count: u32,
    node: Node,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            root: Node::Leaf(Leaf::empty()),
            len: 0,
        }
    }
}

impl Tree {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Number of elements before the first that fails the test. The test holds for a prefix.
    pub fn partition_point(&self, test: impl Fn(f64, u32) -> bool) -> usize {
        let (mut node, mut before) = (&self.root, 0);
        loop {
            match node {
                Node::Leaf(leaf) => return before + leaf.partition_point(&test),
                Node::Inner(kids) => {
                    let below = kid_for(kids, &test);
                    before += counts(&kids[..below]);
                    node = &kids[below].node;
                }
            }
        }
    }

    /// The element of a rank.
    pub fn at(&self, mut rank: usize) -> Option<(f64, u32)> {
        if rank >= self.len {
            return None;
        }
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(leaf) => return Some((leaf.scores[rank], leaf.ids[rank])),
                Node::Inner(kids) => {
                    let below = kid_at(kids, &mut rank);
                    node = &kids[below].node;
                }
            }
        }
    }

    /// Adds an element behind those for which `is_before` holds, which are a prefix.
    pub fn insert(&mut self, score: f64, id: u32, is_before: impl Fn(f64, u32) -> bool) {
        self.len += 1;
        if let Some(right) = self.root.insert(score, id, &is_before) {
            let left = std::mem::replace(&mut self.root, Node::Inner(Vec::new()));
            let mut kids = Vec::with_capacity(INNER_LEN + 1);
            kids.push(Kid::of(left));
            kids.push(right);
            self.root = Node::Inner(kids);
        }
    }

    /// Removes the element of a rank below the length.
    pub fn remove_at(&mut self, rank: usize) {
        assert!(rank < self.len, "a rank past the end");
        self.len -= 1;
        self.root.remove_at(rank);
        while let Node::Inner(kids) = &mut self.root
            && kids.len() <= 1
        {
            self.root = match kids.pop() {
                Some(kid) => kid.node,
                None => Node::Leaf(Leaf::empty()),
            };
        }
    }

    /// Gives the element of a rank below the length another id; its place in the order stays.
    pub fn rename_at(&mut self, rank: usize, id: u32) {
        assert!(rank < self.len, "a rank past the end");
        self.root.rename_at(rank, id);
    }

    /// The elements from a rank on, forwards or backwards.
    pub fn walk(&self, rank: usize, count: usize, back: bool) -> Walk<'_> {
        let mut walk = Walk {
            path: Vec::new(),
            leaf: None,
            at: 0,
            left: count,
            back,
        };
        if rank >= self.len {
            walk.left = 0;
            return walk;
        }
        let (mut node, mut rank) = (&self.root, rank);
        loop {
            match node {
                Node::Leaf(leaf) => {
                    walk.leaf = Some(leaf);
                    walk.at = rank;
                    return walk;
                }
                Node::Inner(kids) => {
                    let below = kid_at(kids, &mut rank);
                    walk.path.push((kids, below));
                    node = &kids[below].node;
                }
            }
        }
    }

    /// Drops about `budget` elements from the end; true once none is left.
    pub fn free_slice(&mut self, budget: usize) -> bool {
        let mut freed = 0;
        while freed < budget && self.len > 0 {
            let gone = self.root.drop_last_leaf();
            freed += gone;
            self.len -= gone;
        }
        self.len == 0
    }

    /// Heap bytes of the nodes.
    pub fn heap_bytes(&self) -> usize {
        self.root.heap_bytes()
    }

    /// Checks every promise of the structure.
    #[cfg(test)]
    pub fn check(&self) {
        fn height(node: &Node) -> (usize, usize) {
            match node {
                Node::Leaf(leaf) => (0, leaf.len()),
                Node::Inner(kids) => {
                    assert!(!kids.is_empty() && kids.len() <= INNER_LEN);
                    let heights: Vec<(usize, usize)> =
                        kids.iter().map(|kid| height(&kid.node)).collect();
                    for (kid, (tall, count)) in kids.iter().zip(&heights) {
                        assert!(*count > 0);
                        assert_eq!(*tall, heights[0].0);
                        assert_eq!(kid.count as usize, *count);
                        let (score, id) = kid.node.first();
                        assert_eq!((kid.score.to_bits(), kid.id), (score.to_bits(), id));
                    }
                    (heights[0].0 + 1, counts(kids))
                }
            }
        }
        assert_eq!(height(&self.root).1, self.len);
    }
}

/// The elements of a [`Tree`] from a rank on.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    path: Vec<(&'a [Kid], usize)>,
    leaf: Option<&'a Leaf>,
    at: usize,
    left: usize,
    back: bool,
}

impl Iterator for Walk<'_> {
    type Item = (f64, u32);

    fn next(&mut self) -> Option<(f64, u32)> {
        if self.left == 0 {
            return None;
        }
        let leaf = self.leaf?;
        let element = (leaf.scores[self.at], leaf.ids[self.at]);
        self.left -= 1;
        if self.back {
            match self.at.checked_sub(1) {
                Some(at) => self.at = at,
                None => self.next_leaf(),
            }
        } else {
            self.at += 1;
            if self.at == leaf.len() {
                self.next_leaf();
            }
        }
        Some(element)
    }
}

impl Walk<'_> {
    /// Climbs to the nearest parent with a child in the walk's direction and descends from there.
    fn next_leaf(&mut self) {
        self.leaf = None;
        let mut node = loop {
            let Some((kids, at)) = self.path.pop() else {
                return;
            };
            let next = if self.back {
                at.checked_sub(1)
            } else {
                Some(at + 1).filter(|next| *next < kids.len())
            };
            if let Some(next) = next {
                self.path.push((kids, next));
                break &kids[next].node;
            }
        };
        loop {
            match node {
                Node::Leaf(leaf) => {
                    self.leaf = Some(leaf);
                    self.at = if self.back { leaf.len() - 1 } else { 0 };
                    return;
                }
                Node::Inner(kids) => {
                    let next = if self.back { kids.len() - 1 } else { 0 };
                    self.path.push((kids, next));
                    node = &kids[next].node;
                }
            }
        }
    }
}

impl Node {
    fn first(&self) -> (f64, u32) {
        match self {
            Node::Leaf(leaf) => (leaf.scores[0], leaf.ids[0]),
            Node::Inner(kids) => (kids[0].score, kids[0].id),
        }
    }

    fn count(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.len(),
            Node::Inner(kids) => counts(kids),
        }
    }

    /// Adds an element; the right half if the node had to be split for it.
    fn insert(
        &mut self,
        score: f64,
        id: u32,
        is_before: &impl Fn(f64, u32) -> bool,
    ) -> Option<Kid> {
        match self {
            Node::Leaf(leaf) => {
                let at = leaf.partition_point(is_before);
                leaf.insert(at, score, id)
                    .map(|right| Kid::of(Node::Leaf(right)))
            }
            Node::Inner(kids) => {
                let at = kid_for(kids, is_before);
                let split = kids[at].node.insert(score, id, is_before);
                kids[at].refresh();
                kids.insert(at + 1, split?);
                if kids.len() <= INNER_LEN {
                    return None;
                }
                // Elements that come in order leave full nodes behind.
                let cut = if at + 2 == kids.len() {
                    kids.len() - 1
                } else {
                    kids.len() / 2
                };
                let mut right = Vec::with_capacity(INNER_LEN + 1);
                right.extend(kids.drain(cut..));
                Some(Kid::of(Node::Inner(right)))
            }
        }
    }

    fn remove_at(&mut self, mut rank: usize) {
        match self {
            Node::Leaf(leaf) => leaf.remove(rank),
            Node::Inner(kids) => {
                let at = kid_at(kids, &mut rank);
                kids[at].node.remove_at(rank);
                if kids[at].node.count() == 0 {
                    kids.remove(at);
                    return;
                }
                kids[at].refresh();
                if kids[at].node.is_small() {
                    merge(kids, at);
                }
            }
        }
    }

    fn rename_at(&mut self, mut rank: usize, id: u32) {
        match self {
            Node::Leaf(leaf) => leaf.ids[rank] = id,
            Node::Inner(kids) => {
                let at = kid_at(kids, &mut rank);
                kids[at].node.rename_at(rank, id);
                kids[at].refresh();
            }
        }
    }

    /// Drops the last leaf, or empties the root if it is one; how many elements are gone.
    fn drop_last_leaf(&mut self) -> usize {
        match self {
            Node::Leaf(leaf) => usize::from(std::mem::take(&mut leaf.len)),
            Node::Inner(kids) => {
                let Some(last) = kids.last_mut() else {
                    return 0;
                };
                let gone = last.node.drop_last_leaf();
                last.count -= gone as u32;
                if last.count == 0 {
                    kids.pop();
                }
                gone
            }
        }
    }

    /// Filled so little that it should be joined with a neighbour.
    fn is_small(&self) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.len() < LEAF_LEN / 4,
            Node::Inner(kids) => kids.len() < INNER_LEN / 4,
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Node::Leaf(_) => size_of::<Leaf>(),
            Node::Inner(kids) => {
                let step = kids.len().div_ceil(KID_SAMPLE).max(1);
                let sampled = kids.iter().step_by(step);
                let count = sampled.len().max(1);
                let below: usize = sampled.map(|kid| kid.node.heap_bytes()).sum();
                kids.capacity() * size_of::<Kid>() + below * kids.len() / count
            }
        }
    }

    /// Appends a right neighbour of the same height if both fit into one; else gives it back.
    fn absorb(&mut self, right: Node) -> Option<Node> {
        match (self, right) {
            (Node::Leaf(left), Node::Leaf(right)) => {
                if left.len() + right.len() > LEAF_LEN {
                    return Some(Node::Leaf(right));
                }
                left.append(&right);
                None
            }
            (Node::Inner(left), Node::Inner(mut right)) => {
                if left.len() + right.len() > INNER_LEN {
                    return Some(Node::Inner(right));
                }
                left.append(&mut right);
                None
            }
            (_, right) => Some(right),
        }
    }
}

impl Kid {
    fn of(node: Node) -> Self {
        let (score, id) = node.first();
        Self {
            score,
            id,
            count: node.count() as u32,
            node,
        }
    }

    /// Brings the copies up to date after a change below.
    fn refresh(&mut self) {
        (self.score, self.id) = self.node.first();
        self.count = self.node.count() as u32;
    }
}

impl Leaf {
    fn empty() -> Box<Self> {
        Box::new(Self {
            scores: [0.0; LEAF_LEN],
            ids: [0; LEAF_LEN],
            len: 0,
        })
    }

    fn len(&self) -> usize {
        self.len.into()
    }

    fn partition_point(&self, test: &impl Fn(f64, u32) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = (low + high) / 2;
            if test(self.scores[middle], self.ids[middle]) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Inserts at a place; the right half if the leaf was full.
    fn insert(&mut self, at: usize, score: f64, id: u32) -> Option<Box<Leaf>> {
        if self.len() < LEAF_LEN {
            self.put(at, score, id);
            return None;
        }
        // At the end a new leaf begins, so that elements that come in order leave full leaves.
        let cut = if at == LEAF_LEN { at } else { LEAF_LEN / 2 };
        let mut right = Leaf::empty();
        let moved = LEAF_LEN - cut;
        right.scores[..moved].copy_from_slice(&self.scores[cut..]);
        right.ids[..moved].copy_from_slice(&self.ids[cut..]);
        right.len = moved as u16;
        self.len = cut as u16;
        if at < cut || at == 0 {
            self.put(at, score, id);
        } else {
            right.put(at - cut, score, id);
        }
        Some(right)
    }

    fn put(&mut self, at: usize, score: f64, id: u32) {
        let len = self.len();
        self.scores.copy_within(at..len, at + 1);
        self.ids.copy_within(at..len, at + 1);
        self.scores[at] = score;
        self.ids[at] = id;
        self.len += 1;
    }

    fn remove(&mut self, at: usize) {
        let len = self.len();
        self.scores.copy_within(at + 1..len, at);
        self.ids.copy_within(at + 1..len, at);
        self.len -= 1;
    }

    fn append(&mut self, right: &Leaf) {
        let (from, count) = (self.len(), right.len());
        self.scores[from..from + count].copy_from_slice(&right.scores[..count]);
        self.ids[from..from + count].copy_from_slice(&right.ids[..count]);
        self.len += right.len;
    }
}

fn counts(kids: &[Kid]) -> usize {
    kids.iter().map(|kid| kid.count as usize).sum()
}

/// The child in which the prefix that passes the test ends.
fn kid_for(kids: &[Kid], test: &impl Fn(f64, u32) -> bool) -> usize {
    kids.partition_point(|kid| test(kid.score, kid.id))
        .saturating_sub(1)
}

/// The child that holds a rank, which becomes the rank inside it.
fn kid_at(kids: &[Kid], rank: &mut usize) -> usize {
    for (at, kid) in kids.iter().enumerate() {
        if *rank < kid.count as usize {
            return at;
        }
        *rank -= kid.count as usize;
    }
    unreachable!("a rank past the end of a node")
}

/// Joins a child with the neighbour that it fits into, if there is one.
fn merge(kids: &mut Vec<Kid>, at: usize) {
    for left in [at, at.wrapping_sub(1)] {
        if left >= kids.len() || left + 1 >= kids.len() {
            continue;
        }
        let right = kids.remove(left + 1);
        let count = right.count;
        let (score, id) = (right.score, right.id);
        match kids[left].node.absorb(right.node) {
            None => {
                kids[left].refresh();
                return;
            }
            Some(node) => kids.insert(
                left + 1,
                Kid {
                    score,
                    id,
                    count,
                    node,
                },
            ),
        }
    }
}
