//! The sorted set value: members in the order of their scores.
//!
//! A small one is a block of elements in order (`listpack`). A large one keeps each member once, in a
//! numbered slot that an index finds by the member, and an ordered tree of scores and numbers
//! (`skiplist`, which is what Redis calls its form of it).

mod members;
mod packed;
mod tree;

use std::ops::Range;

use self::{
    members::Members,
    packed::{PACKED_LEN, PACKED_MEMBER, Packed},
    tree::Tree,
};
use super::value::Typed;

/// A sorted set. Scores are never NaN: the caller refuses that.
#[derive(Clone, Debug)]
pub struct Zset {
    repr: Repr,
}

#[derive(Clone, Debug)]
enum Repr {
    Packed(Packed),
    Large(Box<Large>),
}

/// A range of scores.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ScoreRange {
    /// The lowest score.
    pub min: f64,
    /// The highest score.
    pub max: f64,
    /// The lowest score itself does not belong to the range.
    pub above_min: bool,
    /// The highest score itself does not belong to the range.
    pub below_max: bool,
}

/// One end of a range of members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LexBound<'a> {
    /// Before every member.
    Lowest,
    /// After every member.
    Highest,
    /// This member, which belongs to the range.
    With(&'a [u8]),
    /// This member, which does not belong to the range.
    Without(&'a [u8]),
}

/// A range of members, all of which have the same score.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LexRange<'a> {
    /// The lower end.
    pub min: LexBound<'a>,
    /// The upper end.
    pub max: LexBound<'a>,
}

impl Default for Zset {
    fn default() -> Self {
        Self {
            repr: Repr::Packed(Packed::default()),
        }
    }
}

