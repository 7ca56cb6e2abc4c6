//! How far it is: a bar on a terminal, a line now and then elsewhere.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Time between two lines.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Things between two looks at the clock.
const LOOK_EVERY: u64 = 4096;

/// Tells how far the work is.
pub struct Progress {
    is_terminal: bool,
    bar: Option<ProgressBar>,
    work: String,
    unit: &'static str,
    bytes: u64,
    bytes_all: u64,
    things: u64,
    started: Instant,
    told: Instant,
}

impl Progress {
    /// Nothing is going on yet.
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            is_terminal: stderr().is_terminal(),
            bar: None,
            work: String::new(),
            unit: "",
            bytes: 0,
            bytes_all: 0,
            things: 0,
            started: now,
            told: now,
        }
    }

    /// Begins a piece of work: how many bytes it is, if that is known, and what is counted on the way.
    pub fn start(&mut self, work: impl Into<String>, bytes_all: u64, unit: &'static str) {
        self.finish();
        let now = Instant::now();
        *self = Self {
            is_terminal: self.is_terminal,
            bar: None,
            work: work.into(),
            unit,
            bytes: 0,
            bytes_all,
            things: 0,
            started: now,
            told: now,
        };
        if self.is_terminal {
            let (bar, template) = if bytes_all > 0 {
                let template = "{wide_bar} {bytes}/{total_bytes} {msg}";
                (ProgressBar::new(bytes_all), template)
            } else {
                (ProgressBar::no_length(), "{spinner} {msg}")
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            self.bar = Some(bar);
        }
    }

    /// So many bytes more are done.
    pub fn bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.tell();
    }

    /// So many things more are done.
    pub fn things(&mut self, things: u64) {
        let before = self.things;
        self.things += things;
        if before / LOOK_EVERY != self.things / LOOK_EVERY {
            self.tell();
        }
    }

    /// The piece of work is done.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn tell(&mut self) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.bytes);
            bar.set_message(self.text());
        } else if self.told.elapsed() >= LINE_EVERY {
            self.told = Instant::now();
            eprintln!("{}, {}", self.text(), self.share());
        }
    }

    fn text(&self) -> String {
        let secs = self.started.elapsed().as_secs_f64().max(0.001);
        format!(
            "{}: {} {}, {:.0}/s",
            self.work,
            self.things,
            self.unit,
            self.things as f64 / secs
        )
    }

    fn share(&self) -> String {
        match self.bytes_all {
            0 => HumanBytes(self.bytes).to_string(),
            all => format!("{} of {}", HumanBytes(self.bytes), HumanBytes(all)),
        }
    }
}
