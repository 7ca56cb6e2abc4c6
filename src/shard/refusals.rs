//! Connections with other nodes that did not come about: each counts, and a few are told.

use std::{collections::BTreeMap, net::IpAddr, sync::Mutex};

use super::{log, shared::lock};
use crate::base::Ms;

/// Of who is refused again and again, so often something is logged.
const TELL_AGAIN_MS: Ms = 60_000;
/// Of so many at a time.
const TOLD_MAX: usize = 64;

/// What was told of them. `K` is why they did not come about, and on which way.
#[derive(Debug)]
pub(super) struct Refusals<K> {
    /// The last one.
    last: Mutex<String>,
    /// Of whom the log has a line, and since when.
    told: Mutex<BTreeMap<(IpAddr, K), Ms>>,
}

impl<K> Default for Refusals<K> {
    fn default() -> Self {
        Self {
            last: Mutex::default(),
            told: Mutex::default(),
        }
    }
}

/// Where the machine is not known.
pub(super) fn machine(address: Option<IpAddr>) -> IpAddr {
    address.unwrap_or(IpAddr::from([0, 0, 0, 0])).to_canonical()
}

impl<K: Ord> Refusals<K> {
    /// Notes one with this machine, and logs `line` and what is `more` to it unless there was such a one of
    /// late.
    pub fn note(&self, with: IpAddr, why: K, line: &str, more: &str, now: Ms) {
        line.clone_into(&mut lock(&self.last));
        let mut told = lock(&self.told);
        // Clocks of ports differ, and one may go back.
        told.retain(|_, since| now.abs_diff(*since) < TELL_AGAIN_MS);
        let who = (with, why);
        if told.len() < TOLD_MAX && !told.contains_key(&who) {
            told.insert(who, now);
            log(&format!("{line}{more}"));
        }
    }

    /// The last one; empty if there was none.
    pub fn last(&self) -> String {
        lock(&self.last).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_told_and_what_is_long_ago_is_forgotten() {
        let refusals = Refusals::default();
        for n in 0..200u8 {
            let with = machine(Some(IpAddr::from([10, 0, 0, n])));
            refusals.note(with, 1, "first", "", 5);
            refusals.note(with, 2, "second", "", 6);
        }
        assert_eq!(refusals.last(), "second");
        assert_eq!(lock(&refusals.told).len(), TOLD_MAX);
        refusals.note(machine(None), 1, "third", "", 5 + 2 * TELL_AGAIN_MS);
        assert_eq!(lock(&refusals.told).len(), 1);
    }
}
