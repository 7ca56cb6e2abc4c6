//! Replies that wait for the disk.
//!
//! With `appendfsync always` no reply leaves before everything that its core had done when the reply was
//! written is durable, whoever wrote it: what a client has seen is there after a crash. So replies wait by
//! turns: what one turn produced waits for what the shards had at its end.

use std::collections::VecDeque;

use uring::SocketId;

use crate::shard::message::{CoreId, Message};

/// What one turn produced, or several that wait for the same.
#[derive(Debug)]
struct Ticket {
    number: u64,
    /// Shards and the offsets that their frontiers have to reach.
    needs: Vec<(usize, u64)>,
    /// How often data had been replaced.
    replaced: u64,
    conns: Vec<SocketId>,
    messages: Vec<(CoreId, Message)>,
}

/// See the module page.
#[derive(Debug, Default)]
pub struct Gate {
    /// Replies wait.
    pub on: bool,
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
}

impl Gate {
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
    /// shard of the node is durable. What need not wait is returned.
    pub fn end_turn(
        &mut self,
        own: impl Iterator<Item = (usize, u64)>,
        frontier: impl Fn(usize) -> u64,
        replaced: u64,
    ) -> Vec<(CoreId, Message)> {
        let borrowed = std::mem::take(&mut self.borrowed);
        let messages = std::mem::take(&mut self.messages);
        let mut needs: Vec<(usize, u64)> = Vec::new();
        if self.on {
            needs.extend(own.chain(borrowed));
            needs.retain(|(shard, next)| frontier(*shard) < *next);
        }
        self.current = !needs.is_empty();
        if !self.current {
            return messages;
        }
        match self.tickets.back_mut() {
            Some(ticket) if (&ticket.needs, ticket.replaced) == (&needs, replaced) => {
                ticket.messages.extend(messages)
            }
            _ => {
                self.last += 1;
                self.tickets.push_back(Ticket {
                    number: self.last,
                    needs,
                    replaced,
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

    /// What no longer has to wait: `is_there` tells whether a shard is durable up to an offset, or has got
    /// other numbers since data had been replaced so often.
    pub fn release(&mut self, is_there: impl Fn(usize, u64, u64) -> bool) -> Released {
        let mut released = Released::default();
        while let Some(ticket) = self.tickets.front() {
            let mut needs = ticket.needs.iter();
            if !needs.all(|(shard, next)| is_there(*shard, *next, ticket.replaced)) {
                break;
            }
            if let Some(ticket) = self.tickets.pop_front() {
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

    #[test]
    fn replies_wait_for_what_their_core_had_done() {
        let mut gate = Gate {
            on: true,
            ..Gate::default()
        };
        assert!(gate.end_turn([(0, 5)].into_iter(), |_| 5, 0).is_empty());
        assert_eq!(gate.hold(conn(1), false), None, "nothing is missing");
        gate.end_turn([(0, 6)].into_iter(), |_| 5, 0);
        assert_eq!(gate.hold(conn(1), false), Some(1));
        gate.end_turn([(0, 6)].into_iter(), |_| 5, 0);
        assert_eq!(
            gate.hold(conn(2), false),
            Some(1),
            "it sees what is missing"
        );
        gate.borrowed(1, 9);
        gate.end_turn([(0, 6)].into_iter(), |_| 5, 0);
        assert_eq!(gate.hold(conn(2), true), Some(2));
        let released = gate.release(|shard, next, _| next <= if shard == 0 { 6 } else { 8 });
        assert_eq!(
            (released.number, released.conns),
            (1, vec![conn(1), conn(2)])
        );
        assert_eq!(gate.release(|_, next, _| next <= 8).number, 0);
        assert_eq!(gate.release(|_, next, _| next <= 9).conns, [conn(2)]);
    }

    #[test]
    fn who_has_replies_waiting_waits_behind_them() {
        let mut gate = Gate {
            on: true,
            ..Gate::default()
        };
        gate.end_turn([(0, 1)].into_iter(), |_| 0, 0);
        assert_eq!(gate.hold(conn(1), false), Some(1));
        gate.on = false;
        gate.end_turn([(0, 1)].into_iter(), |_| 0, 0);
        assert_eq!(gate.hold(conn(1), true), Some(1));
        assert_eq!(gate.hold(conn(2), false), None, "the policy has changed");
        assert!(!gate.is_idle());
        gate.release(|_, next, _| next <= 1);
        assert!(gate.is_idle());
    }

    #[test]
    fn what_is_replaced_is_waited_for_no_more() {
        let mut gate = Gate {
            on: true,
            ..Gate::default()
        };
        gate.end_turn([(0, 9)].into_iter(), |_| 5, 3);
        assert_eq!(gate.hold(conn(1), false), Some(1));
        assert!(gate.release(|_, _, replaced| replaced < 3).conns.is_empty());
        assert_eq!(gate.release(|_, _, replaced| replaced < 4).conns, [conn(1)]);
    }
}