impl Zset {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match &self.repr {
            Repr::Packed(packed) => packed.len(),
            Repr::Large(large) => large.tree.len(),
        }
    }

    /// True without elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The score of a member.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        match &self.repr {
            Repr::Packed(packed) => packed.find(member).map(|(_, entry)| entry.score),
            Repr::Large(large) => {
                let id = large.members.find(member)?;
                Some(large.members.score(id))
            }
        }
    }

    /// Adds a member or changes its score; the score it had. The score must not be NaN.
    pub fn insert(&mut self, member: &[u8], score: f64) -> Option<f64> {
        assert!(!score.is_nan(), "a score that has no place in an order");
        match &mut self.repr {
            Repr::Packed(packed) => {
                let old = packed.find(member).map(|(_, entry)| entry.score);
                if old.is_some_and(|old| old.to_bits() == score.to_bits()) {
                    return old;
                }
                if old.is_some() {
                    packed.remove(member);
                } else if packed.len() >= PACKED_LEN || member.len() > PACKED_MEMBER {
                    let mut large = Box::new(Large::of(packed));
                    large.add(member, score);
                    self.repr = Repr::Large(large);
                    return None;
                }
                packed.insert(member, score);
                old
            }
            Repr::Large(large) => match large.members.find(member) {
                Some(id) => Some(large.set_score(id, score)),
                None => {
                    large.add(member, score);
                    None
                }
            },
        }
    }

    /// Takes the sign off zeros if the set is in its small form, whose scores Redis keeps as integers
    /// where they are. Called once a set is kept under a key with a negative zero in it.
    pub fn unsign_zeros(&mut self) {
        if let Repr::Packed(packed) = &mut self.repr {
            let signed =
                |entry: &packed::Entry<'_>| entry.score == 0.0 && entry.score.is_sign_negative();
            let members: Vec<Box<[u8]>> = packed
                .iter()
                .filter(signed)
                .map(|entry| entry.member.into())
                .collect();
            for member in &members {
                packed.remove(member);
                packed.insert(member, 0.0);
            }
        }
    }

    /// Removes a member; the score it had.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        match &mut self.repr {
            Repr::Packed(packed) => packed.remove(member),
            Repr::Large(large) => {
                let id = large.members.find(member)?;
                let score = large.members.score(id);
                large.remove_at(large.rank(id));
                Some(score)
            }
        }
    }

    /// The rank of a member, counted from the lowest score, and its score.
    pub fn rank(&self, member: &[u8]) -> Option<(usize, f64)> {
        match &self.repr {
            Repr::Packed(packed) => packed.find(member).map(|(rank, entry)| (rank, entry.score)),
            Repr::Large(large) => {
                let id = large.members.find(member)?;
                Some((large.rank(id), large.members.score(id)))
            }
        }
    }

    /// The element of a rank.
    pub fn at(&self, rank: usize) -> Option<(&[u8], f64)> {
        match &self.repr {
            Repr::Packed(packed) => packed.at(rank).map(|entry| (entry.member, entry.score)),
            Repr::Large(large) => {
                let (score, id) = large.tree.at(rank)?;
                Some((large.members.member(id), score))
            }
        }
    }

    /// Removes the elements of a range of ranks. Logarithmic time for each.
    pub fn remove_range(&mut self, ranks: Range<usize>) {
        let end = ranks.end.min(self.len());
        let ranks = ranks.start.min(end)..end;
        match &mut self.repr {
            Repr::Packed(packed) => packed.remove_range(ranks),
            Repr::Large(large) => {
                for _ in ranks.clone() {
                    large.remove_at(ranks.start);
                }
            }
        }
    }

    /// All elements in order.
    pub fn iter(&self) -> Iter<'_> {
        self.range(0..self.len(), false)
    }

    /// The elements of a range of ranks, from the last to the first if `back`.
    pub fn range(&self, ranks: Range<usize>, back: bool) -> Iter<'_> {
        let end = ranks.end.min(self.len());
        let start = ranks.start.min(end);
        let count = end - start;
        let first = if back { end.saturating_sub(1) } else { start };
        Iter(match &self.repr {
            Repr::Packed(packed) => Steps::Packed {
                packed,
                offsets: packed.offsets(),
                at: first,
                left: count,
                back,
            },
            Repr::Large(large) => Steps::Large {
                members: &large.members,
                walk: large.tree.walk(first, count, back),
                left: count,
            },
        })
    }

    /// The ranks of the elements in a range of scores.
    pub fn score_range(&self, range: &ScoreRange) -> Range<usize> {
        let start = self.partition_point(|score, _| {
            if range.above_min {
                score <= range.min
            } else {
                score < range.min
            }
        });
        let end = self.partition_point(|score, _| {
            if range.below_max {
                score < range.max
            } else {
                score <= range.max
            }
        });
        start..end.max(start)
    }

    /// The ranks of the elements in a range of members. Where scores differ the answer means nothing.
    pub fn lex_range(&self, range: &LexRange<'_>) -> Range<usize> {
        let start = self.partition_point(|_, member| match range.min {
            LexBound::Lowest => false,
            LexBound::Highest => true,
            LexBound::With(bound) => member < bound,
            LexBound::Without(bound) => member <= bound,
        });
        let end = self.partition_point(|_, member| match range.max {
            LexBound::Lowest => false,
            LexBound::Highest => true,
            LexBound::With(bound) => member <= bound,
            LexBound::Without(bound) => member < bound,
        });
        start..end.max(start)
    }

    /// The rank of the first element behind this score and member, whether they are in the set or not.
    pub fn rank_behind(&self, score: f64, member: &[u8]) -> usize {
        self.partition_point(|other, other_member| {
            other < score || other == score && other_member <= member
        })
    }

    /// Visits about `count` elements from a cursor on; the next cursor, 0 at the end. An element that
    /// is there during the whole iteration is visited. A small set is visited at once.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&[u8], f64)) -> u64 {
        match &self.repr {
            Repr::Packed(packed) => {
                packed
                    .iter()
                    .for_each(|entry| visit(entry.member, entry.score));
                0
            }
            Repr::Large(large) => large.members.scan(cursor, count, visit),
        }
    }

    /// Number of elements before the first that fails the test. The test holds for a prefix.
    fn partition_point(&self, test: impl Fn(f64, &[u8]) -> bool) -> usize {
        match &self.repr {
            Repr::Packed(packed) => packed.partition_point(test),
            Repr::Large(large) => {
                let members = &large.members;
                large
                    .tree
                    .partition_point(|score, id| test(score, members.member(id)))
            }
        }
    }
}

