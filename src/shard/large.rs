//! Large requests: their bytes are collected in memory of just their size, which SET keeps as the value.

use bytes::Bytes;

use super::{conn::Conn, state::State};
use crate::resp::{Args, Step};

/// Bytes from which on a request has its memory for itself. Smaller values are cheaper to copy than to
/// keep as a part of something shared.
pub(super) const LARGE_MIN: usize = 32 << 10;

impl State {
    /// More bytes of a large unfinished request: what is behind it is left for the next one.
    pub(super) fn on_more(&mut self, conn: &mut Conn, bytes: &[u8]) {
        let missing = conn.need.saturating_sub(conn.input.len());
        // A single byte is what is missing of a header of unknown length.
        let missing = if missing == 1 { bytes.len() } else { missing };
        let (mine, rest) = bytes.split_at(missing.min(bytes.len()));
        conn.keep(mine);
        self.cut_if_asks_too_much(conn);
        if conn.closing {
            return;
        }
        if conn.input.len() >= conn.need && !self.run_large(conn) {
            self.run_kept(conn);
        }
        self.list(conn);
        if rest.is_empty() {
            return;
        }
        if conn.input.is_empty() || !conn.is_free() {
            return self.on_data(conn, rest);
        }
        // The request goes on, and so do its arguments: looked at one by one, countless small ones would take
        // for ever.
        conn.keep(rest);
        self.cut_if_asks_too_much(conn);
        if conn.input.len() >= conn.need {
            self.run_kept(conn);
        }
    }

    /// Runs the request that fills the whole buffer, or goes on parsing it; false if there is no such one.
    fn run_large(&mut self, conn: &mut Conn) -> bool {
        let slack = conn.input.capacity() - conn.input.len();
        if slack > conn.input.len() / 16 {
            return false;
        }
        let limits = self.limits_of(conn);
        let step = conn.parser.next(&conn.input, 0, &limits);
        let (first, count) = match step {
            Ok(Step::Request { first, count, end }) if end == conn.input.len() => (first, count),
            Ok(Step::More { len_min }) => {
                conn.need = len_min;
                return true;
            }
            _ => {
                conn.parser.clear();
                return false;
            }
        };
        let parser = std::mem::take(&mut conn.parser);
        let whole = Bytes::from(std::mem::take(&mut conn.input));
        conn.need = 0;
        self.arrived = Some(whole.clone());
        let spans = &parser.spans()[first..first + count];
        self.request(conn, &Args::new(&whole, spans));
        self.arrived = None;
        if conn.is_paused() {
            // It did not run: its bytes wait like any others.
            conn.input = whole.into();
        }
        true
    }
}
