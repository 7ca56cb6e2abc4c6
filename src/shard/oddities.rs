//! What few connections ask for and all requests then pay: CLIENT PAUSE and the like. While nobody asks,
//! a request pays one look at `State::odd`.

use super::{
    conn::{Conn, Hold},
    state::State,
};
use crate::{
    base::Ms,
    cmd::{Keys, Run, Spec, Verb, flag},
    resp::Args,
};

/// Reasons for which requests take the long way.
pub(super) mod odd {
    /// CLIENT PAUSE.
    pub(crate) const PAUSED: u8 = 1;
}

/// CLIENT PAUSE.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    until: Ms,
    /// Requests that only read are held too.
    all: bool,
}

impl State {
    /// Does what [`carry_out`](State::carry_out) does, and what the oddities of this core ask for.
    #[cold]
    pub(super) fn carry_out_oddly(
        &mut self,
        conn: &mut Conn,
        spec: &'static Spec,
        args: &Args<'_>,
    ) {
        if let Some(pause) = self.pause
            && (pause.all || may_write(conn, spec))
        {
            // It has not begun: it is parsed and judged again when the pause is over.
            self.stats.commands -= 1;
            conn.hold = Hold::Paused;
            return self.clients.paused.push(conn.socket);
        }
        self.carry_out(conn, spec, args);
    }

    /// CLIENT PAUSE, as every core hears of it.
    pub(super) fn start_pause(&mut self, until: Ms, all: bool) {
        // A second pause makes the first one longer or stricter, never weaker.
        let before = self.pause;
        self.pause = Some(Pause {
            until: until.max(before.map_or(0, |pause| pause.until)),
            all: all || before.is_some_and(|pause| pause.all),
        });
        self.odd |= odd::PAUSED;
    }

    /// Ends a pause whose time is up.
    pub(super) fn end_pause(&mut self, now: Ms) {
        if self.pause.is_none_or(|pause| pause.until > now) {
            return;
        }
        self.pause = None;
        self.odd &= !odd::PAUSED;
        for socket in std::mem::take(&mut self.clients.paused) {
            if let Some(mut conn) = self.take_conn(socket) {
                if conn.is_paused() {
                    self.wake(&mut conn);
                }
                self.put_conn(conn);
            }
        }
    }
}

/// Could the request change data, here or at a listener?
fn may_write(conn: &Conn, spec: &Spec) -> bool {
    let writes = |spec: &Spec| {
        spec.is_write()
            || matches!(spec.name, "PFCOUNT" | "PUBLISH" | "SPUBLISH")
            || matches!((spec.run, spec.keys), (Run::Script, Keys::All))
                && spec.flags & flag::READ == 0
    };
    match spec.run {
        Run::Session(Verb::Exec) => conn
            .multi
            .iter()
            .flat_map(|multi| &multi.queued)
            .any(|(spec, _)| writes(spec)),
        _ => writes(spec),
    }
}
