//! What the primary sends takes effect: frames one by one, and whole snapshots.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    homes::{Place, Sweep},
    load::Load,
    loans::Job,
    message::{After, Asker, Errand, Message, Waiting},
    requests::{Call, Work},
    state::State,
};
use crate::{
    cmd::{Keys, Spec},
    resp::{Args, OwnedArgs},
};

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

impl State {
    /// Applies a frame of the primary that this node follows, or has it applied: the asker then appears
    /// in `applied` later. What is unknown here, or is no write, is left out.
    pub(super) fn apply(&mut self, asker: Asker, args: Args<'_>) -> Applied {
        let Some(spec) = args.get(0).and_then(|name| self.table.find(name)) else {
            return Applied::Now;
        };
        let Some(run) = Work::of(spec) else {
            return Applied::Now;
        };
        let writes = spec.is_write() || matches!(spec.keys, Keys::All);
        if !spec.fits(args.len()) || !writes {
            return Applied::Now;
        }
        match self.homes.place(spec, args) {
            Place::Here => {
                let mut out = std::mem::take(&mut self.scratch);
                self.run_here(spec, run, &args, Call::FRAME, &mut out, None);
                self.homes.shards.end_unit();
                out.clear();
                self.scratch = out;
                self.hear_all();
                Applied::Now
            }
            Place::Later(shard) => {
                let errand = self.frame_errand(asker, spec, args, shard);
                self.homes.wait_for(shard, Waiting::Errand(errand));
                Applied::Later
            }
            Place::There(shard, owner) => {
                let errand = self.frame_errand(asker, spec, args, shard);
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
                        args: OwnedArgs::copy(args.iter()),
                    },
                );
                Applied::Alone
            }
        }
    }

    fn frame_errand(
        &self,
        asker: Asker,
        spec: &'static Spec,
        args: Args<'_>,
        shard: usize,
    ) -> Box<Errand> {
        let args = OwnedArgs::copy(args.iter());
        Box::new(Errand {
            from: self.me,
            asker,
            shard,
            db: 0,
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
        let mut away = Vec::new();
        let mut heard = Vec::new();
        for shard in need {
            if self.homes.owner(*shard) == self.me {
                self.homes.all_changed(*shard, Sweep::Any, &mut heard);
            } else {
                away.push((*shard, After::AllChanged(Sweep::Any)));
            }
        }
        self.note_heard(heard);
        self.flushed();
        self.freeing = true;
        self.give_back(need, away);
    }
}
