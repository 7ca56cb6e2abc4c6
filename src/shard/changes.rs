//! What was changed at run time and is in no file: parameters, by CONFIG SET, and users. A process that takes
//! over goes on with it, as nobody notices that it is another one; where it was itself started with something
//! else than the process before it, that was meant.

use std::sync::{Arc, atomic::Ordering::Release};

use super::{
    info, log,
    shared::{Shared, lock},
};
use crate::{
    acl::Users,
    handoff::passing::{Change, Changes},
    resp::OwnedArgs,
};

/// What a node was started with.
#[derive(Debug)]
pub struct AtStart {
    parameters: Vec<(String, String)>,
    users: Vec<u8>,
}

impl Shared {
    /// Remembers how everything was at the start; `is_live`: CONFIG SET changes this parameter.
    pub fn remember_start(&self, is_live: impl Fn(&str) -> bool) {
        let mut parameters = info::parameters(self);
        parameters.retain(|(name, _)| is_live(name));
        let users = lock(&self.users).text();
        // Nobody else sets it.
        let _ = self.at_start.set(AtStart { parameters, users });
    }

    /// What has changed since then.
    pub(super) fn changed_at_run_time(&self) -> Changes {
        let Some(at_start) = self.at_start.get() else {
            return Changes::default();
        };
        let present = info::parameters(self);
        let now = |name: &String| present.iter().find(|(present, _)| present == name);
        let change = |(name, before): &(String, String)| {
            let (_, now) = now(name).filter(|(_, now)| now != before)?;
            Some(Change {
                name: name.clone().into(),
                before: before.clone().into(),
                now: now.clone().into(),
            })
        };
        let users = lock(&self.users).text();
        Changes {
            parameters: at_start.parameters.iter().filter_map(change).collect(),
            users: (users != at_start.users).then(|| Change {
                name: Vec::new(),
                before: at_start.users.clone(),
                now: users,
            }),
        }
    }

    /// Goes on with what the process before had changed. Nobody is served yet.
    pub fn go_on_with(&self, changes: &Changes) {
        let Some(at_start) = self.at_start.get() else {
            return;
        };
        let began_alike = |change: &&Change| {
            let mut own = at_start.parameters.iter();
            own.any(|(name, text)| {
                name.as_bytes() == change.name && text.as_bytes() == change.before
            })
        };
        let wanted: Vec<&Change> = changes.parameters.iter().filter(began_alike).collect();
        // Some belong together, like the files of a certificate.
        let mut refused = Vec::new();
        if self.set_all(&wanted).is_err() {
            for change in &wanted {
                if let Err(why) = self.set_all(&[change]) {
                    refused.push(why);
                }
            }
        }
        // Behind the parameters, one of which is a password.
        let users = changes.users.as_ref();
        let users = users.filter(|users| users.before == at_start.users);
        let has_users = users.is_some();
        if let Some(users) = users {
            match Users::read(&users.now, "the process before") {
                Ok(users) => {
                    *lock(&self.users) = Arc::new(users);
                    self.users_version.fetch_add(1, Release);
                }
                Err(why) => refused.extend(why),
            }
        }
        for why in refused {
            log(&format!("handoff: not taken over: {why}"));
        }
        log(&format!(
            "handoff: {} of {} changed settings{} go on as they were changed",
            wanted.len(),
            changes.parameters.len(),
            if has_users { " and the users" } else { "" }
        ));
    }

    fn set_all(&self, changes: &[&Change]) -> Result<(), String> {
        let words = changes
            .iter()
            .flat_map(|change| [&change.name, &change.now]);
        let pairs = OwnedArgs::copy(words.map(|word| &word[..]));
        let result = info::set_parameters(self, pairs.as_args());
        result.map_err(|error| error.as_str().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::shared::Settings;

    /// A node that was started with this `timeout`.
    fn started(timeout: &str) -> Shared {
        let shared = Shared::new(Settings::of_a_test(1, 1), 0, String::new());
        set(&shared, "timeout", timeout);
        shared.remember_start(|name| name != "port");
        shared
    }

    fn set(shared: &Shared, name: &str, value: &str) {
        let pair = OwnedArgs::copy([name.as_bytes(), value.as_bytes()]);
        let set = info::set_parameters(shared, pair.as_args());
        set.unwrap_or_else(|error| panic!("{}", error.as_str()));
    }

    fn value(shared: &Shared, name: &str) -> String {
        let mut all = info::parameters(shared).into_iter();
        let found = all.find(|(found, _)| found == name);
        found.map_or(String::new(), |(_, value)| value)
    }

    #[test]
    fn who_takes_over_goes_on_with_what_was_changed() {
        let (before, after) = (started("7"), started("7"));
        assert!(before.changed_at_run_time().is_empty());
        set(&before, "timeout", "9");
        set(&before, "maxmemory", "1000000");
        set(&before, "requirepass", "secret");
        let rules = [&b"on"[..], b">hers", b"~k*", b"+get"];
        let with = before.change_users(|users| users.with(b"alice", rules.into_iter()));
        assert!(with.is_ok());
        let changes = before.changed_at_run_time();
        assert_eq!(changes.parameters.len(), 3);
        after.go_on_with(&changes);
        for name in ["timeout", "maxmemory", "requirepass"] {
            assert_eq!(value(&after, name), value(&before, name), "{name}");
        }
        assert_eq!(lock(&after.users).text(), lock(&before.users).text());
        // And so does the next one.
        assert_eq!(after.changed_at_run_time(), changes);
    }

    #[test]
    fn what_the_next_process_was_started_with_counts() {
        let (before, after) = (started("7"), started("8"));
        set(&before, "timeout", "9");
        let rules = [&b"on"[..], b">hers"];
        let with = after.change_users(|users| users.with(b"bob", rules.into_iter()));
        assert!(with.is_ok());
        after.go_on_with(&before.changed_at_run_time());
        assert_eq!(value(&after, "timeout"), "8");
        let file = started("7");
        let with = file.change_users(|users| users.with(b"bob", rules.into_iter()));
        assert!(with.is_ok());
        let given = Shared::new(Settings::of_a_test(1, 1), 0, String::new());
        set(&given, "requirepass", "its own");
        given.remember_start(|_| true);
        let users = lock(&given.users).text();
        given.go_on_with(&file.changed_at_run_time());
        assert_eq!(lock(&given.users).text(), users);
    }

    #[test]
    fn what_cannot_be_taken_over_leaves_the_rest_alone() {
        let (before, after) = (started("7"), started("7"));
        set(&before, "timeout", "9");
        let mut changes = before.changed_at_run_time();
        changes.parameters.push(Change {
            name: b"maxmemory-policy".to_vec(),
            before: value(&after, "maxmemory-policy").into(),
            now: b"of a later version".to_vec(),
        });
        changes.parameters.push(Change {
            name: b"unknown".to_vec(),
            before: Vec::new(),
            now: b"1".to_vec(),
        });
        changes.users = Some(Change {
            name: Vec::new(),
            before: lock(&after.users).text(),
            now: b"user alice +of-a-later-version".to_vec(),
        });
        let users = lock(&after.users).text();
        after.go_on_with(&changes);
        assert_eq!(value(&after, "timeout"), "9");
        assert_eq!(value(&after, "maxmemory-policy"), "noeviction");
        assert_eq!(lock(&after.users).text(), users);
    }
}