impl Typed for Zset {
    const KIND: super::Kind = super::Kind::Zset;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn free_slice(&mut self, budget: usize) -> bool {
        match &mut self.repr {
            Repr::Packed(packed) => {
                *packed = Packed::default();
                true
            }
            Repr::Large(large) => large.tree.free_slice(budget) && large.members.free_slice(budget),
        }
    }

    fn heap_bytes(&self) -> usize {
        match &self.repr {
            Repr::Packed(packed) => packed.heap_bytes(),
            Repr::Large(large) => {
                size_of::<Large>() + large.members.heap_bytes() + large.tree.heap_bytes()
            }
        }
    }

    fn encoding(&self) -> &'static str {
        match &self.repr {
            Repr::Packed(_) => "listpack",
            Repr::Large(_) => "skiplist",
        }
    }
}

/// The large form. `tree` and `members` hold the same elements with the same scores.
#[derive(Clone, Debug, Default)]
struct Large {
    members: Members,
    tree: Tree,
}

impl Large {
    fn of(packed: &Packed) -> Self {
        let mut large = Self::default();
        for entry in packed.iter() {
            large.add(entry.member, entry.score);
        }
        large
    }

    /// Adds a member that is not there.
    fn add(&mut self, member: &[u8], score: f64) {
        let id = self.members.insert(member, score);
        self.place(id, score);
    }

    /// Puts a member that is in no place yet into the order.
    fn place(&mut self, id: u32, score: f64) {
        let members = &self.members;
        let member = members.member(id);
        self.tree.insert(score, id, |other_score, other| {
            is_before(members, other_score, other, score, member)
        });
    }

    /// Changes a score; the old one.
    fn set_score(&mut self, id: u32, score: f64) -> f64 {
        let old = self.members.score(id);
        if old.to_bits() != score.to_bits() {
            self.tree.remove_at(self.rank(id));
            self.members.set_score(id, score);
            self.place(id, score);
        }
        old
    }

    fn rank(&self, id: u32) -> usize {
        let members = &self.members;
        let (score, member) = (members.score(id), members.member(id));
        self.tree.partition_point(|other_score, other| {
            is_before(members, other_score, other, score, member)
        })
    }

    fn remove_at(&mut self, rank: usize) {
        let Some((_, id)) = self.tree.at(rank) else {
            return;
        };
        self.tree.remove_at(rank);
        self.members.remove(id);
        // Two slots per removal, so that the free ones do not outrun this.
        for _ in 0..2 {
            if let Some(step) = self.members.tidy() {
                // The rank is looked up before the move, while every number in the tree is valid.
                let rank = self.rank(step.from);
                self.members.relocate(step);
                self.tree.rename_at(rank, step.to);
            }
        }
    }
}

/// Does element `other` stand before this score and member? Looks at members only where scores tie.
fn is_before(members: &Members, other_score: f64, other: u32, score: f64, member: &[u8]) -> bool {
    if other_score != score {
        return other_score < score;
    }
    members.member(other) < member
}

/// Elements of a [`Zset`] in or against their order.
#[derive(Clone, Debug)]
pub struct Iter<'a>(Steps<'a>);

