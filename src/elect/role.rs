//! The role of this node, and what may change it.
//!
//! [`TABLE`] is the whole rule: thirteen triples of role, role and signal that are accepted. Whatever needs
//! more than the pair of roles (a lease, an epoch, a majority) is decided by the caller before it raises the
//! signal, so that the table stays total.

use crate::base::Ms;

/// What this node is in the replication of its data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Takes no part: sends no heartbeat, has no vote, serves no replica.
    Idle,
    /// Follows a primary, or looks for one.
    Replica,
    /// Has asked for votes.
    Candidate,
    /// The primary, which alone may accept writes.
    Leader,
}

/// All roles.
pub const ROLES: [Role; 4] = [Role::Idle, Role::Replica, Role::Candidate, Role::Leader];

impl Role {
    /// Its name in `INFO`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Idle => "idle",
            Role::Replica => "replica",
            Role::Candidate => "candidate",
            Role::Leader => "leader",
        }
    }
}

/// Why a role changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Signal {
    /// The node has become a member, or may be one again.
    CapabilitySelected,
    /// No primary was heard for long enough, and this node may stand.
    MissedHeartbeats,
    /// A majority voted for this node.
    ElectionWon,
    /// Another one won, or nobody did in time.
    ElectionLost,
    /// The operator takes the primary out.
    GracefulRelinquish,
    /// The disk of a replica is full or broken.
    DiskPressureWithdraw,
    /// The disk of the primary is full or broken.
    LeaderDiskPressureWithdraw,
    /// The disk of a candidate is full or broken.
    CandidateDiskPressureWithdraw,
    /// The node ends, or is no member any more.
    ChannelClose,
    /// The primary gives way: to another one, or to an epoch that is above its own.
    PeerLeaderObserved,
}

/// All signals.
pub const SIGNALS: [Signal; 10] = [
    Signal::CapabilitySelected,
    Signal::MissedHeartbeats,
    Signal::ElectionWon,
    Signal::ElectionLost,
    Signal::GracefulRelinquish,
    Signal::DiskPressureWithdraw,
    Signal::LeaderDiskPressureWithdraw,
    Signal::CandidateDiskPressureWithdraw,
    Signal::ChannelClose,
    Signal::PeerLeaderObserved,
];

impl Signal {
    /// Its name in `INFO`.
    pub fn name(self) -> &'static str {
        match self {
            Signal::CapabilitySelected => "capability_selected",
            Signal::MissedHeartbeats => "missed_heartbeats",
            Signal::ElectionWon => "election_won",
            Signal::ElectionLost => "election_lost",
            Signal::GracefulRelinquish => "graceful_relinquish",
            Signal::DiskPressureWithdraw => "disk_pressure_withdraw",
            Signal::LeaderDiskPressureWithdraw => "leader_disk_pressure_withdraw",
            Signal::CandidateDiskPressureWithdraw => "candidate_disk_pressure_withdraw",
            Signal::ChannelClose => "channel_close",
            Signal::PeerLeaderObserved => "peer_leader_observed",
        }
    }
}

/// What a change of role asks for. A list of them is carried out in its order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// No write is accepted from here on.
    CloseWrites,
    /// No replica is fed any more.
    StopStream,
    /// Nothing more is applied from a primary, and nothing acknowledged to one.
    StopFollowing,
    /// Epoch and vote go to the disk before anything that follows.
    PersistBallot,
    /// Votes are asked for.
    Offer,
    /// A new history begins on every stream, and replicas are fed from it.
    StartStream,
    /// Writes are accepted as far as the lease reaches.
    OpenWrites,
    /// The others are told who the primary is.
    Announce,
    /// Heartbeats begin.
    Join,
    /// Heartbeats end.
    Withdraw,
}

