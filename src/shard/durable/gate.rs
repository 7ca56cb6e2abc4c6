//! Replies that wait for the disk, or for a majority.
//!
//! With `appendfsync always` no reply leaves before everything that its core had done when the reply was
//! written is durable, whoever wrote it: what a client has seen is there after a crash. So replies wait by
//! turns: what one turn produced waits for what the shards had at its end.
//!
//! With `quorum-writes yes` they wait in the same way until a majority of the members has acknowledged that,
//! so what a client has seen is on every later primary. A node that is the primary no more will not hear it:
//! these replies are never given, as nobody can say whether the writes among them are there.

use std::collections::VecDeque;

use uring::SocketId;

use crate::shard::message::{CoreId, Message};

/// What replies wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Awaits {
    /// The disk.
    pub disk: bool,
    /// A majority, as long as this node is the primary for this time.
    pub term: Option<Term>,
    /// How often data had been replaced.
    pub replaced: u64,
}

/// Counts up whenever this node becomes the primary of its members, or is that no more: odd while it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Term(pub u64);

impl Term {
    /// Is this node the primary?
    pub fn leads(self) -> bool {
        self.0 % 2 == 1
    }

    /// The one that the writes of a turn may be of that began as `self` and ended as `end`; none if there
    /// cannot have been any.
    pub fn of_turn(self, end: Term) -> Option<Term> {
        match (self.leads(), end.leads()) {
            (true, _) => Some(self),
            (false, true) => Some(end),
            // It may have been the primary in between.
            (false, false) => (self != end).then_some(self),
        }
    }
}

/// How far what a reply waits for is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is there.
    There,
    /// Not yet.
    Missing,
    /// Nobody will ever say so.
    Lost,
}

/// What one turn produced, or several that wait for the same.
#[derive(Debug)]
struct Ticket {
    number: u64,
    /// Shards and the offsets that their frontiers have to reach.
    needs: Vec<(usize, u64)>,
    awaits: Awaits,
    conns: Vec<SocketId>,
    messages: Vec<(CoreId, Message)>,
}

/// See the module page.
#[derive(Debug, Default)]
pub struct Gate {
    /// Replies wait for the disk, or for a majority while this node leads.
    on: bool,
    disk: bool,
    majority: bool,
    /// As it was when the last turn ended.
    term: Term,
    /// The same of the copy.
    was_copy: bool,
    /// Borrowed shards that this turn worked on, and what they had then.
    borrowed: Vec<(usize, u64)>,
    /// Replies of this turn to other cores.
    messages: Vec<(CoreId, Message)>,
    tickets: VecDeque<Ticket>,
    last: u64,
    /// What the newest ticket waits for is all that this turn waits for, too.
    current: bool,
}

/// What no longer has to wait.
#[derive(Debug, Default)]
pub struct Released {
    /// Replies with this number and all before it.
    pub number: u64,
    /// Connections that have some.
    pub conns: Vec<SocketId>,
    /// Messages to other cores.
    pub messages: Vec<(CoreId, Message)>,
    /// Connections with replies that are never given.
    pub lost: Vec<SocketId>,
    /// The same to other cores.
    pub lost_messages: Vec<(CoreId, Message)>,
}

impl Gate {
    /// From now on replies wait for the disk, or do not. Returns whether they did.
    pub fn wait_for_disk(&mut self, yes: bool) -> bool {
        self.on = yes || self.majority;
        std::mem::replace(&mut self.disk, yes)
    }

    /// The same for a majority.
    pub fn wait_for_majority(&mut self, yes: bool) {
        self.on = yes || self.disk;
        self.majority = yes;
    }

    /// Do replies wait for the disk?
    pub fn waits_for_disk(&self) -> bool {
        self.disk
    }

    /// Do replies wait for a majority while this node leads?
    pub fn waits_for_majority(&self) -> bool {
        self.majority
    }

    /// Does it lead, as far as this core knows, and do replies wait for a majority?
    pub fn asks_majority(&self) -> bool {
        self.majority && self.term.leads()
    }

    /// Do some wait for a majority now?
    pub fn has_asked_majority(&self) -> bool {
        self.majority
            && self
                .tickets
                .iter()
                .any(|ticket| ticket.awaits.term.is_some())
    }

    /// What the replies of this turn wait for, which ends with this node as it is `now`. `is_copy`: what it
    /// has is a primary's, and its journals cannot have it before they have a new beginning. No reply
    /// promises anything of that, and who only asks how the node is must not wait as long.
    pub fn awaits(&mut self, now: Term, is_copy: bool, replaced: u64) -> Awaits {
        let before = std::mem::replace(&mut self.term, now);
        let was_copy = std::mem::replace(&mut self.was_copy, is_copy);
        Awaits {
            disk: self.disk && !(was_copy && is_copy),
            term: before.of_turn(now).filter(|_| self.majority),
            replaced,
        }
    }

