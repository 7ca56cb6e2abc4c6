//! What the primary sends takes effect: frames one by one, and whole snapshots.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::{
    homes::{Place, Sweep},
    load::Load,
    loans::Job,
    message::{After, Asker, Errand, Message, Topics, Waiting},
    requests::{Call, Work},
    scratch::Received,
    scripts::ScriptHost,
    state::State,
};
use crate::{
    cmd::{Keys, Run, Shards, Spec, Upstream, Verb},
    journal::frame::{LIBRARIES, NOTE},
    repl::kevy_does_besides,
    resp::{Args, Out, OwnedArgs},
    script,
    store::DueKeys,
};

/// Frames of a stream after which it is noted for shards that it had nothing for.
const REFRESH: u64 = 10_000;

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Applied {
    /// It was applied.
    Now,
    /// It is on its way to its shard; the next frame may follow.
    Later,
    /// It needs several shards; the next frame must wait for it.
    Alone,
}

/// A command of a transaction of the primary.
pub(super) struct Part {
    spec: &'static Spec,
    db: usize,
    args: OwnedArgs,
}

impl State {
    /// Applies a frame of the kevy primary that this node follows, or has it applied: the asker then appears
    /// in `applied` later. What is unknown here, or is no write, is left out.
    pub(super) fn apply(&mut self, asker: Asker, args: Args<'_>) -> Applied {
        let Some(spec) = args.get(0).and_then(|name| self.table.find(name)) else {
            return Applied::Now;
        };
        let Some(run) = Work::of(spec) else {
            return Applied::Now;
        };
        if !spec.fits(args.len()) {
            return Applied::Now;
        }
        self.apply_work(asker, spec, run, Call::FRAME, args)
    }

    /// The same for a frame of a ringkeep primary in database `db`; one on all keys, on those of the given
    /// shard.
    pub(super) fn apply_ringkeep(
        &mut self,
        asker: Asker,
        db: u64,
        args: Args<'_>,
        shard: Option<usize>,
    ) -> Applied {
        let restore;
        let args = if args.at(0) == LIBRARIES.as_bytes() {
            let payload = script::payload(args.rest(1).iter());
            let words: [&[u8]; 4] = [b"FUNCTION", b"RESTORE", &payload, b"FLUSH"];
            restore = OwnedArgs::copy(words);
            restore.as_args()
        } else {
            args
        };
        // Other notes between primaries are no commands.
        if args.at(0).starts_with(NOTE) {
            return Applied::Now;
        }
        let Some((spec, db)) = self.known(db, args) else {
            return Applied::Now;
        };
        let Some(run) = Work::of(spec) else {
            return Applied::Now;
        };
        let Some(shard) = shard else {
            if matches!(self.homes.place(spec, args), Place::Here) && is_effect(spec) {
                // The unit stays open: see `end_frames`.
                let mut out = std::mem::take(&mut self.scratch);
                self.run_frame(spec, run, &args, Call::of_redis(db), &mut out, None);
                out.clear();
                self.scratch = out;
                self.open_frames = asker.upstream();
                return Applied::Now;
            }
            self.end_frames();
            return self.apply_work(asker, spec, run, Call::of_redis(db), args);
        };
        self.end_frames();
        let owner = self.homes.owner(shard);
        if owner == self.me && self.homes.shards.has(shard) {
            let mut out = std::mem::take(&mut self.scratch);
            self.homes.shards.narrow(Some(shard));
            self.run_frame(spec, run, &args, Call::of_redis(db), &mut out, None);
            self.homes.shards.narrow(None);
            self.open_frames = asker.upstream();
            self.end_frames();
            out.clear();
            self.scratch = out;
            self.hear_all();
            return Applied::Now;
        }
        let errand = self.frame_errand(asker, spec, args, shard, db);
        if owner == self.me {
            self.homes.wait_for(shard, Waiting::Errand(errand));
        } else {
            self.mesh.send(owner, Message::Run(errand));
        }
        Applied::Later
    }

