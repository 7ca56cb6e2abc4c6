//! How much of what a link applied would be there again after a crash.
//!
//! Frames of a link are in the journals of several shards, at offsets that only those know. So it is noted
//! now and then how far the link and all the journals are; once these are durable up to there, so is the
//! link.

use std::collections::VecDeque;

use crate::base::Ms;

/// Notes that wait.
const NOTES_MAX: usize = 64;
/// Between two notes, while one waits.
const NOTE_EVERY_MS: Ms = 5;

/// See the module page.
#[derive(Debug, Default)]
pub struct Synced {
    notes: VecDeque<Note>,
    /// When the last note was made, and how far the link was.
    noted: (Ms, u64),
}

#[derive(Debug)]
struct Note {
    applied: u64,
    ends: Vec<u64>,
}

impl Synced {
    /// Notes how far the link and the journals are, if that is news. `ends` has to count everything that
    /// was applied.
    pub fn note(&mut self, now: Ms, applied: u64, ends: impl FnOnce() -> Vec<u64>) {
        let (last, reached) = self.noted;
        let is_soon = !self.notes.is_empty() && now.saturating_sub(last) < NOTE_EVERY_MS;
        if applied == reached || is_soon || self.notes.len() >= NOTES_MAX {
            return;
        }
        self.noted = (now, applied);
        let ends = ends();
        self.notes.push_back(Note { applied, ends });
    }

    /// How far the link is durable, if that is news.
    pub fn reached(&mut self, has_passed: impl Fn(&[u64]) -> bool) -> Option<u64> {
        let mut reached = None;
        while self
            .notes
            .front()
            .is_some_and(|note| has_passed(&note.ends))
        {
            reached = self.notes.pop_front().map(|note| note.applied);
        }
        reached
    }

    /// What was noted is of journals that are gone, or of another history.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_durable_where_all_journals_are() {
        let mut synced = Synced::default();
        let mut passed = [10, 20];
        let has = |passed: [u64; 2]| {
            move |ends: &[u64]| passed.iter().zip(ends).all(|(passed, end)| passed >= end)
        };
        synced.note(0, 5, || vec![12, 20]);
        assert_eq!(synced.reached(has(passed)), None);
        synced.note(1, 6, || unreachable!("too soon"));
        synced.note(30, 7, || vec![12, 23]);
        synced.note(60, 7, || unreachable!("no news"));
        passed[1] = 30;
        assert_eq!(
            synced.reached(has(passed)),
            None,
            "one shard lacks something"
        );
        passed[0] = 12;
        assert_eq!(synced.reached(has(passed)), Some(7));
        assert_eq!(synced.reached(has(passed)), None, "that is no news");
        synced.note(61, 8, || vec![13, 30]);
        synced.forget();
        assert_eq!(synced.reached(has([90, 90])), None);
    }

    #[test]
    fn notes_that_wait_are_few() {
        let mut synced = Synced::default();
        for n in 1..1000 {
            synced.note(n * NOTE_EVERY_MS, n, || vec![n]);
        }
        assert_eq!(synced.notes.len(), NOTES_MAX);
        assert_eq!(synced.reached(|_| true), Some(NOTES_MAX as u64));
        synced.note(0, 2000, || vec![2000]);
        assert_eq!(synced.reached(|_| true), Some(2000));
    }
}
