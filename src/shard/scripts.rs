//! What scripts of this core may call, and what became of it.

use std::sync::Arc;

use super::{
    evict::OUT_OF_MEMORY,
    message::{Message, Topics},
    pubsub::Subscriptions,
    requests::READ_ONLY,
    scopes::Ownership,
};
use crate::{
    acl::{Asked, Denied, Reason, User},
    cmd::{
        self, Ctx, Run, Spec,
        events::{Before, Event},
        flag,
    },
    resp::{Args, Error, OwnedArgs},
    script::{Host, plain_session},
};

/// Refusals of one script that are noted: one in a loop must not fill the memory with them.
const DENIED_MAX: usize = 128;
/// Lua memory of one core.
pub(super) const MEMORY: usize = 256 << 20;

/// A command that a script called.
pub(super) struct Called {
    pub spec: &'static Spec,
    pub args: OwnedArgs,
    pub db: usize,
}

/// What a script did that others want to know.
#[derive(Default)]
pub(super) struct Done {
    /// Commands that changed something.
    pub changed: Vec<Called>,
    /// Every command, if somebody wants to see them.
    pub called: Vec<Called>,
    /// What happened to keys, if somebody wants to know.
    pub events: Vec<Event>,
    /// Commands whose keys the client keeps.
    pub read: Vec<Called>,
    /// What it was refused, and why.
    pub denied: Vec<(Reason, Vec<u8>)>,
    /// Messages to deliver.
    pub published: Vec<Message>,
}

/// Runs the commands that one script calls.
pub(super) struct ScriptHost<'a> {
    subs: &'a Subscriptions,
    /// Why the script may not write.
    why_not: Option<Error>,
    /// Memory was short when the script began.
    is_full: bool,
    /// The client keeps what the script reads.
    remembers: bool,
    /// Keys that other nodes write to.
    pub scopes: Option<&'a Ownership>,
    /// Whose rights the script has; nothing if all.
    pub user: Option<Arc<User>>,
    /// Somebody wants to see every call.
    pub shows_calls: bool,
    /// Somebody wants to know what happens to keys.
    pub tells_events: bool,
    done: Done,
}

impl<'a> ScriptHost<'a> {
    pub(super) fn new(
        subs: &'a Subscriptions,
        why_not: Option<Error>,
        is_full: bool,
        remembers: bool,
    ) -> Self {
        Self {
            subs,
            why_not,
            is_full,
            remembers,
            scopes: None,
            user: None,
            shows_calls: false,
            tells_events: false,
            done: Done::default(),
        }
    }

    /// What the script did.
    pub(super) fn into_done(self) -> Done {
        self.done
    }
}

impl Host for ScriptHost<'_> {
    fn command(&mut self, ctx: &mut Ctx<'_>, spec: &'static Spec, args: Args<'_>) -> bool {
        if self.shows_calls {
            self.done.called.push(Called {
                spec,
                args: OwnedArgs::copy(args.iter()),
                db: ctx.db,
            });
        }
        if let (Some(why), true) = (&self.why_not, spec.is_write()) {
            ctx.out.error(why);
            return true;
        }
        let foreign = self.scopes.and_then(|scopes| scopes.refuses(spec, args));
        if let Some(why) = foreign {
            ctx.out.error(&why);
            return true;
        }
        match spec.run {
            // A script that has begun to write may go on: half of its work done would be worse.
            Run::Store(_)
                if self.is_full
                    && spec.flags & flag::DENY_OOM != 0
                    && self.done.changed.is_empty() =>
            {
                ctx.out.error(&OUT_OF_MEMORY);
            }
            Run::Store(function) => {
                let before = ctx.dirty;
                let look = self.tells_events.then(|| Before::look(ctx, spec, args));
                // The reply tells the script; what a script calls is not counted.
                let _ = cmd::run(ctx, spec, function, args);
                if let Some(look) = look {
                    let changed = ctx.dirty > before;
                    self.done
                        .events
                        .extend(look.events(ctx, spec, args, changed));
                }
                let called = || Called {
                    spec,
                    args: OwnedArgs::copy(args.iter()),
                    db: ctx.db,
                };
                if ctx.dirty > before && spec.is_write() {
                    self.done.changed.push(called());
                } else if self.remembers && spec.flags & flag::READ != 0 {
                    self.done.read.push(called());
                }
            }
            _ if spec.name == "SPUBLISH" => {
                let (channel, text) = (args.at(1), args.at(2));
                ctx.out
                    .len_int(self.subs.receivers(Topics::Shards, channel));
                let message = Message::ShardPublished(channel.to_vec(), text.to_vec());
                self.done.published.push(message);
            }
            _ if spec.name == "PUBLISH" => {
                ctx.out
                    .len_int(self.subs.receivers(Topics::Channels, args.at(1)));
                self.done
                    .published
                    .push(Message::Published(args.at(1).to_vec(), args.at(2).to_vec()));
            }
            _ => return plain_session(ctx, spec, args),
        }
        true
    }

    fn user(&self) -> Option<Arc<User>> {
        self.user.clone()
    }

    fn note_denied(&mut self, asked: &Asked<'_>, denied: Denied) {
        if self.done.denied.len() < DENIED_MAX {
            self.done.denied.push(asked.blamed(denied));
        }
    }

    fn why_no_writes(&self) -> Option<Error> {
        let why = self.why_not.as_ref()?;
        Some(match why == &READ_ONLY {
            true => {
                Error::fixed("READONLY Can not run script with write flag on readonly replica.")
            }
            false => why.clone(),
        })
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