    /// Frames of a ringkeep were applied here, all of them in one unit for each shard: it says up to where.
    pub(super) fn end_frames(&mut self) {
        if let Some(upstream) = self.open_frames.take() {
            self.end_copied(upstream);
            self.hear_all();
        }
    }

    fn end_copied(&mut self, upstream: Upstream) {
        match self.shared.settings.journals {
            true => self.homes.shards.end_copied(upstream),
            false => {
                self.homes.shards.end_unit();
            }
        }
    }

    /// Notes for shards that nothing came for how far they are all the same. Nothing is under way to them.
    pub(super) fn refresh_upstreams(&mut self, upstream: Upstream) {
        for at in self.homes.own() {
            if !self.homes.shards.has(at) {
                continue;
            }
            let shard = self.homes.shards.shard(at);
            let mut known = shard.upstreams().iter();
            let is_old = known.any(|old| {
                let is_it = (old.stream, old.generation) == (upstream.stream, upstream.generation);
                is_it && old.offset + REFRESH < upstream.offset
            });
            if is_old {
                shard.set_upstream(upstream);
                shard.tell_upstreams();
            }
        }
    }

    /// Ends the unit of a command that came from there.
    pub(super) fn end_asked(&mut self, asker: Asker) {
        match asker.upstream() {
            Some(upstream) => self.end_copied(upstream),
            None => {
                self.homes.shards.end_unit();
            }
        }
    }

    /// The same for a command of a Redis primary in database `db`. What cannot be done here is counted.
    pub(super) fn apply_redis(&mut self, asker: Asker, db: u64, args: Args<'_>) -> Applied {
        let Some((spec, db)) = self.known(db, args) else {
            return Applied::Now;
        };
        match Work::of(spec) {
            Some(run) if !matches!((run, spec.keys), (Work::Script, Keys::None)) => {
                self.apply_work(asker, spec, run, Call::of_redis(db), args)
            }
            _ => {
                self.apply_aside(spec, args);
                Applied::Now
            }
        }
    }

    /// Applies a transaction of a Redis primary as one unit, in the way of [`apply`](State::apply).
    pub(super) fn apply_unit(&mut self, asker: Asker, frames: Vec<(u64, OwnedArgs)>) -> Applied {
        let mut parts = Vec::with_capacity(frames.len());
        for (db, args) in frames {
            if let Some((spec, db)) = self.known(db, args.as_args()) {
                parts.push(Part { spec, db, args });
            }
        }
        let commands = parts.iter().map(|part| (part.spec, part.args.as_args()));
        let need = self.homes.shards_of(commands);
        match self.homes.place_of_all(need) {
            Place::Collect(need) => {
                self.collect(need, Job::Unit { asker, parts });
                Applied::Alone
            }
            _ => {
                self.run_unit(parts, None);
                self.homes.shards.end_unit();
                self.hear_all();
                Applied::Now
            }
        }
    }

    /// Runs the commands of a transaction; all their shards are here.
    pub(super) fn run_unit(
        &mut self,
        parts: Vec<Part>,
        mut away: Option<&mut Vec<(usize, After)>>,
    ) {
        for Part { spec, db, args } in parts {
            let args = args.as_args();
            match Work::of(spec) {
                Some(run) if !matches!((run, spec.keys), (Work::Script, Keys::None)) => {
                    if is_effect(spec) {
                        let call = Call::of_redis(db);
                        let mut out = std::mem::take(&mut self.scratch);
                        self.run_frame(spec, run, &args, call, &mut out, away.as_deref_mut());
                        out.clear();
                        self.scratch = out;
                    }
                }
                _ => self.apply_aside(spec, args),
            }
        }
    }