/// The triples that are accepted, and what each asks for.
///
/// Leaving [`Role::Leader`] always closes the writes first, so that no later step runs while this node still
/// accepts them; entering it starts a new history before it opens them.
pub const TABLE: [(Role, Role, Signal, &[Effect]); 13] = {
    use Effect::*;
    use Role::*;
    [
        (Idle, Replica, Signal::CapabilitySelected, &[Join]),
        (
            Replica,
            Candidate,
            Signal::MissedHeartbeats,
            &[StopFollowing, PersistBallot, Offer],
        ),
        (
            Candidate,
            Leader,
            Signal::ElectionWon,
            &[StartStream, OpenWrites, Announce],
        ),
        (Candidate, Replica, Signal::ElectionLost, &[]),
        (
            Leader,
            Idle,
            Signal::GracefulRelinquish,
            &[CloseWrites, StopStream, Withdraw],
        ),
        (
            Replica,
            Idle,
            Signal::DiskPressureWithdraw,
            &[StopFollowing, Withdraw],
        ),
        (
            Leader,
            Idle,
            Signal::LeaderDiskPressureWithdraw,
            &[CloseWrites, StopStream, Withdraw],
        ),
        (
            Candidate,
            Idle,
            Signal::CandidateDiskPressureWithdraw,
            &[Withdraw],
        ),
        (Idle, Idle, Signal::ChannelClose, &[]),
        (
            Replica,
            Idle,
            Signal::ChannelClose,
            &[StopFollowing, Withdraw],
        ),
        (Candidate, Idle, Signal::ChannelClose, &[Withdraw]),
        (
            Leader,
            Idle,
            Signal::ChannelClose,
            &[CloseWrites, StopStream, Withdraw],
        ),
        (
            Leader,
            Replica,
            Signal::PeerLeaderObserved,
            &[CloseWrites, StopStream, PersistBallot],
        ),
    ]
};

/// A change of role that the table has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transition {
    /// The role before.
    pub from: Role,
    /// The role after.
    pub to: Role,
    /// Why.
    pub signal: Signal,
    /// What it asks for, in order.
    pub effects: &'static [Effect],
}

/// Why a change was refused. Nothing has changed; the caller looks at the role again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No signal leads from the one role to the other.
    InvalidPair {
        /// The role as it is.
        from: Role,
        /// The role that was wanted.
        to: Role,
    },
    /// Another signal does, this one does not.
    SignalMismatch {
        /// The role as it is.
        from: Role,
        /// The role that was wanted.
        to: Role,
        /// The signal that was raised.
        signal: Signal,
    },
}

/// Looks the triple up.
///
/// # Errors
/// [`Refusal`]: the table does not have it.
pub fn apply(from: Role, to: Role, signal: Signal) -> Result<Transition, Refusal> {
    let mut is_pair = false;
    for (left, entered, by, effects) in TABLE {
        if (left, entered) != (from, to) {
            continue;
        }
        if by == signal {
            return Ok(Transition {
                from,
                to,
                signal,
                effects,
            });
        }
        is_pair = true;
    }
    Err(match is_pair {
        true => Refusal::SignalMismatch { from, to, signal },
        false => Refusal::InvalidPair { from, to },
    })
}

/// Elections that follow each other faster than this are thrash.
pub const THRASH_MS: Ms = 30_000;

/// What has happened to the role so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// How often each row of [`TABLE`] was taken.
    pub transitions: [u64; TABLE.len()],
    /// How often this node became the primary.
    pub leader_changes: u64,
    /// How often it stood.
    pub missed: u64,
    /// How often it stood less than [`THRASH_MS`] after the time before.
    pub thrash: u64,
    /// Refused: no such pair.
    pub invalid_pairs: u64,
    /// Refused: the wrong signal for the pair.
    pub signal_mismatches: u64,
}

/// The role of this node.
#[derive(Clone, Debug)]
pub struct Machine {
    role: Role,
    since: Ms,
    signal: Option<Signal>,
    missed_at: Option<Ms>,
    counters: Counters,
}

impl Machine {
    /// A node without a role.
    pub fn new(now: Ms) -> Self {
        Self {
            role: Role::Idle,
            since: now,
            signal: None,
            missed_at: None,
            counters: Counters::default(),
        }
    }

    /// A primary that was another process before.
    pub fn leading(now: Ms) -> Self {
        Self {
            role: Role::Leader,
            ..Self::new(now)
        }
    }

    /// Changes the role. `None`: an idle node was closed, which asks for nothing and counts nowhere.
    ///
    /// # Errors
    /// [`Refusal`]: the role is what it was.
    pub fn step(
        &mut self,
        signal: Signal,
        to: Role,
        now: Ms,
    ) -> Result<Option<Transition>, Refusal> {
        let found = apply(self.role, to, signal);
        match found {
            Err(Refusal::InvalidPair { .. }) => self.counters.invalid_pairs += 1,
            Err(Refusal::SignalMismatch { .. }) => self.counters.signal_mismatches += 1,
            Ok(_) => {}
        }
        let transition = found?;
        if (transition.from, transition.to) == (Role::Idle, Role::Idle) {
            return Ok(None);
        }
        self.role = to;
        self.since = now;
        self.signal = Some(signal);
        self.count(transition, now);
        Ok(Some(transition))
    }