    /// Does anything wait, or might it have to?
    #[inline]
    pub fn is_idle(&self) -> bool {
        !self.on && self.tickets.is_empty() && self.messages.is_empty()
    }

    /// This turn works on a borrowed shard, which has all up to `next`.
    pub fn borrowed(&mut self, shard: usize, next: u64) {
        if self.on {
            self.borrowed.push((shard, next));
        }
    }

    /// A reply to another core; it comes back if it need not wait for the end of the turn.
    pub fn reply(&mut self, to: CoreId, message: Message) -> Option<Message> {
        if self.is_idle() {
            return Some(message);
        }
        self.messages.push((to, message));
        None
    }

    /// The end of a turn. `own` are this core's shards with all that they have, `frontier` tells how far each
    /// shard of the node is there. What need not wait is returned.
    pub fn end_turn(
        &mut self,
        own: impl Iterator<Item = (usize, u64)>,
        frontier: impl Fn(usize) -> u64,
        awaits: Awaits,
    ) -> Vec<(CoreId, Message)> {
        let borrowed = std::mem::take(&mut self.borrowed);
        let messages = std::mem::take(&mut self.messages);
        let mut needs: Vec<(usize, u64)> = Vec::new();
        if awaits.disk || awaits.term.is_some() {
            needs.extend(own.chain(borrowed));
            needs.retain(|(shard, next)| frontier(*shard) < *next);
        }
        self.current = !needs.is_empty();
        if !self.current {
            return messages;
        }
        match self.tickets.back_mut() {
            Some(ticket) if (&ticket.needs, ticket.awaits) == (&needs, awaits) => {
                ticket.messages.extend(messages)
            }
            _ => {
                self.last += 1;
                self.tickets.push_back(Ticket {
                    number: self.last,
                    needs,
                    awaits,
                    conns: Vec::new(),
                    messages,
                });
            }
        }
        Vec::new()
    }

    /// The number under which a connection's replies of this turn wait. `has_earlier` says that some of its
    /// replies wait already.
    pub fn hold(&mut self, conn: SocketId, has_earlier: bool) -> Option<u64> {
        if !self.current && !has_earlier {
            return None;
        }
        let ticket = self.tickets.back_mut()?;
        if ticket.conns.last() != Some(&conn) {
            ticket.conns.push(conn);
        }
        Some(ticket.number)
    }

