//! Deadlines: the keyspace with its index in buckets of a second, against a `HashMap` with a `BTreeSet` of
//! deadline and key. The index is private, so each operation has the lookup of its key in it; `table` has
//! lookups alone. One operation is one key of 16 bytes, among 300 000 with deadlines within an hour.

use std::{
    collections::{BTreeSet, HashMap},
    hint::black_box,
};

use ringkeep::{
    base::{Ms, Rng},
    store::Keyspace,
};

use crate::{
    measure::{Meter, compare},
    store::key,
};

pub fn run() {
    let [mut ours, mut naive] = [expired_keys::<Keyspace>(), expired_keys::<Naive>()];
    ours.sort_unstable();
    naive.sort_unstable();
    assert_eq!(ours, naive);

    compare(
        "set a string with a deadline, from empty",
        KEYS,
        fill::<Keyspace>,
        fill::<Naive>,
    );
    let mut ours = filled::<Keyspace>();
    let mut naive = filled::<Naive>();
    for (what, span) in [
        ("move a deadline anywhere within the hour", HOUR),
        ("move a deadline within half a second", 500),
    ] {
        let [mut a, mut b] = [Rng::seeded(2), Rng::seeded(2)];
        compare(
            what,
            MOVES,
            |meter| shift(meter, &mut ours, &mut a, span),
            |meter| shift(meter, &mut naive, &mut b, span),
        );
    }
    drop((ours, naive));
    compare(
        "remove a string with a deadline, until empty",
        KEYS,
        remove::<Keyspace>,
        remove::<Naive>,
    );
    compare(
        "expire, looking every 100 ms",
        KEYS,
        expire::<Keyspace>,
        expire::<Naive>,
    );
}

/// What both can do.
trait Deadlines {
    fn empty() -> Self;
    fn put(&mut self, key: &[u8], due: Option<Ms>);
    fn move_to(&mut self, key: &[u8], due: Option<Ms>) -> bool;
    fn delete(&mut self, key: &[u8]) -> bool;
    fn expire(&mut self, now: Ms, gone: impl FnMut(&[u8]));
    fn count(&self) -> usize;
}

impl Deadlines for Keyspace {
    fn empty() -> Self {
        Keyspace::new(7)
    }

    #[inline]
    fn put(&mut self, key: &[u8], due: Option<Ms>) {
        self.set_string(key, VALUE, due);
    }

    #[inline]
    fn move_to(&mut self, key: &[u8], due: Option<Ms>) -> bool {
        self.set_deadline(key, due, START)
    }

    #[inline]
    fn delete(&mut self, key: &[u8]) -> bool {
        self.remove(key, START)
    }

    #[inline]
    fn expire(&mut self, now: Ms, mut gone: impl FnMut(&[u8])) {
        while self.expire_due(now, BUDGET, &mut gone) {}
    }

    fn count(&self) -> usize {
        self.len()
    }
}

/// The naive twin.
#[derive(Default)]
struct Naive {
    strings: HashMap<Vec<u8>, (Vec<u8>, Option<Ms>)>,
    due: BTreeSet<(Ms, Vec<u8>)>,
}

impl Deadlines for Naive {
    fn empty() -> Self {
        Self::default()
    }

    fn put(&mut self, key: &[u8], due: Option<Ms>) {
        let old = self.strings.insert(key.to_vec(), (VALUE.to_vec(), due));
        if let Some((_, Some(old))) = old {
            self.due.remove(&(old, key.to_vec()));
        }
        if let Some(due) = due {
            self.due.insert((due, key.to_vec()));
        }
    }

    fn move_to(&mut self, key: &[u8], due: Option<Ms>) -> bool {
        let Some((_, deadline)) = self.strings.get_mut(key) else {
            return false;
        };
        if let Some(old) = std::mem::replace(deadline, due) {
            self.due.remove(&(old, key.to_vec()));
        }
        if let Some(due) = due {
            self.due.insert((due, key.to_vec()));
        }
        true
    }