    /// The command and the number of its database, if both are here.
    fn known(&mut self, db: u64, args: Args<'_>) -> Option<(&'static Spec, usize)> {
        let name = args.get(0)?;
        let databases = self.shared.settings.databases;
        let spec = self.table.find(name).filter(|spec| spec.fits(args.len()));
        let at = usize::try_from(db).ok().filter(|db| *db < databases);
        match (spec, at) {
            (Some(spec), Some(at)) => Some((spec, at)),
            (_, None) => {
                self.note_unapplied(&format!("database {db}, where there are {databases}"));
                None
            }
            (None, _) => {
                let shown = name[..name.len().min(64)].escape_ascii();
                self.note_unapplied(&format!("{shown} of {} arguments", args.len()));
                None
            }
        }
    }

    /// What a Redis primary said has no effect here, which it had there.
    fn note_unapplied(&mut self, what: &str) {
        self.shared.unapplied.fetch_add(1, Relaxed);
        self.log_seldom(&format!("the primary sends what cannot be applied: {what}"));
    }

    /// Does what a Redis primary says besides changes of keys.
    fn apply_aside(&mut self, spec: &'static Spec, args: Args<'_>) {
        match spec.run {
            Run::Session(Verb::Publish) => {
                self.publish_later(Topics::Channels, args.at(1).to_vec(), args.at(2).to_vec());
            }
            Run::Session(Verb::SPublish) => {
                self.publish_later(Topics::Shards, args.at(1).to_vec(), args.at(2).to_vec());
            }
            Run::Session(_) => self.note_unapplied(spec.name),
            _ => {
                let mut out = Out::default();
                if let Err(error) = self.scripts.script(&mut out, args) {
                    self.note_unapplied(&format!("{}: {}", spec.name, error.as_str()));
                }
            }
        }
    }

    fn apply_work(
        &mut self,
        asker: Asker,
        spec: &'static Spec,
        run: Work,
        call: Call,
        args: Args<'_>,
    ) -> Applied {
        if !is_effect(spec) {
            return Applied::Now;
        }
        match self.homes.place(spec, args) {
            Place::Here => {
                let mut out = std::mem::take(&mut self.scratch);
                self.run_frame(spec, run, &args, call, &mut out, None);
                self.homes.shards.end_unit();
                out.clear();
                self.scratch = out;
                self.hear_all();
                Applied::Now
            }
            Place::Later(shard) => {
                let errand = self.frame_errand(asker, spec, args, shard, call.db);
                self.homes.wait_for(shard, Waiting::Errand(errand));
                Applied::Later
            }
            Place::There(shard, owner) => {
                let errand = self.frame_errand(asker, spec, args, shard, call.db);
                self.mesh.send(owner, Message::Run(errand));
                Applied::Later
            }
            Place::Collect(need) => {
                self.collect(
                    need,
                    Job::Frame {
                        asker,
                        run,
                        spec,
                        call,
                        args: OwnedArgs::copy(args.iter()),
                    },
                );
                Applied::Alone
            }
        }
    }

    /// Runs a frame; its shards are here.
    pub(super) fn run_frame(
        &mut self,
        spec: &'static Spec,
        run: Work,
        args: &Args<'_>,
        call: Call,
        out: &mut Out,
        away: Option<&mut Vec<(usize, After)>>,
    ) {
        if !call.sees_due {
            let mut away = away;
            self.run_here(spec, run, args, call, out, away.as_deref_mut());
            if let Some(words) = kevy_does_besides(args)
                && let Some(spec) = self.table.find(words[0])
                && let Some(run) = Work::of(spec)
            {
                let words = OwnedArgs::copy(words);
                self.run_here(spec, run, &words.as_args(), call, out, away);
            }
            return;
        }
        self.set_due_keys(spec, *args, DueKeys::Shown);
        self.run_here(spec, run, args, call, out, away);
        // Also of shards on which no frame was run before.
        self.set_due_keys(spec, *args, DueKeys::Hidden);
        if let [b'-', error @ ..] = out.as_bytes() {
            let line = error
                .split(|byte| *byte == b'\r')
                .next()
                .unwrap_or_default();
            let text = line.escape_ascii().to_string();
            self.note_unapplied(&format!("{}: {text}", spec.name));
        }
    }

