//! Orders that core 0 gives to all cores, itself included, and whether all have carried them out.

use super::{
    message::{Message, Order},
    state::State,
};

/// The last order of one of those who give some.
#[derive(Default)]
pub(super) struct Orders {
    round: u64,
    settled: usize,
}

impl Orders {
    /// Gives an order. What of an older one has not settled is of no interest any more.
    pub fn give(&mut self, order: Order, state: &mut State) {
        state.rounds += 1;
        let round = state.rounds;
        (self.round, self.settled) = (round, 0);
        state.tell_all(|| Message::Order(order, round));
        state.ordered.push((order, round));
    }

    /// A core has carried out an order. True if it is the last one that was given here.
    pub fn on_settled(&mut self, round: u64) -> bool {
        let is_ours = round == self.round;
        self.settled += usize::from(is_ours);
        is_ours
    }

    /// Has every core carried out the last one?
    pub fn are_settled(&self, state: &State) -> bool {
        self.settled == state.mesh.cores()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_settles_of_an_older_order_does_not_count() {
        let mut orders = Orders {
            round: 7,
            settled: 0,
        };
        assert!(!orders.on_settled(6));
        assert_eq!(orders.settled, 0);
        assert!(orders.on_settled(7));
        assert_eq!(orders.settled, 1);
    }
}
