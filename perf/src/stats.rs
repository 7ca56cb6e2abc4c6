//! Medians, spreads, and when a difference is one.

use std::cmp::Ordering;

/// A median with the range it is trusted in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle value.
    pub median: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Spread {
    /// Of one value per round. The range is that of all rounds but the `n / 8` most extreme at either
    /// end. None without rounds.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (count, cut) = (sorted.len(), sorted.len() / 8);
        let upper = *sorted.get(count / 2)?;
        let lower = sorted[(count - 1) / 2];
        Some(Spread {
            median: f64::midpoint(lower, upper),
            low: sorted[cut],
            high: sorted[count - 1 - cut],
        })
    }

    /// Of `values` divided by `base`, round by round: what slowed a whole round cancels out.
    pub fn of_ratios(values: &[f64], base: &[f64]) -> Option<Spread> {
        let ratios: Vec<f64> = values
            .iter()
            .zip(base)
            .filter(|(_, b)| **b > 0.0)
            .map(|(a, b)| a / b)
            .collect();
        Spread::of(&ratios)
    }
}

/// Compares two engines by their values of the same rounds. Equal, a tie, unless the spread of the
/// per-round ratios leaves 1 out; with fewer than five rounds chance alone does that too often, so
/// then always equal. (Noise alone decides 1 in 16 comparisons of five rounds, fewer of more.)
pub fn compare(a: &[f64], b: &[f64]) -> Ordering {
    match Spread::of_ratios(a, b) {
        Some(ratio) if a.len().min(b.len()) >= ROUNDS_MIN => {
            if ratio.low > 1.0 {
                Ordering::Greater
            } else if ratio.high < 1.0 {
                Ordering::Less
            } else {
                Ordering::Equal
            }
        }
        _ => Ordering::Equal,
    }
}

/// From how many rounds on a difference may be called one.
pub const ROUNDS_MIN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_between_its_ends() {
        let of = |values: &[f64]| Spread::of(values).map(|s| (s.median, s.low, s.high));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[2.0]), Some((2.0, 2.0, 2.0)));
        assert_eq!(of(&[4.0, 1.0]), Some((2.5, 1.0, 4.0)));
        assert_eq!(of(&[5.0, 1.0, 3.0]), Some((3.0, 1.0, 5.0)));
        let eight: Vec<f64> = (1..=8).map(f64::from).collect();
        assert_eq!(of(&eight), Some((4.5, 2.0, 7.0)));
    }

    #[test]
    fn a_difference_inside_the_spread_is_a_tie() {
        let quiet = [100.0, 101.0, 99.0, 100.0, 102.0];
        let slower = [120.0, 122.0, 118.0, 119.0, 121.0];
        let noisy = [98.0, 120.0, 97.0, 130.0, 101.0];
        assert_eq!(compare(&quiet, &slower), Ordering::Less);
        assert_eq!(compare(&slower, &quiet), Ordering::Greater);
        assert_eq!(compare(&quiet, &noisy), Ordering::Equal);
        assert_eq!(compare(&quiet[..4], &slower[..4]), Ordering::Equal);
    }

    #[test]
    fn a_slow_round_for_both_cancels_out() {
        let a = [100.0, 300.0, 100.0, 100.0, 250.0];
        let b = [110.0, 330.0, 110.0, 110.0, 275.0];
        assert_eq!(compare(&a, &b), Ordering::Less);
    }
}
