//! Whether the large sends of a link leave from where they lie, without a copy into the kernel. That pays
//! only where the network really takes them from there, and the kernel tells so afterwards.

use bytes::Bytes;
use uring::Usage;

/// A smaller send costs more this way than its copy.
const LEN_MIN: usize = 64 << 10;
/// So do many small pieces.
const PIECE_MIN: usize = 16 << 10;
/// Sends of which nothing is known yet, until the first few are.
const TRIAL: u64 = 2;
const KNOWN_MIN: u64 = 4;

/// What is known of a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct InPlace {
    /// It is worth a try, or more than that.
    may: bool,
    sent: u64,
    known: u64,
    copied: u64,
}

impl InPlace {
    /// Of a new link; `may` where the kernel can, and the other end is on another machine.
    pub fn new(may: bool) -> Self {
        Self {
            may,
            sent: 0,
            known: 0,
            copied: 0,
        }
    }

    /// Should this be sent in place?
    pub fn wants(&self, pieces: &[Bytes], len: usize) -> bool {
        let is_trial = self.known < KNOWN_MIN && self.sent - self.known >= TRIAL;
        self.may && !is_trial && len >= LEN_MIN && len / PIECE_MIN >= pieces.len()
    }

    /// Something was.
    pub fn sent(&mut self) {
        self.sent += 1;
    }

    /// What the kernel said of it; true if the link goes back to plain sends with that, for good.
    pub fn told(&mut self, usage: Usage) -> bool {
        self.known += 1;
        self.copied += u64::from(usage != Usage::InPlace);
        let is_worth_it = usage != Usage::Refused && 2 * self.copied <= self.known;
        let may = self.may && is_worth_it;
        std::mem::replace(&mut self.may, may) != may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn large() -> Vec<Bytes> {
        vec![vec![0; LEN_MIN].into()]
    }

    #[test]
    fn only_large_sends_of_large_pieces_go_in_place() {
        let link = InPlace::new(true);
        assert!(link.wants(&large(), LEN_MIN));
        assert!(!link.wants(&large(), LEN_MIN - 1));
        let small: Vec<Bytes> = vec![vec![0; 8 << 10].into(); 60];
        assert!(!link.wants(&small, 60 * (8 << 10)));
        assert!(!InPlace::new(false).wants(&large(), LEN_MIN));
    }

    #[test]
    fn a_link_goes_back_at_the_first_copy_or_refusal() {
        for usage in [Usage::Copied, Usage::Refused] {
            let mut link = InPlace::new(true);
            for _ in 0..TRIAL {
                assert!(link.wants(&large(), LEN_MIN));
                link.sent();
            }
            assert!(!link.wants(&large(), LEN_MIN), "first it hears of those");
            assert!(link.told(usage));
            assert!(!link.told(Usage::InPlace), "once is enough");
            assert!(!link.wants(&large(), LEN_MIN), "for good");
        }
    }

    #[test]
    fn a_link_that_gains_stays_also_when_a_copy_happens() {
        let mut link = InPlace::new(true);
        for _ in 0..KNOWN_MIN {
            link.sent();
            assert!(!link.told(Usage::InPlace));
        }
        for _ in 0..100 {
            assert!(link.wants(&large(), LEN_MIN), "nothing is waited for");
            link.sent();
        }
        for _ in 0..KNOWN_MIN {
            assert!(!link.told(Usage::Copied));
        }
        assert!(link.told(Usage::Copied), "more often than not");
    }
}