    fn delete(&mut self, key: &[u8]) -> bool {
        let Some((_, deadline)) = self.strings.remove(key) else {
            return false;
        };
        if let Some(due) = deadline {
            self.due.remove(&(due, key.to_vec()));
        }
        true
    }

    fn expire(&mut self, now: Ms, mut gone: impl FnMut(&[u8])) {
        while let Some((due, _)) = self.due.first()
            && *due <= now
            && let Some((_, key)) = self.due.pop_first()
        {
            self.strings.remove(&key);
            gone(&key);
        }
    }

    fn count(&self) -> usize {
        self.strings.len()
    }
}

fn filled<D: Deadlines>() -> D {
    let mut deadlines = D::empty();
    let mut rng = Rng::seeded(1);
    for at in 0..KEYS {
        deadlines.put(&key(at), Some(START + 1000 + rng.below(HOUR)));
    }
    deadlines
}

fn fill<D: Deadlines>(meter: &mut Meter) {
    let deadlines = meter.time(filled::<D>);
    assert_eq!(deadlines.count() as u64, KEYS);
}

/// Gives keys at random new deadlines, each in the part of the hour, `span` long, that belongs to the key.
fn shift(meter: &mut Meter, deadlines: &mut impl Deadlines, rng: &mut Rng, span: Ms) {
    meter.time(|| {
        for _ in 0..MOVES {
            let at = rng.below(KEYS);
            let part = at % (HOUR / span);
            let due = START + 1000 + part * span + rng.below(span);
            black_box(deadlines.move_to(&key(at), Some(due)));
        }
    });
}

fn remove<D: Deadlines>(meter: &mut Meter) {
    let mut deadlines = filled::<D>();
    meter.time(|| {
        for at in 0..KEYS {
            black_box(deadlines.delete(&key(at)));
        }
    });
    assert_eq!(deadlines.count(), 0);
}

fn expire<D: Deadlines>(meter: &mut Meter) {
    let mut deadlines = filled::<D>();
    meter.time(|| {
        for look in 0..=(HOUR + 1000) / 100 {
            deadlines.expire(START + look * 100, |key| {
                black_box(key);
            });
        }
    });
    assert_eq!(deadlines.count(), 0);
}

/// All keys with the time at which they were found due.
fn expired_keys<D: Deadlines>() -> Vec<(Ms, Vec<u8>)> {
    let mut deadlines = filled::<D>();
    let mut gone = Vec::new();
    for look in 0..=(HOUR + 1000) / 100 {
        let now = START + look * 100;
        deadlines.expire(now, |key| gone.push((now, key.to_vec())));
    }
    gone
}

const START: Ms = 1_000_000_000_000;
const HOUR: Ms = 3_600_000;
const VALUE: &[u8] = b"sixteen bytes v.";
const KEYS: u64 = 300_000;
const MOVES: u64 = 100_000;
const BUDGET: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn both_find_the_same_keys_due(
            ops in vec((0..4u8, 0..60u64, any::<Option<u16>>()), 0..600),
        ) {
            let (mut ours, mut naive) = (Keyspace::empty(), Naive::empty());
            // Time stands still for everything but looking, which begins after all deadlines are set.
            for (op, at, due) in &ops {
                let key = key(*at);
                let due = due.map(|due| START + 1 + Ms::from(due));
                match op {
                    0 | 1 => {
                        ours.put(&key, due);
                        naive.put(&key, due);
                    }
                    2 => prop_assert_eq!(
                        ours.move_to(&key, due),
                        naive.move_to(&key, due)
                    ),
                    _ => prop_assert_eq!(
                        ours.delete(&key),
                        naive.delete(&key)
                    ),
                }
                prop_assert_eq!(ours.count(), naive.count());
            }
            for now in (START..START + 70_000).step_by(70) {
                let (mut gone, mut gone_naively) = (Vec::new(), Vec::new());
                ours.expire(now, |key| gone.push(key.to_vec()));
                naive.expire(now, |key| gone_naively.push(key.to_vec()));
                gone.sort_unstable();
                gone_naively.sort_unstable();
                prop_assert_eq!(gone, gone_naively);
                prop_assert_eq!(ours.count(), naive.count());
            }
        }
    }
}