    /// What no longer has to wait: `verdict` tells how far a shard is on its way to an offset.
    pub fn release(&mut self, verdict: impl Fn(usize, u64, Awaits) -> Verdict) -> Released {
        let mut released = Released::default();
        while let Some(ticket) = self.tickets.front() {
            let needs = ticket.needs.iter();
            let verdicts = needs.map(|(shard, next)| verdict(*shard, *next, ticket.awaits));
            let worst = verdicts.fold(Verdict::There, |worst, verdict| match (worst, verdict) {
                (Verdict::Lost, _) | (_, Verdict::Lost) => Verdict::Lost,
                (Verdict::Missing, _) | (_, Verdict::Missing) => Verdict::Missing,
                _ => Verdict::There,
            });
            if worst == Verdict::Missing {
                break;
            }
            let Some(ticket) = self.tickets.pop_front() else {
                break;
            };
            if worst == Verdict::Lost {
                released.lost.extend(ticket.conns);
                released.lost_messages.extend(ticket.messages);
            } else {
                released.number = ticket.number;
                released.conns.extend(ticket.conns);
                released.messages.extend(ticket.messages);
            }
        }
        self.current &= !self.tickets.is_empty();
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(index: u32) -> SocketId {
        SocketId {
            index,
            generation: 0,
        }
    }

    fn gate(disk: bool, majority: bool) -> Gate {
        let mut gate = Gate::default();
        gate.wait_for_disk(disk);
        gate.wait_for_majority(majority);
        gate
    }

    /// Shard 0 has all up to `next`; it is there up to `there`.
    fn end(gate: &mut Gate, next: u64, there: u64, replaced: u64) {
        let awaits = gate.awaits(Term(0), false, replaced);
        gate.end_turn([(0, next)].into_iter(), |_| there, awaits);
    }

    /// Everything is there below an offset.
    fn there(is_there: impl Fn(usize, u64) -> bool) -> impl Fn(usize, u64, Awaits) -> Verdict {
        move |shard, next, _| match is_there(shard, next) {
            true => Verdict::There,
            false => Verdict::Missing,
        }
    }

    #[test]
    fn replies_of_a_copy_do_not_wait_for_journals_that_cannot_have_it() {
        let mut gate = gate(true, false);
        let mut held = |is_copy| {
            let awaits = gate.awaits(Term(0), is_copy, 0);
            gate.end_turn([(0, 6)].into_iter(), |_| 5, awaits);
            gate.hold(conn(1), false).is_some()
        };
        // In the turn in which it becomes one, or is one no more, it may have taken writes.
        assert_eq!(
            [true, true, true, false].map(&mut held),
            [true, false, false, true]
        );
    }

    #[test]
    fn replies_wait_for_what_their_core_had_done() {
        let mut gate = gate(true, false);
        end(&mut gate, 5, 5, 0);
        assert_eq!(gate.hold(conn(1), false), None, "nothing is missing");
        end(&mut gate, 6, 5, 0);
        assert_eq!(gate.hold(conn(1), false), Some(1));
        end(&mut gate, 6, 5, 0);
        assert_eq!(
            gate.hold(conn(2), false),
            Some(1),
            "it sees what is missing"
        );
        gate.borrowed(1, 9);
        end(&mut gate, 6, 5, 0);
        assert_eq!(gate.hold(conn(2), true), Some(2));
        let reached = |shard, next| next <= if shard == 0 { 6 } else { 8 };
        let released = gate.release(there(reached));
        assert_eq!(
            (released.number, released.conns),
            (1, vec![conn(1), conn(2)])
        );
        assert_eq!(gate.release(there(|_, next| next <= 8)).number, 0);
        let released = gate.release(there(|_, next| next <= 9));
        assert_eq!(released.conns, [conn(2)]);
    }

    #[test]
    fn who_has_replies_waiting_waits_behind_them() {
        let mut gate = gate(true, false);
        end(&mut gate, 1, 0, 0);
        assert_eq!(gate.hold(conn(1), false), Some(1));
        gate.wait_for_disk(false);
        end(&mut gate, 1, 0, 0);
        assert_eq!(gate.hold(conn(1), true), Some(1));
        assert_eq!(gate.hold(conn(2), false), None, "the policy has changed");
        assert!(!gate.is_idle());
        gate.release(there(|_, next| next <= 1));
        assert!(gate.is_idle());
    }

    #[test]
    fn what_is_replaced_is_waited_for_no_more() {
        let mut gate = gate(true, false);
        end(&mut gate, 9, 5, 3);
        assert_eq!(gate.hold(conn(1), false), Some(1));
        let replaced = |count| {
            move |_, _, awaits: Awaits| match awaits.replaced < count {
                true => Verdict::There,
                false => Verdict::Missing,
            }
        };
        assert!(gate.release(replaced(3)).conns.is_empty());
        assert_eq!(gate.release(replaced(4)).conns, [conn(1)]);
    }

    #[test]
    fn only_a_primary_waits_for_a_majority() {
        let mut gate = gate(false, true);
        assert!(!gate.is_idle() && !gate.asks_majority());
        let mut held = |now: u64| {
            let awaits = gate.awaits(Term(now), false, 0);
            gate.end_turn([(0, 9)].into_iter(), |_| 5, awaits);
            let number = gate.hold(conn(1), false);
            gate.release(|_, _, awaits| match awaits.term {
                Some(Term(term)) if term == now => Verdict::There,
                _ => Verdict::Lost,
            });
            number.is_some()
        };
        assert!(!held(0), "it follows");
        assert!(held(1), "it became the primary within the turn");
        assert!(held(1));
        assert!(held(2), "it was the primary when the turn began");
        assert!(!held(2));
        assert!(held(4), "it was the primary within the turn, for a while");
    }

    #[test]
    fn replies_of_a_primary_that_is_none_any_more_are_never_given() {
        let mut gate = gate(true, true);
        for (conn_at, term) in [(1, 1), (2, 2), (3, 2)] {
            let awaits = gate.awaits(Term(term), false, 0);
            let message = (1, Message::Frontier);
            assert!(gate.reply(message.0, message.1).is_none());
            gate.end_turn([(0, 5 + term)].into_iter(), |_| 5, awaits);
            assert!(gate.hold(conn(conn_at), false).is_some());
        }
        // The first two are of the term that is over, and one of them a majority has.
        let released = gate.release(|_, next, awaits| match awaits.term {
            Some(_) if next > 6 => Verdict::Lost,
            Some(_) => Verdict::There,
            None => Verdict::Missing,
        });
        assert_eq!((released.number, &released.conns[..]), (1, &[conn(1)][..]));
        assert_eq!(released.lost, [conn(2)]);
        assert_eq!(
            (released.messages.len(), released.lost_messages.len()),
            (1, 1)
        );
        // What the third one waits for is the disk.
        let released = gate.release(|_, _, _| Verdict::There);
        assert_eq!(released.conns, [conn(3)]);
    }
}
