//! `redis.call`: commands that a script calls.

use mlua::{Lua, MultiValue, Value};

use super::{Host, convert, watch::Watch};
use crate::{
    acl::{Asked, Denied},
    cmd::{Ctx, Spec, Table, flag},
    resp::{Args, Out, OwnedArgs},
};

/// Calls between two looks whether the run has to end; the machine's own steps are counted apart.
const CALLS: u32 = 64;

/// What `redis.call` needs for the time of one run.
pub struct Caller<'c, 'a> {
    pub ctx: &'c mut Ctx<'a>,
    pub host: &'c mut dyn Host,
    pub table: &'c Table,
    pub watch: &'c Watch,
    pub read_only: bool,
    /// Refuses commands that need memory, until it has written: half a script would be worse.
    pub refuse_growth: bool,
    /// The reply to the command that the script called last.
    pub replies: Out,
    /// Calls so far.
    pub count: u32,
}

impl Caller<'_, '_> {
    /// Runs one command; its reply as a value, or the text of an error.
    pub fn call(&mut self, lua: &Lua, args: MultiValue) -> mlua::Result<(Value, Option<String>)> {
        let refused = |text: &str| Ok((Value::Nil, Some(text.to_string())));
        if args.is_empty() {
            return refused("ERR Please specify at least one argument for this redis lib call");
        }
        let mut request = OwnedArgs::default();
        for arg in &args {
            if !convert::push_arg(&mut request, arg) {
                return refused("ERR Lua redis lib command arguments must be strings or integers");
            }
        }
        let request = request.as_args();
        let Some(spec) = self.table.find(request.at(0)) else {
            return refused("ERR Unknown Redis command called from script");
        };
        if !spec.fits(request.len()) {
            return refused("ERR Wrong number of args calling Redis command from script");
        }
        if spec.flags & flag::NO_SCRIPT != 0 {
            return refused("ERR This Redis command is not allowed from script");
        }
        if let Some(text) = self.forbidden(spec, request) {
            return refused(&text);
        }
        // A message may go on to replicas and a count may be kept, so both are taken for writes.
        let writes = spec.is_write() || matches!(spec.name, "PUBLISH" | "PFCOUNT");
        if self.read_only && writes {
            return refused("ERR Write commands are not allowed from read-only scripts.");
        }
        let grows = self.refuse_growth && spec.flags & flag::DENY_OOM != 0;
        if grows && !self.watch.has_written() {
            return refused("OOM command not allowed when used memory > 'maxmemory'.");
        }
        if spec.flags & flag::BLOCKING != 0 && waits(request) {
            let name = String::from_utf8_lossy(request.at(0));
            return refused(&format!(
                "ERR {name} command is not allowed with BLOCK option from scripts"
            ));
        }
        self.count += 1;
        if self.count.is_multiple_of(CALLS) {
            self.watch.look()?;
        }
        if spec.is_write() {
            self.watch.note_write()?;
        }
        // The command writes where it always does; what the client is owed is put aside meanwhile.
        let proto = self.watch.proto.get();
        // Emptied, with its memory kept.
        let (block, _) = self.replies.take(Vec::new());
        self.replies.take(block);
        self.replies.proto = proto;
        std::mem::swap(self.ctx.out, &mut self.replies);
        let ran = self.host.command(self.ctx, spec, request);
        self.ctx.block = None;
        std::mem::swap(self.ctx.out, &mut self.replies);
        if !ran {
            return refused("ERR This Redis command is not allowed from script");
        }
        let whole;
        let mut reply = if self.replies.len() == self.replies.as_bytes().len() {
            self.replies.as_bytes()
        } else {
            whole = self.replies.to_vec();
            &whole
        };
        if let Some(line) = reply.strip_prefix(b"-") {
            return refused(String::from_utf8_lossy(line).trim_end());
        }
        Ok((convert::to_lua(lua, &mut reply)?, None))
    }

    /// Why the one for whom the script runs may not call this.
    fn forbidden(&mut self, spec: &'static Spec, request: Args<'_>) -> Option<String> {
        let user = self.watch.user.borrow();
        let user = user.as_ref()?;
        let asked = match Asked::of(spec, request).and_then(Asked::fits) {
            Ok(asked) => asked,
            Err(misfit) => return Some(misfit.error().as_str().to_string()),
        };
        let denied = user.check(&asked).err()?;
        self.host.note_denied(&asked, denied);
        let text = match denied {
            Denied::Command => {
                "ERR The user executing the script can't run this command or subcommand"
            }
            Denied::Key(_) => {
                "ERR The user executing the script can't access at least one of the keys mentioned in the \
                 command arguments"
            }
            Denied::Channel(_) => {
                "ERR The user executing the script can't publish to the channel mentioned in the command"
            }
        };
        Some(text.to_string())
    }
}

/// Does the request name BLOCK before its streams?
fn waits(request: Args<'_>) -> bool {
    let options = request
        .iter()
        .take_while(|arg| !arg.eq_ignore_ascii_case(b"STREAMS"));
    request.at(0)[..1].eq_ignore_ascii_case(b"X")
        && options
            .into_iter()
            .any(|arg| arg.eq_ignore_ascii_case(b"BLOCK"))
}
