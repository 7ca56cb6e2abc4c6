//! What a request asks for: a command, keys and what is done to them, channels.

use std::cell::OnceCell;

use super::{
    catalogue::{Number, catalogue},
    log::Reason,
    selector::Access,
};
use crate::{
    cmd::{Page, Run, Spec, unknown_subcommand},
    resp::{Args, Error},
};

/// Why a request may not run: what counts more comes later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Denied {
    /// The command is not allowed.
    Command,
    /// This argument names a key that is not.
    Key(usize),
    /// This argument names a channel that is not.
    Channel(usize),
}

impl Denied {
    /// The argument that is to blame; 0 is the command.
    pub fn at(self) -> usize {
        match self {
            Denied::Command => 0,
            Denied::Key(at) | Denied::Channel(at) => at,
        }
    }

    /// The kind without the place.
    pub(super) fn rank(self) -> u8 {
        match self {
            Denied::Command => 0,
            Denied::Key(_) => 1,
            Denied::Channel(_) => 2,
        }
    }
}

/// Why nothing is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Misfit {
    /// The command has no such subcommand.
    Unknown(&'static str, Vec<u8>),
    /// The command or subcommand takes another number of arguments.
    Arity(&'static str),
}

impl Misfit {
    /// As Redis says it.
    pub fn error(&self) -> Error {
        match self {
            Misfit::Unknown(command, sub) => unknown_subcommand(command, sub),
            Misfit::Arity(command) => Error::arity(command),
        }
    }
}

/// A request as rules see it.
pub struct Asked<'a> {
    pub(super) number: Number,
    pub(super) args: Args<'a>,
    spec: &'static Spec,
    page: Option<&'static Page>,
    keys: OnceCell<Vec<(usize, Access)>>,
}

impl<'a> Asked<'a> {
    /// Of a command's row in the table and a request for it.
    ///
    /// # Errors
    /// The command has no such subcommand.
    pub fn of(spec: &'static Spec, args: Args<'a>) -> Result<Self, Misfit> {
        let catalogue = catalogue();
        let unknown = || Misfit::Unknown(spec.name, Vec::new());
        let mut number = catalogue.number_of(spec).ok_or_else(unknown)?;
        if let Some(sub) = args.get(1)
            && !catalogue.named(number).subs.is_empty()
        {
            let found = catalogue.sub_of(number, sub);
            let is_here = |number: &Number| catalogue.named(*number).page.is_some();
            let found = found.filter(is_here);
            number = found.ok_or_else(|| Misfit::Unknown(spec.name, sub.to_vec()))?;
        }
        let page = catalogue.named(number).page;
        Ok(Self {
            number,
            args,
            spec,
            page,
            keys: OnceCell::new(),
        })
    }

    /// Does it have a number of arguments that the command or subcommand takes?
    ///
    /// # Errors
    /// It does not.
    pub fn fits(self) -> Result<Self, Misfit> {
        match self.page {
            Some(page) if !page.fits(self.args.len()) => Err(Misfit::Arity(page.name)),
            _ => Ok(self),
        }
    }

    /// What is to blame, and by what name.
    pub fn blamed(&self, denied: Denied) -> (Reason, Vec<u8>) {
        match denied {
            Denied::Command => (Reason::Command, self.name().as_bytes().to_vec()),
            Denied::Key(at) => (Reason::Key, self.args.at(at).to_vec()),
            Denied::Channel(at) => (Reason::Channel, self.args.at(at).to_vec()),
        }
    }

    /// Its name in small letters, that of its subcommand included.
    pub fn name(&self) -> &'static str {
        catalogue().named(self.number).name
    }

    /// May everybody call it?
    pub(super) fn is_open(&self) -> bool {
        catalogue().named(self.number).is_open
    }

    /// The places of its keys, and what is done to them.
    pub(super) fn keys(&self) -> &[(usize, Access)] {
        self.keys.get_or_init(|| {
            let keys = self.page.map(|page| page.keys_of(self.args));
            let keys = keys.unwrap_or_default().into_iter();
            let mut keys: Vec<_> = keys.map(|(at, flags)| (at, access(flags))).collect();
            // By these the request finds its shards, so it touches no other. Where a key is told in no other
            // way, whatever could be done to it must be allowed. What runs in a session finds its slot by
            // channels, too.
            let touches = !matches!(self.spec.run, Run::Session(_));
            self.spec.keys.for_each(self.args, |at| {
                if touches && !keys.iter().any(|(known, _)| *known == at) {
                    keys.push((at, Access::ALL));
                }
            });
            keys
        })
    }

    /// The places of the channels that it names; those of which it wants to hear no more are free.
    pub(super) fn channels(&self) -> std::ops::Range<usize> {
        match self.spec.name {
            "PUBLISH" | "SPUBLISH" => 1..2.min(self.args.len()),
            "SUBSCRIBE" | "SSUBSCRIBE" | "PSUBSCRIBE" => 1..self.args.len(),
            _ => 0..0,
        }
    }

    /// Are its channels patterns?
    pub(super) fn names_patterns(&self) -> bool {
        self.spec.name == "PSUBSCRIBE"
    }

    /// The option of SORT that may lead to any key, if it has one.
    pub(super) fn sort_option(&self) -> Option<&'static str> {
        if !matches!(self.spec.name, "SORT" | "SORT_RO") {
            return None;
        }
        let mut at = 2;
        while let Some(word) = self.args.get(at) {
            let left = self.args.len() - at - 1;
            at += match &word.to_ascii_lowercase()[..] {
                b"asc" | b"desc" | b"alpha" => 1,
                b"limit" if left >= 2 => 3,
                b"store" if left >= 1 && self.spec.name == "SORT" => 2,
                b"by" if left >= 1 && self.args.at(at + 1).contains(&b'*') => return Some("BY"),
                b"by" if left >= 1 => 2,
                b"get" if left >= 1 => return Some("GET"),
                // It will be refused for its form.
                _ => return None,
            };
        }
        None
    }
}

/// What the flags of a key specification say.
fn access(flags: &str) -> Access {
    let has = |wanted: &[&str]| flags.split(',').any(|flag| wanted.contains(&flag));
    Access {
        reads: has(&["access"]),
        writes: has(&["insert", "delete", "update"]),
    }
}
