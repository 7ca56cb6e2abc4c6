//! The key that this node proves to others, and who failed to prove it here. The rules are in `proof`.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use super::refusals::{Refusals, machine};
use crate::{
    base::Ms,
    proof::{Dialer, Fault, Listener, NodeKey, Nonce, Purpose},
};

/// See the module page.
#[derive(Debug)]
pub struct Keyring {
    key: NodeKey,
    /// Where the key was read.
    pub path: PathBuf,
    /// What others know this node by: its name among members, or one that it has drawn.
    own: String,
    /// Connections that others opened and that did not prove the key.
    pub refused: AtomicU64,
    /// What was told of them; at the port of elections or not, and why.
    refusals: Refusals<(bool, Fault)>,
}

impl Keyring {
    /// Of the node with this name.
    pub fn new(key: NodeKey, path: PathBuf, own: String) -> Self {
        Self {
            key,
            path,
            own,
            refused: AtomicU64::new(0),
            refusals: Refusals::default(),
        }
    }

    /// Begins to prove the key to who was dialed.
    ///
    /// # Errors
    /// [`Fault::NoChance`].
    pub(super) fn dialer(&self, purpose: Purpose, to: Option<&str>) -> Result<Dialer, Fault> {
        let nonce = draw()?;
        Ok(Dialer::new(self.key.clone(), purpose, &self.own, to, nonce))
    }

    /// Has the other side of a connection that came in prove it.
    ///
    /// # Errors
    /// [`Fault::NoChance`].
    pub(super) fn listener(&self, purpose: Purpose) -> Result<Listener, Fault> {
        Ok(Listener::new(self.key.clone(), purpose, &self.own, draw()?))
    }

    /// Counts a connection that is refused, and logs it unless there was such a one of the same machine of
    /// late.
    pub(super) fn refuse(&self, purpose: Purpose, from: Option<IpAddr>, fault: Fault, now: Ms) {
        let count = self.refused.fetch_add(1, Relaxed) + 1;
        let from = machine(from);
        let line = format!("{purpose}: {from} is refused: {}", fault.text());
        let why = (purpose == Purpose::Elections, fault);
        let more = format!(" ({count} in all)");
        self.refusals.note(from, why, &line, &more, now);
    }

    /// Who was refused last, and why.
    pub(super) fn last(&self) -> String {
        self.refusals.last()
    }
}

fn draw() -> Result<Nonce, Fault> {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce).map_err(|_| Fault::NoChance)?;
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_has_a_nonce_of_its_own() {
        let key = NodeKey::of_file(b"0123456789abcdef").expect("it is long enough");
        let ring = Keyring::new(key, PathBuf::new(), "a".into());
        let hello = || {
            let dialer = ring.dialer(Purpose::Elections, None);
            dialer.map(|dialer| dialer.hello())
        };
        assert_ne!(hello(), hello());
    }

    #[test]
    fn every_refusal_counts() {
        let key = NodeKey::of_file(b"0123456789abcdef").expect("it is long enough");
        let ring = Keyring::new(key, PathBuf::new(), "a".into());
        for n in 0..200u8 {
            let from = Some(IpAddr::from([10, 0, 0, n]));
            ring.refuse(Purpose::Stream(0), from, Fault::Plain, 5);
            ring.refuse(Purpose::Stream(0), from, Fault::Wrong, 6);
        }
        assert_eq!(ring.refused.load(Relaxed), 400);
        let wrong = "stream:0: 10.0.0.199 is refused: its node key is another one";
        assert_eq!(ring.last(), wrong);
    }
}
