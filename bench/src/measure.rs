//! Timing ours against its naive twin: rounds of both in turn (A B A B), so that whatever else the machine
//! does meets both.

use std::time::{Duration, Instant};

use perf_event::{Builder, Counter, events::Hardware};

/// Takes the time of the part of a round that counts.
pub struct Meter {
    counter: Option<Counter>,
    spent: Duration,
    instructions: Option<u64>,
}

impl Meter {
    fn new() -> Self {
        Self {
            counter: instruction_counter(),
            spent: Duration::ZERO,
            instructions: None,
        }
    }

    /// Runs `work` and adds what it took to this round. What is built before and dropped after does not
    /// count. Never inlined, so that a profiler can name what is timed.
    #[inline(never)]
    pub fn time<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let before = self.counter.as_mut().and_then(start);
        let start = Instant::now();
        let result = work();
        self.spent += start.elapsed();
        let after = self.counter.as_mut().and_then(stop);
        if let (Some(before), Some(after)) = (before, after) {
            *self.instructions.get_or_insert(0) += after - before;
        }
        result
    }

    fn take(&mut self, operations: u64) -> Round {
        let spent = std::mem::take(&mut self.spent);
        let instructions = self.instructions.take();
        Round {
            nanos: spent.as_nanos() as f64 / operations as f64,
            instructions: instructions.map(|count| count as f64 / operations as f64),
        }
    }
}

/// What one operation took in one round.
#[derive(Clone, Copy)]
struct Round {
    nanos: f64,
    instructions: Option<f64>,
}

/// Times both and prints a line. Each call of `ours` and of `naive` is one round of so many operations. What
/// one operation of ours took, in nanoseconds.
pub fn compare(
    what: &str,
    operations: u64,
    mut ours: impl FnMut(&mut Meter),
    mut naive: impl FnMut(&mut Meter),
) -> f64 {
    let mut meter = Meter::new();
    let mut rounds: [Vec<Round>; 2] = Default::default();
    for round in 0..=ROUNDS {
        ours(&mut meter);
        let a = meter.take(operations);
        naive(&mut meter);
        let b = meter.take(operations);
        // The first of each warms the caches and the allocator.
        if round > 0 {
            rounds[0].push(a);
            rounds[1].push(b);
        }
    }
    let [a, b] = rounds.each_ref().map(|rounds| nanos(rounds));
    println!("  {what:<48} {}", line(a, b));
    if let [Some(a), Some(b)] = rounds.each_ref().map(|rounds| instructions(rounds)) {
        println!("  {:48} instructions {a:.1}, naive {b:.1}", "");
    }
    a.median
}

/// What the lines mean.
pub fn legend() -> String {
    let counted = match instruction_counter() {
        Some(_) => "instructions of this thread in user mode, median",
        None => "instructions unknown: this machine lends no hardware counter",
    };
    format!(
        "ns per operation: median of {ROUNDS} rounds of each in turn (middle half of them); ratio to the \
         naive twin; {counted}"
    )
}

/// A median and where the middle half of the values lies.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |part: f64| values[((values.len() - 1) as f64 * part).round() as usize];
        Self {
            low: at(0.25),
            median: at(0.5),
            high: at(0.75),
        }
    }
}

fn nanos(rounds: &[Round]) -> Spread {
    Spread::of(rounds.iter().map(|round| round.nanos).collect())
}

fn instructions(rounds: &[Round]) -> Option<f64> {
    let counts: Option<Vec<f64>> = rounds.iter().map(|round| round.instructions).collect();
    counts.map(|counts| Spread::of(counts).median)
}

/// Ours and naive side by side. Where the middle halves meet, no difference was shown.
fn line(ours: Spread, naive: Spread) -> String {
    let shown = |spread: Spread| {
        format!(
            "{:.1} ({:.1} to {:.1})",
            spread.median, spread.low, spread.high
        )
    };
    let tie = if ours.low <= naive.high && naive.low <= ours.high {
        ", a tie"
    } else {
        ""
    };
    format!(
        "{:>26}   naive {:>26}   ratio {:.2}{tie}",
        shown(ours),
        shown(naive),
        ours.median / naive.median
    )
}

/// Virtual machines mostly have none, and some systems allow it to root only.
fn instruction_counter() -> Option<Counter> {
    Builder::new(Hardware::INSTRUCTIONS).build().ok()
}

fn start(counter: &mut Counter) -> Option<u64> {
    let before = counter.read().ok()?;
    counter.enable().ok()?;
    Some(before)
}

fn stop(counter: &mut Counter) -> Option<u64> {
    counter.disable().ok()?;
    counter.read().ok()
}

const ROUNDS: usize = 11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_the_middle_half() {
        let spread = Spread::of((1..=11).rev().map(f64::from).collect());
        assert_eq!(
            spread,
            Spread {
                low: 4.0,
                median: 6.0,
                high: 9.0
            }
        );
    }

    #[test]
    fn what_overlaps_is_a_tie() {
        let spread = |low, median, high| Spread { low, median, high };
        let ours = spread(1.0, 2.0, 3.0);
        assert_eq!(
            line(ours, spread(3.5, 4.0, 5.0)),
            "          2.0 (1.0 to 3.0)   naive           4.0 (3.5 to 5.0)   ratio 0.50"
        );
        assert!(line(ours, spread(3.0, 4.0, 5.0)).ends_with("ratio 0.50, a tie"));
        assert!(line(spread(3.0, 4.0, 5.0), ours).ends_with("ratio 2.00, a tie"));
    }

    #[test]
    fn a_round_starts_from_nothing_and_is_per_operation() {
        let mut meter = Meter::new();
        meter.spent = Duration::from_nanos(30);
        meter.instructions = Some(9);
        let round = meter.take(2);
        assert_eq!((round.nanos, round.instructions), (15.0, Some(4.5)));
        let empty = meter.take(2);
        assert_eq!((empty.nanos, empty.instructions), (0.0, None));
    }
}