    /// The role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Since when it is.
    pub fn since(&self) -> Ms {
        self.since
    }

    /// What led to it; none at the start.
    pub fn signal(&self) -> Option<Signal> {
        self.signal
    }

    /// What has happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn count(&mut self, transition: Transition, now: Ms) {
        let Transition {
            from, to, signal, ..
        } = transition;
        let row = TABLE
            .iter()
            .position(|row| (row.0, row.1, row.2) == (from, to, signal));
        if let Some(row) = row {
            self.counters.transitions[row] += 1;
        }
        if to == Role::Leader {
            self.counters.leader_changes += 1;
        }
        if signal == Signal::MissedHeartbeats {
            self.counters.missed += 1;
            let before = self.missed_at.replace(now);
            if before.is_some_and(|before| now.saturating_sub(before) < THRASH_MS) {
                self.counters.thrash += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;

    /// One line for each pair, one letter for each signal: accepted, mismatch, or no such pair.
    const MATRIX: [(Role, Role, &str); 16] = {
        use Role::*;
        [
            (Idle, Idle, "mmmmmmmmYm"),
            (Idle, Replica, "Ymmmmmmmmm"),
            (Idle, Candidate, ".........."),
            (Idle, Leader, ".........."),
            (Replica, Idle, "mmmmmYmmYm"),
            (Replica, Replica, ".........."),
            (Replica, Candidate, "mYmmmmmmmm"),
            (Replica, Leader, ".........."),
            (Candidate, Idle, "mmmmmmmYYm"),
            (Candidate, Replica, "mmmYmmmmmm"),
            (Candidate, Candidate, ".........."),
            (Candidate, Leader, "mmYmmmmmmm"),
            (Leader, Idle, "mmmmYmYmYm"),
            (Leader, Replica, "mmmmmmmmmY"),
            (Leader, Candidate, ".........."),
            (Leader, Leader, ".........."),
        ]
    };

    #[test]
    fn every_cell_is_as_the_matrix_says() {
        let mut seen = [0; 3];
        for (from, to, row) in MATRIX {
            for (signal, cell) in SIGNALS.into_iter().zip(row.chars()) {
                let found = apply(from, to, signal);
                let kind = match found {
                    Ok(transition) => {
                        assert_eq!(
                            (transition.from, transition.to, transition.signal),
                            (from, to, signal)
                        );
                        0
                    }
                    Err(refusal) => {
                        let wanted = match cell {
                            'm' => Refusal::SignalMismatch { from, to, signal },
                            _ => Refusal::InvalidPair { from, to },
                        };
                        assert_eq!(refusal, wanted);
                        1 + usize::from(cell == 'm')
                    }
                };
                assert_eq!(found.is_ok(), cell == 'Y', "{from:?} {to:?} {signal:?}");
                seen[kind] += 1;
            }
        }
        assert_eq!(seen, [13, 70, 77]);
        assert_eq!(MATRIX.len(), ROLES.len() * ROLES.len());
    }

    fn at(role: Role) -> Machine {
        let mut machine = Machine::new(0);
        let path: &[(Signal, Role)] = &[
            (Signal::CapabilitySelected, Role::Replica),
            (Signal::MissedHeartbeats, Role::Candidate),
            (Signal::ElectionWon, Role::Leader),
        ];
        for (signal, to) in path {
            if machine.role() == role {
                break;
            }
            machine.step(*signal, *to, 0).expect("the way to the top");
        }
        machine
    }

    #[test]
    fn a_second_close_asks_for_nothing() {
        for role in ROLES {
            let mut machine = at(role);
            let first = machine.step(Signal::ChannelClose, Role::Idle, 1);
            assert_eq!(first.map(|done| done.is_some()), Ok(role != Role::Idle));
            let before = machine.counters().clone();
            assert_eq!(machine.step(Signal::ChannelClose, Role::Idle, 2), Ok(None));
            assert_eq!(machine.counters(), &before);
        }
    }

    #[test]
    fn a_refusal_changes_only_its_counter() {
        let mut machine = at(Role::Leader);
        let refused = machine.step(Signal::ChannelClose, Role::Replica, 5);
        let (from, to, signal) = (Role::Leader, Role::Replica, Signal::ChannelClose);
        assert_eq!(refused, Err(Refusal::SignalMismatch { from, to, signal }));
        let refused = machine.step(Signal::ChannelClose, Role::Candidate, 5);
        let to = Role::Candidate;
        assert_eq!(refused, Err(Refusal::InvalidPair { from, to }));
        assert_eq!((machine.role(), machine.since()), (Role::Leader, 0));
        assert_eq!(
            (
                machine.counters().signal_mismatches,
                machine.counters().invalid_pairs
            ),
            (1, 1)
        );
    }

    #[test]
    fn each_change_asks_for_its_list() {
        use Effect::*;
        let lists: [(&str, &[Effect]); 13] = [
            ("idle replica capability_selected", &[Join]),
            (
                "replica candidate missed_heartbeats",
                &[StopFollowing, PersistBallot, Offer],
            ),
            (
                "candidate leader election_won",
                &[StartStream, OpenWrites, Announce],
            ),
            ("candidate replica election_lost", &[]),
            (
                "leader idle graceful_relinquish",
                &[CloseWrites, StopStream, Withdraw],
            ),
            (
                "replica idle disk_pressure_withdraw",
                &[StopFollowing, Withdraw],
            ),
            (
                "leader idle leader_disk_pressure_withdraw",
                &[CloseWrites, StopStream, Withdraw],
            ),
            (
                "candidate idle candidate_disk_pressure_withdraw",
                &[Withdraw],
            ),
            ("idle idle channel_close", &[]),
            ("replica idle channel_close", &[StopFollowing, Withdraw]),
            ("candidate idle channel_close", &[Withdraw]),
            (
                "leader idle channel_close",
                &[CloseWrites, StopStream, Withdraw],
            ),
            (
                "leader replica peer_leader_observed",
                &[CloseWrites, StopStream, PersistBallot],
            ),
        ];
        for ((from, to, signal, _), (name, wanted)) in TABLE.into_iter().zip(lists) {
            assert_eq!(
                name,
                format!("{} {} {}", from.name(), to.name(), signal.name())
            );
            let mut machine = at(from);
            let done = machine.step(signal, to, 0).expect(name);
            assert_eq!(done.map_or(&[][..], |done| done.effects), wanted, "{name}");
        }
    }

    #[test]
    fn a_long_walk_stays_on_the_table() {
        let mut rng = Rng::seeded(1);
        let mut machine = Machine::new(0);
        let (mut accepted, mut open, mut persisted) = (0_u64, false, false);
        for now in 0..1_000_000 {
            let signal = SIGNALS[rng.below(10) as usize];
            let to = ROLES[rng.below(4) as usize];
            let from = machine.role();
            let Ok(done) = machine.step(signal, to, now) else {
                assert_eq!(machine.role(), from);
                continue;
            };
            assert_eq!(machine.role(), to);
            assert_ne!((from, to), (Role::Replica, Role::Leader));
            accepted += u64::from(done.is_some());
            for effect in done.map_or(&[][..], |done| done.effects) {
                match effect {
                    Effect::CloseWrites => open = false,
                    Effect::PersistBallot => {
                        assert!(!open, "the disk is written while writes are accepted");
                        persisted = true;
                    }
                    Effect::OpenWrites => {
                        assert!(persisted, "more power than the disk gives");
                        open = true;
                    }
                    _ => {}
                }
            }
            assert_eq!(open, to == Role::Leader);
            if matches!(to, Role::Idle | Role::Replica) {
                persisted = false;
            }
        }
        let counters = machine.counters();
        assert_eq!(counters.transitions.iter().sum::<u64>(), accepted);
        let refused = counters.invalid_pairs + counters.signal_mismatches;
        assert!(accepted > 10_000 && refused > 500_000, "{counters:?}");
    }

    #[test]
    fn elections_that_follow_each_other_fast_are_thrash() {
        for (span, thrash) in [(29_000, 1), (29_999, 1), (30_000, 0), (31_000, 0)] {
            let mut machine = at(Role::Replica);
            for now in [5, 5 + span] {
                machine
                    .step(Signal::MissedHeartbeats, Role::Candidate, now)
                    .expect("it may stand");
                machine
                    .step(Signal::ElectionLost, Role::Replica, now)
                    .expect("it may lose");
            }
            assert_eq!(
                (machine.counters().thrash, machine.counters().missed),
                (thrash, 2),
                "{span}"
            );
        }
    }
}
