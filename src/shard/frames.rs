//! What the primary sends takes effect: frames one by one, and whole snapshots.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::{
    homes::{Place, Sweep},
    load::Load,
    loans::Job,
    message::{After, Asker, CoreId, Errand, Message, Topics, Waiting},
    requests::{Call, Work},
    scratch::Received,
    scripts::ScriptHost,
    state::State,
};
use crate::{
    cmd::{Adoption, Keys, Run, Shards, Spec, Upstream, Verb, libraries},
    journal::{
        Ancestry, Position,
        frame::{LIBRARIES, NOTE},
    },
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
#[derive(Debug)]
pub struct Part {
    spec: &'static Spec,
    db: usize,
    args: OwnedArgs,
    /// One on all keys is on those of this shard.
    only: Option<usize>,
    /// Of a ringkeep's frame: its offset.
    offset: u64,
}

/// Frames of one stream of a ringkeep that are applied together.
#[derive(Debug)]
pub struct Copied {
    /// The last of them.
    pub asker: Asker,
    /// The offset of the first one, and the database that it finds itself in.
    pub first: (u64, u32),
    /// What they say.
    pub parts: Vec<Part>,
}

/// What a shard is to take for its own of a ringkeep with the same shards.
#[derive(Clone, Debug)]
pub struct Adopt {
    /// Of which stream, and so for which shard.
    pub stream: usize,
    /// In which session.
    pub session: u64,
    /// What has been applied.
    pub at: Position,
    /// The histories that this one goes on from.
    pub ancestry: Ancestry,
    /// The database that the next frame finds itself in.
    pub database: u32,
    /// A snapshot has just replaced what the shard had.
    pub is_loaded: bool,
}

impl State {
    /// The shard of a stream, which is here, takes its history for its own, if it is where the link is.
    pub(super) fn adopt(&mut self, adopt: &Adopt) {
        let shards = self.homes.shards.count();
        let epoch = self.shared.epoch.load(SeqCst);
        let shard = self.homes.shards.shard(adopt.stream);
        let at = adopt.at;
        let adoption = Adoption {
            at,
            ancestry: adopt.ancestry.clone(),
            database: adopt.database,
            own: at.renewed(self.now).generation,
            epoch,
        };
        let is_plain = shard
            .stream
            .as_ref()
            .is_some_and(|stream| stream.is_plain());
        let here = shard.known_position(epoch);
        // What the link received behind that was for nobody here: everything of it has been applied.
        let is_same = here.generation == at.generation && here.offset <= at.offset;
        let is_there = is_same || (here.offset == at.offset && adopt.ancestry.has(here));
        let mut is_good = true;
        if is_plain {
            // What kevys can take of it is a history of its own.
            is_good = adopt.is_loaded || is_there || !shard.upstreams().is_empty();
            shard.set_upstream(Upstream::own(adopt.stream, shards, at));
        } else if is_there {
            if let Some(stream) = &mut shard.stream
                && stream.skip_to(at.offset, adopt.database)
            {
                stream.end_unit();
            }
            shard.adopt(&adoption);
        } else if adopt.is_loaded {
            shard.adopt_anew(adopt.stream, &adoption);
            if shard.stream.is_some() {
                self.shared.durable.replaced.fetch_add(1, SeqCst);
            }
        } else {
            // It is what the link says if it is a copy in a history of its own; otherwise it has something
            // that the primary has not said.
            is_good = !shard.upstreams().is_empty();
        }
        self.loaded.push((adopt.stream, adopt.session, is_good));
    }

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
                self.run_asked(asker, spec, run, &args, Call::of_redis(db), &mut out, None);
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
            self.run_asked(asker, spec, run, &args, Call::of_redis(db), &mut out, None);
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
                parts.push(Part {
                    spec,
                    db,
                    args,
                    only: None,
                    offset: 0,
                });
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
                self.run_unit(parts, asker, None);
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
        mut asker: Asker,
        mut away: Option<&mut Vec<(usize, After)>>,
    ) {
        for part in parts {
            let Part {
                spec,
                db,
                args,
                only,
                offset: at,
            } = part;
            if let Asker::Link { offset, .. } = &mut asker {
                *offset = at;
            }
            let args = args.as_args();
            self.homes.shards.narrow(only);
            match Work::of(spec) {
                Some(run) if !matches!((run, spec.keys), (Work::Script, Keys::None)) => {
                    if is_effect(spec) {
                        let call = Call::of_redis(db);
                        let mut out = std::mem::take(&mut self.scratch);
                        let away = away.as_deref_mut();
                        self.run_asked(asker, spec, run, &args, call, &mut out, away);
                        out.clear();
                        self.scratch = out;
                    }
                }
                _ => self.apply_aside(spec, args),
            }
        }
        self.homes.shards.narrow(None);
    }

    /// A frame of a ringkeep that is applied with others; `None` if it changes nothing here. One on all keys
    /// is on those of the given shard.
    pub(super) fn part_of(
        &mut self,
        (offset, db): (u64, u64),
        args: Args<'_>,
        only: Option<usize>,
    ) -> Option<Part> {
        let args = match args.at(0) == LIBRARIES.as_bytes() {
            true => {
                let payload = script::payload(args.rest(1).iter());
                OwnedArgs::copy([&b"FUNCTION"[..], b"RESTORE", &payload, b"FLUSH"])
            }
            // Other notes between primaries are no commands.
            false if args.at(0).starts_with(NOTE) => return None,
            false => OwnedArgs::copy(args.iter()),
        };
        let (spec, db) = self.known(db, args.as_args())?;
        let is_work = Work::of(spec).is_some() && is_effect(spec);
        is_work.then_some(Part {
            spec,
            db,
            args,
            only,
            offset,
        })
    }

    /// Applies frames of a ringkeep together, or has them applied so: the askers then appear in `applied`
    /// later. `is_same`: each stream has the keys of one shard.
    pub(super) fn apply_copied(&mut self, units: Vec<Copied>, is_same: bool) -> Applied {
        self.end_frames();
        let mut need = Vec::new();
        for part in units.iter().flat_map(|units| &units.parts) {
            match part.only {
                Some(only) => need.push(only),
                None => {
                    let command = (part.spec, part.args.as_args());
                    need.extend(self.homes.shards_of([command]));
                }
            }
        }
        need.sort_unstable();
        need.dedup();
        if need.is_empty() {
            return Applied::Now;
        }
        let place = self.homes.place_of_all(need.clone());
        if place == Place::Here {
            self.run_copied(units, is_same, None);
            self.homes.shards.end_unit();
            self.hear_all();
            return Applied::Now;
        }
        let mut units = units;
        if let ([shard], [_]) = (&need[..], &units[..])
            && let Some(copied) = units.pop()
        {
            let (shard, copied) = (*shard, Box::new(copied));
            match self.homes.owner(shard) {
                owner if owner == self.me => {
                    let waiting = Waiting::Copied(shard, copied, owner);
                    self.homes.wait_for(shard, waiting);
                }
                owner => self.mesh.send(owner, Message::Copy(shard, copied)),
            }
            return Applied::Later;
        }
        self.collect(need, Job::Copied { units, is_same });
        Applied::Alone
    }

    /// Applies what another core sent for a shard of ours, or this core when the shard was away.
    pub(super) fn run_sent(&mut self, shard: usize, copied: Box<Copied>, from: CoreId) {
        if !self.homes.shards.has(shard) {
            let waiting = Waiting::Copied(shard, copied, from);
            return self.homes.wait_for(shard, waiting);
        }
        // See `run_errand`.
        self.heed_tunables();
        let asker = copied.asker;
        self.run_copied(vec![*copied], false, None);
        self.homes.shards.end_unit();
        self.hear_all();
        self.answer(from, asker, Out::default());
    }

    /// Applies frames whose shards are all here, and leaves their unit open: it is one over all shards.
    pub(super) fn run_copied(
        &mut self,
        units: Vec<Copied>,
        is_same: bool,
        mut away: Option<&mut Vec<(usize, After)>>,
    ) {
        let journals = self.shared.settings.journals;
        let mut upstreams = Vec::new();
        // What was for nobody here is no part of the unit.
        for copied in &units {
            if let Some(upstream) = copied.asker.upstream() {
                self.homes.shards.skip_to(&upstream, copied.first);
            }
        }
        for Copied { asker, parts, .. } in units {
            self.run_unit(parts, asker, away.as_deref_mut());
            upstreams.extend(asker.upstream());
        }
        // All of them are there now, whichever shards they were for.
        for upstream in upstreams.into_iter().filter(|_| journals) {
            if self.homes.shards.unit_is_open() {
                let only = is_same.then_some(upstream.stream as usize);
                self.homes.shards.note_upstream(upstream, only);
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
                self.run_asked(asker, spec, run, &args, call, &mut out, None);
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

    /// Runs a frame; its shards are here. Where the shard is in the history of the primary it records the
    /// frame as it is.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn run_asked(
        &mut self,
        asker: Asker,
        spec: &'static Spec,
        run: Work,
        args: &Args<'_>,
        call: Call,
        out: &mut Out,
        away: Option<&mut Vec<(usize, After)>>,
    ) {
        let upstream = asker.upstream();
        let Some(upstream) = upstream.filter(|at| self.homes.shards.takes(at, call.db)) else {
            return self.run_frame(spec, run, args, call, out, away);
        };
        let records = self.homes.shards.mute();
        self.run_frame(spec, run, args, call, out, away);
        self.homes.shards.unmute(records);
        if matches!(spec.keys, Keys::Libraries) {
            let sources = self.shared.scripts.library_sources();
            let words = libraries::words(&sources);
            self.homes
                .shards
                .copy(&upstream, call.db, words.into_iter());
        } else {
            self.homes.shards.copy(&upstream, call.db, args.iter());
        }
    }

    /// Runs a frame; its shards are here.
    fn run_frame(
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
        let (shards, now) = (self.homes.shards.count(), self.now);
        for (at, shard) in self.homes.shards.iter_mut() {
            if load.upstream.is_some() {
                shard.set_due_keys(DueKeys::Hidden);
            }
            if load.is_about(at, shards) {
                shard.forget_history(at, now);
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
            home.forget_history(at, self.now);
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