    fn set_due_keys(&mut self, spec: &Spec, args: Args<'_>, due_keys: DueKeys) {
        let shards = &mut self.homes.shards;
        if spec.keys.needs_all(args) {
            for (_, shard) in shards.iter_mut() {
                shard.set_due_keys(due_keys);
            }
        } else {
            spec.keys.for_each(args, |at| {
                let shard = shards.shard_of(args.at(at));
                shards.shard(shard).set_due_keys(due_keys);
            });
        }
    }

    fn frame_errand(
        &self,
        asker: Asker,
        spec: &'static Spec,
        args: Args<'_>,
        shard: usize,
        db: usize,
    ) -> Box<Errand> {
        let args = OwnedArgs::copy(args.iter());
        Box::new(Errand {
            from: self.me,
            asker,
            shard,
            db,
            proto: Default::default(),
            spec,
            args,
            remembers: false,
        })
    }

    /// Replaces keys by a snapshot, once every shard is here.
    pub(super) fn start_load(&mut self, load: Load) {
        self.shared.loading.store(true, Relaxed);
        let all = (0..self.homes.shards.count()).collect();
        self.collect(all, Job::Load(Box::new(load)));
    }

    pub(super) fn end_load(&mut self, need: &[usize], load: Load) {
        self.loaded.push(load.outcome());
        let shards = self.homes.shards.count();
        for (at, shard) in self.homes.shards.iter_mut() {
            if load.upstream.is_some() {
                shard.set_due_keys(DueKeys::Hidden);
            }
            match load.upstream {
                Some(upstream) if load.is_about(at, shards) => shard.set_upstream(upstream),
                Some(_) => {}
                None => shard.forget_upstreams(),
            }
        }
        let mut away = Vec::new();
        self.all_replaced(&mut away);
        self.give_back(need, away);
    }

    /// Everything was replaced, and every shard is here.
    fn all_replaced(&mut self, away: &mut Vec<(usize, After)>) {
        let mut heard = Vec::new();
        for shard in 0..self.homes.shards.count() {
            if self.homes.owner(shard) == self.me {
                self.homes.all_changed(shard, Sweep::Any, &mut heard);
            } else {
                away.push((shard, After::AllChanged(Sweep::Any)));
            }
        }
        self.note_heard(heard);
        self.flushed();
        self.freeing = true;
        // Before the shards are at home: their journals are of data that is gone.
        self.shared.durable.replaced.fetch_add(1, SeqCst);
    }

    /// Replaces everything by the data set of a Redis primary, once every shard is here.
    pub(super) fn start_exchange(&mut self, session: u64, received: Received) {
        let all = (0..self.homes.shards.count()).collect();
        let received = Box::new(received);
        self.collect(all, Job::Exchange { session, received });
    }

    pub(super) fn exchange(
        &mut self,
        session: u64,
        mut received: Received,
        away: &mut Vec<(usize, After)>,
    ) {
        for at in 0..self.homes.shards.count() {
            let home = self.homes.shards.shard(at);
            home.set_due_keys(DueKeys::Hidden);
            home.exchange(received.shards.shard(at));
            self.homes.shards.forget_gone(at);
        }
        self.replace_libraries(&received.libraries);
        self.all_replaced(away);
        self.loaded.push((0, session, true));
        self.retire(received.shards);
    }

    /// Puts libraries of functions in the place of those there are. Nothing is recorded.
    pub(super) fn replace_libraries(&mut self, sources: &[Vec<u8>]) {
        let mut host = ScriptHost::new(&self.subs, None, false, false);
        self.scripts.replace_libraries(&mut host, sources);
    }

    /// Frees shards, a slice per turn.
    pub(super) fn retire(&mut self, mut shards: Shards) {
        for (_, shard) in shards.iter_mut() {
            shard.databases().for_each(|(_, keys)| keys.clear());
        }
        self.retired.push(shards);
    }
}

/// Could it change anything?
fn is_effect(spec: &Spec) -> bool {
    spec.is_write() || matches!(spec.keys, Keys::All | Keys::Libraries)
}