// The offsets spare the allocation that walking a block backwards would take; a walk lives on the stack.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
enum Steps<'a> {
    Packed {
        packed: &'a Packed,
        offsets: [u16; PACKED_LEN],
        at: usize,
        left: usize,
        back: bool,
    },
    Large {
        members: &'a Members,
        walk: tree::Walk<'a>,
        left: usize,
    },
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], f64);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Steps::Packed {
                packed,
                offsets,
                at,
                left,
                back,
            } => {
                *left = left.checked_sub(1)?;
                let entry = packed.entry_at(offsets[*at])?;
                *at = if *back { at.wrapping_sub(1) } else { *at + 1 };
                Some((entry.member, entry.score))
            }
            Steps::Large {
                members,
                walk,
                left,
            } => {
                let (score, id) = walk.next()?;
                *left -= 1;
                Some((members.member(id), score))
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let (Steps::Packed { left, .. } | Steps::Large { left, .. }) = &self.0;
        (*left, Some(*left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

#[cfg(test)]
mod tests {
    use std::{cmp::Ordering, collections::BTreeSet};

    use proptest::prelude::*;

    use super::{packed::order, *};
    use crate::base::Rng;

    type Model = Vec<(Vec<u8>, f64)>;

    fn place(model: &Model, member: &[u8]) -> Option<usize> {
        model.iter().position(|(other, _)| other == member)
    }

    fn model_insert(model: &mut Model, member: &[u8], score: f64) -> Option<f64> {
        let old = place(model, member).map(|at| model.remove(at).1);
        let at = model.partition_point(|(other, other_score)| {
            order(*other_score, other, score, member) == Ordering::Less
        });
        model.insert(at, (member.to_vec(), score));
        old
    }

    fn check(zset: &Zset, model: &Model) {
        assert_eq!(zset.len(), model.len());
        assert!(
            zset.iter()
                .eq(model.iter().map(|(member, score)| (&member[..], *score)))
        );
        assert!(
            zset.range(0..model.len(), true).eq(model
                .iter()
                .rev()
                .map(|(member, score)| (&member[..], *score)))
        );
        if let Repr::Large(large) = &zset.repr {
            large.tree.check();
            for (rank, (member, score)) in model.iter().enumerate() {
                assert_eq!(zset.rank(member), Some((rank, *score)));
            }
            assert!(large.members.slots() <= 3 * model.len() + 1024);
        }
    }

    #[derive(Clone, Debug)]
    enum Act {
        Insert(u16, i8),
        InsertMany(u16, u16, i8),
        Remove(u16),
        RemoveRange(u16, u16),
        Look(u16, i8, i8, bool, bool),
    }

    fn act() -> impl Strategy<Value = Act> {
        let (member, score) = (0u16..600, -5i8..5);
        prop_oneof![
            6 => (member.clone(), score.clone()).prop_map(|(m, s)| Act::Insert(m, s)),
            2 => (member.clone(), 0u16..200, score.clone())
                .prop_map(|(m, n, s)| Act::InsertMany(m, n, s)),
            4 => member.clone().prop_map(Act::Remove),
            1 => (member.clone(), 0u16..150).prop_map(|(m, n)| Act::RemoveRange(m, n)),
            3 => (member, score.clone(), score, any::<bool>(), any::<bool>())
                .prop_map(|(m, a, b, x, y)| Act::Look(m, a, b, x, y)),
        ]
    }

    fn member(number: u16) -> Vec<u8> {
        if number % 50 == 7 {
            format!("{number:040}").into_bytes()
        } else {
            number.to_string().into_bytes()
        }
    }

    fn score(number: i8) -> f64 {
        match number {
            -5 => f64::NEG_INFINITY,
            4 => f64::INFINITY,
            3 => 0.1,
            2 => 3e15,
            other => other.into(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn a_sorted_set_is_a_sorted_vector(acts in prop::collection::vec(act(), 1..120)) {
            let (mut zset, mut model) = (Zset::default(), Model::new());
            for act in acts {
                match act {
                    Act::Insert(m, s) => {
                        let (m, s) = (member(m), score(s));
                        prop_assert_eq!(zset.insert(&m, s), model_insert(&mut model, &m, s));
                    }
                    Act::InsertMany(m, count, s) => {
                        for m in m..m + count {
                            let (m, s) = (member(m), score(s));
                            prop_assert_eq!(zset.insert(&m, s), model_insert(&mut model, &m, s));
                        }
                    }
                    Act::Remove(m) => {
                        let m = member(m);
                        let want = place(&model, &m).map(|at| model.remove(at).1);
                        prop_assert_eq!(zset.remove(&m), want);
                        prop_assert_eq!(zset.score(&m), None);
                    }
                    Act::RemoveRange(at, count) => {
                        let start = usize::from(at) % (model.len() + 1);
                        let end = (start + usize::from(count)).min(model.len());
                        zset.remove_range(start..end);
                        model.drain(start..end);
                    }
                    Act::Look(m, a, b, above_min, below_max) => {
                        let range = ScoreRange { min: score(a), max: score(b), above_min, below_max };
                        let ranks = zset.score_range(&range);
                        let inside = |s: f64| {
                            (s > range.min || (s == range.min && !above_min))
                                && (s < range.max || (s == range.max && !below_max))
                        };
                        let want = model.iter().filter(|(_, s)| inside(*s)).count();
                        prop_assert_eq!(ranks.len(), want);
                        prop_assert!(model[ranks].iter().all(|(_, s)| inside(*s)));
                        let at = usize::from(m) % (model.len() + 1);
                        let want = model.get(at).map(|(m, s)| (&m[..], *s));
                        prop_assert_eq!(zset.at(at), want);
                    }
                }
                check(&zset, &model);
            }
            let copy = zset.clone();
            while !zset.free_slice(50) {}
            check(&copy, &model);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn ranges_by_member_are_those_of_a_set(
            members in prop::collection::btree_set(0u16..2000, 0..400),
            low in 0u16..2000,
            high in 0u16..2000,
            low_with in any::<bool>(),
            high_with in any::<bool>(),
        ) {
            let mut zset = Zset::default();
            let members: BTreeSet<Vec<u8>> = members.into_iter().map(member).collect();
            for member in &members {
                zset.insert(member, 0.0);
            }
            let (low, high) = (member(low), member(high));
            let range = LexRange {
                min: if low_with { LexBound::With(&low) } else { LexBound::Without(&low) },
                max: if high_with { LexBound::With(&high) } else { LexBound::Without(&high) },
            };
            let got: Vec<&[u8]> = zset.range(zset.lex_range(&range), false).map(|e| e.0).collect();
            let want: Vec<&[u8]> = members
                .iter()
                .filter(|m| if low_with { **m >= low } else { **m > low })
                .filter(|m| if high_with { **m <= high } else { **m < high })
                .map(|m| &m[..])
                .collect();
            prop_assert_eq!(got, want);
            let all = LexRange { min: LexBound::Lowest, max: LexBound::Highest };
            prop_assert_eq!(zset.lex_range(&all), 0..members.len());
        }
    }

    #[test]
    fn a_scan_meets_every_member_that_stays_though_most_others_go() {
        let mut rng = Rng::seeded(3);
        let mut zset = Zset::default();
        for number in 0..20_000u32 {
            zset.insert(&number.to_be_bytes(), f64::from(number % 100));
        }
        let stays = |number: u32| number.is_multiple_of(50);
        let mut seen = BTreeSet::new();
        let mut cursor = 0;
        loop {
            cursor = zset.scan(cursor, 10, |member, _| {
                seen.insert(member.to_vec());
            });
            if cursor == 0 {
                break;
            }
            for _ in 0..200 {
                let number = rng.below(20_000) as u32;
                if !stays(number) {
                    zset.remove(&number.to_be_bytes());
                }
            }
        }
        for number in (0..20_000u32).filter(|number| stays(*number)) {
            assert!(seen.contains(&number.to_be_bytes()[..]), "{number}");
        }
        // The slots of those that went were given back.
        assert!(zset.len() < 5000, "{}", zset.len());
        let Repr::Large(large) = &zset.repr else {
            panic!("a large set turned small")
        };
        assert!(large.members.slots() < 3 * zset.len() + 1024);
    }

    #[test]
    fn the_small_form_ends_at_its_limits() {
        let mut zset = Zset::default();
        for number in 0..128 {
            zset.insert(format!("{number:064}").as_bytes(), 0.5);
        }
        assert_eq!(zset.encoding(), "listpack");
        zset.insert(b"one more", 1.0);
        assert_eq!(zset.encoding(), "skiplist");
        let mut zset = Zset::default();
        zset.insert(&[b'x'; 65], 1.0);
        assert_eq!(zset.encoding(), "skiplist");
    }

    #[test]
    fn a_large_set_takes_few_bytes_per_element() {
        let mut rng = Rng::seeded(9);
        let mut zset = Zset::default();
        for number in 0..200_000u32 {
            zset.insert(
                format!("member:{number}").as_bytes(),
                rng.below(1 << 40) as f64,
            );
        }
        let each = zset.heap_bytes() as f64 / 200_000.0;
        assert!(each < 70.0, "{each}");
    }
}
