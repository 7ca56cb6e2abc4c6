//! Telling a person how it goes: lines on standard output that outlive a closed pipe, and a progress bar
//! on a terminal.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use crate::generator::Phase;
use crate::load::Progress;
use crate::spec::LoadSpec;

/// Prints a line to standard output. Whoever reads may have gone: the run goes on for its exit status.
macro_rules! tell {
    ($($text:tt)*) => { $crate::progress::line(format_args!($($text)*)) };
}
pub(crate) use tell;

/// See [`tell!`].
pub fn line(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Shows a load's progress on standard error: a bar that is drawn over itself on a terminal, a line for
/// every phase otherwise.
pub struct Bar {
    is_terminal: bool,
    /// Seconds or requests the measured phase has.
    seconds: f64,
    requests: Option<u64>,
    warmup: f64,
    last_phase: Option<Phase>,
    drawn: Option<Instant>,
}

impl Bar {
    /// For one load.
    pub fn new(spec: &LoadSpec) -> Bar {
        Bar {
            is_terminal: io::stderr().is_terminal(),
            seconds: spec.duration.0.as_secs_f64(),
            requests: spec.requests,
            warmup: spec.warmup.0.as_secs_f64(),
            last_phase: None,
            drawn: None,
        }
    }

    /// Shows where the load is now.
    pub fn show(&mut self, progress: &Progress) {
        let text = if self.is_terminal {
            self.drawn = Some(Instant::now());
            format!("\r\x1b[K{}", self.text(progress))
        } else if self.last_phase != Some(progress.phase) {
            format!("{}\n", name(progress.phase))
        } else {
            return;
        };
        self.last_phase = Some(progress.phase);
        let mut out = io::stderr();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    fn text(&self, progress: &Progress) -> String {
        let since = progress.since.as_secs_f64();
        let share = match (progress.phase, self.requests) {
            (Phase::WarmingUp, _) => Some(since / self.warmup),
            (Phase::Measuring, Some(requests)) => Some(progress.answered as f64 / requests as f64),
            (Phase::Measuring, None) => Some(since / self.seconds),
            _ => None,
        };
        let mut text = format!("{:<10} ", name(progress.phase));
        if let Some(share) = share {
            let full = (share.clamp(0.0, 1.0) * WIDTH as f64) as usize;
            text.push_str(&format!(
                "[{}{}] ",
                "#".repeat(full),
                "-".repeat(WIDTH - full)
            ));
        }
        text.push_str(&format!(
            "{since:.1} s  {} requests  {:.0} per second",
            progress.answered, progress.ops_per_s
        ));
        text
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::Connecting => "connecting",
        Phase::Filling => "filling",
        Phase::WarmingUp => "warming up",
        Phase::Measuring => "measuring",
        Phase::Finishing => "finishing",
    }
}

const WIDTH: usize = 30;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_bar_grows_with_time_or_with_requests() {
        let text = |spec: &LoadSpec, phase| {
            let since = Duration::from_secs(1);
            let progress = Progress {
                phase,
                since,
                answered: 750,
                ops_per_s: 749.6,
            };
            let bar = Bar {
                is_terminal: true,
                ..Bar::new(spec)
            };
            bar.text(&progress)
        };
        let timed = text(&LoadSpec::default(), Phase::Measuring);
        let half = format!("[{}{}]", "#".repeat(15), "-".repeat(15));
        assert!(
            timed.contains(&half) && timed.ends_with("750 requests  750 per second"),
            "{timed}"
        );
        let counted = LoadSpec {
            requests: Some(750),
            ..LoadSpec::default()
        };
        assert!(text(&counted, Phase::Measuring).contains(&"#".repeat(30)));
        assert!(!text(&counted, Phase::Filling).contains('['));
    }
}
