//! What scripts of this core may call, and what became of it.

use super::{evict::OUT_OF_MEMORY, message::Message, pubsub::Subscriptions, requests::READ_ONLY};
use crate::{
    cmd::{self, Ctx, Run, Spec, flag},
    resp::{Args, OwnedArgs},
    script::{Host, plain_session},
};

/// Lua memory of one core.
pub(super) const MEMORY: usize = 256 << 20;

/// A command of a script that changed something.
pub(super) struct Changed {
    pub spec: &'static Spec,
    pub args: OwnedArgs,
    pub db: usize,
}

/// Runs the commands that one script calls.
pub(super) struct ScriptHost<'a> {
    subs: &'a Subscriptions,
    /// This node follows a primary, and the script comes from a client.
    read_only: bool,
    /// Memory was short when the script began.
    is_full: bool,
    changed: Vec<Changed>,
    published: Vec<Message>,
}

impl<'a> ScriptHost<'a> {
    pub(super) fn new(subs: &'a Subscriptions, read_only: bool, is_full: bool) -> Self {
        Self {
            subs,
            read_only,
            is_full,
            changed: Vec::new(),
            published: Vec::new(),
        }
    }

    /// The commands that changed something, and the messages to deliver.
    pub(super) fn into_parts(self) -> (Vec<Changed>, Vec<Message>) {
        (self.changed, self.published)
    }
}

impl Host for ScriptHost<'_> {
    fn command(&mut self, ctx: &mut Ctx<'_>, spec: &'static Spec, args: Args<'_>) -> bool {
        match spec.run {
            Run::Store(_) if self.read_only && spec.is_write() => ctx.out.error(&READ_ONLY),
            // A script that has begun to write may go on: half of its work done would be worse.
            Run::Store(_)
                if self.is_full && spec.flags & flag::DENY_OOM != 0 && self.changed.is_empty() =>
            {
                ctx.out.error(&OUT_OF_MEMORY);
            }
            Run::Store(function) => {
                let before = ctx.dirty;
                // The reply tells the script; what a script calls is not counted.
                let _ = cmd::run(ctx, function, args);
                if ctx.dirty > before && spec.is_write() {
                    self.changed.push(Changed {
                        spec,
                        args: OwnedArgs::copy(args.iter()),
                        db: ctx.db,
                    });
                }
            }
            _ if spec.name == "PUBLISH" => {
                ctx.out.len_int(self.subs.receivers(args.at(1)));
                self.published
                    .push(Message::Published(args.at(1).to_vec(), args.at(2).to_vec()));
            }
            _ => return plain_session(ctx, spec, args),
        }
        true
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn is_over_memory(&self) -> bool {
        self.is_full
    }

    fn log(&mut self, level: u8, text: &str) {
        if level >= 2 {
            super::log(&format!("script: {text}"));
        }
    }
}
