//! `ringkeep top`: how a node is doing, in a terminal.

mod frame;
mod link;

use std::{
    io::{IsTerminal, Write, stdout},
    time::{Duration, Instant},
};

use crossterm::{
    cursor::{Hide, MoveTo, Show},
    event::{Event, KeyCode, KeyEvent, KeyModifiers, poll, read},
    execute, queue,
    style::Print,
    terminal::{
        Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
        enable_raw_mode, size,
    },
};

use self::{frame::Sample, link::Link};

/// Between two looks at the node.
const EVERY: Duration = Duration::from_secs(1);
/// Of a frame that goes nowhere in particular.
const SIZE: (usize, usize) = (80, 24);

/// What to look at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Top {
    /// The client port of a node, and where.
    pub host: String,
    /// See there.
    pub port: u16,
    /// Print one frame, and end.
    pub is_once: bool,
}

/// Shows how a node is doing until somebody wants to leave.
///
/// # Errors
/// What is wrong with the terminal; with one frame alone, also why the node tells nothing.
pub fn top(asked: &Top) -> Result<bool, String> {
    let mut link = Link::to(&asked.host, asked.port);
    if asked.is_once {
        return once(&mut link);
    }
    if !stdout().is_terminal() {
        return Err("standard output is no terminal: --once prints one frame".into());
    }
    let screen = Screen::enter().map_err(|error| error.to_string())?;
    let watched = watch(&mut link);
    drop(screen);
    watched.map(|()| true).map_err(|error| error.to_string())
}

/// Rates need two looks.
fn once(link: &mut Link) -> Result<bool, String> {
    let before = link.ask()?;
    std::thread::sleep(EVERY);
    let now = link.ask()?;
    let lines = frame::compose(&now, Some(&before), &link.place, SIZE);
    let text = lines.join("\n") + "\n";
    // Who reads it may have seen enough.
    let _ = stdout().write_all(text.as_bytes());
    Ok(true)
}

fn watch(link: &mut Link) -> std::io::Result<()> {
    let mut before: Option<Sample> = None;
    let mut found = link.ask();
    loop {
        let asked_at = Instant::now();
        draw(&found, before.as_ref(), &link.place)?;
        while let Some(left) = EVERY.checked_sub(asked_at.elapsed()) {
            if !poll(left)? {
                break;
            }
            match read()? {
                Event::Key(key) if is_leaving(key) => return Ok(()),
                Event::Resize(..) => draw(&found, before.as_ref(), &link.place)?,
                _ => {}
            }
        }
        before = std::mem::replace(&mut found, link.ask()).ok();
    }
}

fn is_leaving(key: KeyEvent) -> bool {
    let is_held = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c' | 'd') if is_held => true,
        KeyCode::Char('q') | KeyCode::Esc => true,
        _ => false,
    }
}

fn draw(
    found: &Result<Sample, String>,
    before: Option<&Sample>,
    place: &str,
) -> std::io::Result<()> {
    let size = size().map_or(SIZE, |(columns, rows)| (columns.into(), rows.into()));
    let lines = match found {
        Ok(now) => frame::compose(now, before, place, size),
        Err(why) => frame::compose_failure(why, place, size),
    };
    let mut out = stdout().lock();
    for (row, line) in lines.iter().enumerate() {
        let at = MoveTo(0, row as u16);
        queue!(out, at, Print(line), Clear(ClearType::UntilNewLine))?;
    }
    let next = MoveTo(0, lines.len() as u16);
    if lines.len() < size.1 {
        queue!(out, next, Clear(ClearType::FromCursorDown))?;
    }
    out.flush()
}

/// A terminal that is as it was once this is gone.
struct Screen;

impl Screen {
    fn enter() -> std::io::Result<Self> {
        enable_raw_mode()?;
        let screen = Screen;
        execute!(stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = execute!(stdout(), Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}
