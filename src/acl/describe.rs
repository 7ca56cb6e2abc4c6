//! Users as the rules that make them, in the words of Redis: ACL LIST, ACL GETUSER, the file.

use super::{
    catalogue::{CATEGORIES, Named, Number, catalogue},
    selector::{CommandSet, KeyPattern, Selector},
    user::{Hash, Sanitize, User},
};

impl User {
    /// The line of a file that makes this user.
    pub fn line(&self) -> Vec<u8> {
        let mut line = [b"user ", &self.name[..], b" "].concat();
        for flag in self.flags() {
            line.extend_from_slice(flag.as_bytes());
            line.push(b' ');
        }
        for password in &self.passwords {
            line.extend_from_slice(format!("#{} ", hex(password)).as_bytes());
        }
        line.extend_from_slice(&self.own.text());
        for selector in &self.others {
            line.extend_from_slice(&[b" (", &selector.text()[..], b")"].concat());
        }
        line
    }

    /// What it is besides its rules.
    pub fn flags(&self) -> Vec<&'static str> {
        let sanitize = match self.sanitize {
            Sanitize::Unsaid => None,
            Sanitize::Skip => Some("skip-sanitize-payload"),
            Sanitize::Check => Some("sanitize-payload"),
        };
        let is_on = if self.is_on { "on" } else { "off" };
        let no_password = self.needs_no_password.then_some("nopass");
        [Some(is_on), no_password, sanitize]
            .into_iter()
            .flatten()
            .collect()
    }

    /// The hashes of its passwords.
    pub fn passwords(&self) -> impl ExactSizeIterator<Item = String> {
        self.passwords.iter().map(hex)
    }

    /// Its own selector, and then those in parentheses.
    pub fn described(&self) -> (&Selector, &[Selector]) {
        (&self.own, &self.others)
    }
}

impl Selector {
    /// All of it.
    fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        for part in [self.keys_text(), self.channels_text(true)] {
            if !part.is_empty() {
                text.extend_from_slice(&part);
                text.push(b' ');
            }
        }
        text.extend_from_slice(&self.commands_text());
        text
    }

    /// Its keys.
    pub fn keys_text(&self) -> Vec<u8> {
        if self.all_keys {
            return b"~*".to_vec();
        }
        let patterns: Vec<Vec<u8>> = self.keys.iter().map(key_text).collect();
        patterns.join(&b' ')
    }

    /// Its channels; with the rule that leaves no others, if wanted.
    pub fn channels_text(&self, with_reset: bool) -> Vec<u8> {
        if self.all_channels {
            return b"&*".to_vec();
        }
        let reset = with_reset.then(|| b"resetchannels".to_vec());
        let patterns = self.channels.iter().map(|one| [b"&", &one[..]].concat());
        let all: Vec<Vec<u8>> = reset.into_iter().chain(patterns).collect();
        all.join(&b' ')
    }

    /// The fewest rules that are easily found which give these commands: categories first, as long as more of
    /// their commands fit than do not, and then what still differs, one by one.
    pub fn commands_text(&self) -> Vec<u8> {
        let adds = !self.begins_with_all;
        let mut text = if adds {
            b"-@all".to_vec()
        } else {
            b"+@all".to_vec()
        };
        let mut said = if adds {
            CommandSet::default()
        } else {
            CommandSet::ALL
        };
        let mut left = self.commands.clone();
        let mut unused: Vec<usize> = (0..CATEGORIES.len()).collect();
        while let Some(best) = best_category(&left, &unused, adds) {
            unused.retain(|at| *at != best);
            said.change_category(1 << best, adds);
            left.change_category(1 << best, !adds);
            let sign = if adds { '+' } else { '-' };
            text.extend_from_slice(format!(" {sign}@{}", CATEGORIES[best]).as_bytes());
        }
        for (number, named) in catalogue().all().filter(|(_, named)| !named.is_sub) {
            self.say_single(number, named, &mut said, &mut text);
            for sub in &named.subs {
                self.say_single(*sub, catalogue().named(*sub), &mut said, &mut text);
            }
            self.say_arguments(number, named, &mut text);
        }
        text
    }

    fn say_single(&self, number: Number, named: &Named, said: &mut CommandSet, text: &mut Vec<u8>) {
        let is_in = self.commands.has(number);
        if said.has(number) != is_in {
            said.change(number, is_in);
            let sign = if is_in { '+' } else { '-' };
            text.extend_from_slice(format!(" {sign}{}", named.name).as_bytes());
        }
    }

    fn say_arguments(&self, number: Number, named: &Named, text: &mut Vec<u8>) {
        if self.commands.has(number) {
            return;
        }
        for argument in self.first_args.get(&number).into_iter().flatten() {
            text.extend_from_slice(format!(" +{}|", named.name).as_bytes());
            text.extend_from_slice(argument);
        }
    }
}

/// The category that says most with the fewest commands too many, if one says more than that.
fn best_category(left: &CommandSet, unused: &[usize], adds: bool) -> Option<usize> {
    let counted = |at: usize| {
        let all = catalogue().in_category(1 << at);
        let all = all.filter(|(_, named)| named.is_counted);
        let (fit, rest): (Vec<_>, Vec<_>) = all.partition(|(number, _)| left.has(*number) == adds);
        (rest.len(), usize::MAX - fit.len(), at)
    };
    let all = unused.iter().map(|at| counted(*at));
    let said = all.filter(|(wrong, missing, _)| usize::MAX - missing > *wrong);
    said.min().map(|(_, _, at)| at)
}

fn key_text(one: &KeyPattern) -> Vec<u8> {
    let mark: &[u8] = match (one.access.reads, one.access.writes) {
        (true, false) => b"%R~",
        (false, true) => b"%W~",
        _ => b"~",
    };
    [mark, &one.pattern].concat()
}

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
