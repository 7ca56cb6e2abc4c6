//! The target's part in a failover: it says whether it could be the primary, becomes it when that is granted,
//! and never says two things of one failover.

use super::{
    Answer, End, Id, Say, Stands,
    record::{Change, Ledger},
};
use crate::base::Position;

/// What the shell knows of this node when a message comes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// How far it is in each stream of its primary, if it follows one and all of it is there.
    pub at: Option<Vec<Position>>,
    /// Why it cannot be a primary, if so.
    pub obstacle: Option<String>,
    /// Primaries are elected, and this node is in this epoch.
    pub elected: Option<u64>,
}

/// See the module page.
#[derive(Clone, Debug, Default)]
pub struct Target {
    step: Step,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum Step {
    #[default]
    Idle,
    /// It said so.
    Ready(Offer),
    /// That it is the primary goes to the disk; what it was before.
    Noting(Id, Change, Stands),
    /// The shell begins the new histories.
    Beginning(Id),
    /// That it never will be by this failover goes to the disk.
    Burying(Id, Change),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Offer {
    id: Id,
    epoch: u64,
    forced: bool,
    frontier: Vec<(u64, u64)>,
}

impl Target {
    /// Takes in a message. No answer: it comes later, see [`answer`](Target::answer).
    pub fn hear(&mut self, say: &Say, facts: &Facts, ledger: &mut Ledger) -> Option<Answer> {
        if facts.elected.is_some() && !matches!(say, Say::Ask { .. }) {
            return Some(Answer::Refused("primaries are elected here".into()));
        }
        if let Some(answer) = self.answer(say, ledger) {
            return Some(answer);
        }
        match (say, &self.step) {
            (_, Step::Noting(..) | Step::Beginning(_) | Step::Burying(..))
                if self.is_about(say.id()) =>
            {
                None
            }
            (_, Step::Noting(..) | Step::Beginning(_)) => {
                Some(Answer::Refused("it is becoming a primary already".into()))
            }
            (Say::Ask { .. }, Step::Burying(..)) => {
                Some(Answer::Refused("it is busy with another failover".into()))
            }
            (
                Say::Ask {
                    id,
                    epoch,
                    forced,
                    frontier,
                },
                _,
            ) => {
                let offer = Offer {
                    id: *id,
                    epoch: *epoch,
                    forced: *forced,
                    frontier: pairs(frontier),
                };
                Some(match offer.fits(facts, ledger) {
                    Ok(at) => {
                        self.step = Step::Ready(offer);
                        Answer::Ready(at)
                    }
                    Err(reason) => Answer::Refused(reason),
                })
            }
            (Say::Grant { id, epoch }, Step::Ready(offer))
                if (offer.id, offer.epoch) == (*id, *epoch)
                    && offer.fits(facts, ledger).is_ok() =>
            {
                let (id, epoch) = (*id, *epoch);
                let before = ledger.record().stands.clone();
                let change = ledger.change(|record| {
                    record.epoch = epoch;
                    record.stands = Stands::Primary;
                    record.note_end(id, End::Promoted);
                });
                self.step = Step::Noting(id, change, before);
                None
            }
            (Say::Grant { id, .. } | Say::Revoke { id }, _) => {
                self.bury(*id, ledger);
                None
            }
        }
    }

    /// What there is to say to a message of which nothing was said at once.
    pub fn answer(&self, say: &Say, ledger: &Ledger) -> Option<Answer> {
        let id = say.id();
        let is_settled = match self.step {
            Step::Noting(other, ..) | Step::Beginning(other) | Step::Burying(other, _) => {
                other != id
            }
            Step::Idle | Step::Ready(_) => true,
        };
        let end = ledger.record().end_of(id).filter(|_| is_settled)?;
        Some(match (end, say) {
            (End::Promoted, _) => Answer::Promoted(ledger.record().epoch),
            (End::Dead, Say::Revoke { .. }) => Answer::Revoked,
            (End::Dead, _) => Answer::Refused("it is over".into()),
        })
    }

    /// Looks at what the disk did. True: this node is the primary, and the shell has to begin new histories
    /// and then say [`begun`](Target::begun).
    pub fn step(&mut self, ledger: &mut Ledger) -> bool {
        match &self.step {
            Step::Noting(id, change, before) => match ledger.is_durable(*change) {
                None => false,
                Some(true) => {
                    self.step = Step::Beginning(*id);
                    true
                }
                // It may be there. As long as nothing is said, the other side asks again.
                Some(false) => {
                    ledger.change(|record| record.stands = before.clone());
                    self.bury(*id, ledger);
                    false
                }
            },
            Step::Burying(id, change) => {
                let (id, change) = (*id, *change);
                match ledger.is_durable(change) {
                    None => {}
                    Some(true) => self.step = Step::Idle,
                    Some(false) => self.bury(id, ledger),
                }
                false
            }
            Step::Idle | Step::Ready(_) | Step::Beginning(_) => false,
        }
    }

    /// The shell has begun new histories and takes writes.
    pub fn begun(&mut self) {
        if matches!(self.step, Step::Beginning(_)) {
            self.step = Step::Idle;
        }
    }

    /// Somebody else says what this node follows: what it was ready for it is ready for no more.
    pub fn forget(&mut self) {
        if matches!(self.step, Step::Ready(_)) {
            self.step = Step::Idle;
        }
    }

    /// Is it on its way to be the primary? Nobody else may say then what this node follows.
    pub fn is_busy(&self) -> bool {
        matches!(self.step, Step::Noting(..) | Step::Beginning(_))
    }

    fn is_about(&self, id: Id) -> bool {
        match &self.step {
            Step::Idle => false,
            Step::Ready(offer) => offer.id == id,
            Step::Noting(other, ..) | Step::Beginning(other) | Step::Burying(other, _) => {
                *other == id
            }
        }
    }

    fn bury(&mut self, id: Id, ledger: &mut Ledger) {
        let change = ledger.change(|record| {
            record.ended.retain(|(other, _)| *other != id);
            record.note_end(id, End::Dead);
        });
        self.step = Step::Burying(id, change);
    }
}

impl Offer {
    /// Can this node be the primary that it is asked for? Where it stands, or why not.
    fn fits(&self, facts: &Facts, ledger: &Ledger) -> Result<Vec<Position>, String> {
        if let Some(obstacle) = &facts.obstacle {
            return Err(obstacle.clone());
        }
        let Some(at) = &facts.at else {
            return Err("it follows no primary, or does not have all of its data yet".into());
        };
        let known = facts.elected.unwrap_or(ledger.record().epoch);
        if self.epoch <= known {
            return Err(format!("it knows epoch {known}"));
        }
        let is_same = at.len() == self.frontier.len()
            && at
                .iter()
                .zip(&self.frontier)
                .all(|(at, (generation, _))| at.generation == *generation);
        if !is_same {
            return Err("it follows another history".into());
        }
        let mut pairs = at.iter().zip(&self.frontier);
        match self.forced || pairs.all(|(at, (_, offset))| at.offset >= *offset) {
            true => Ok(at.clone()),
            false => Err("it does not have everything".into()),
        }
    }
}

fn pairs(at: &[Position]) -> Vec<(u64, u64)> {
    at.iter().map(|at| (at.generation, at.offset)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Id = Id(7);

    fn at(generation: u64, offset: u64) -> Position {
        Position { generation, offset }
    }

    fn facts(at: Option<Position>) -> Facts {
        Facts {
            at: at.map(|at| vec![at]),
            obstacle: None,
            elected: None,
        }
    }

    fn ask(epoch: u64, frontier: Position) -> Say {
        Say::Ask {
            id: ID,
            epoch,
            forced: false,
            frontier: vec![frontier],
        }
    }

    /// A target that has said that it is ready.
    fn ready() -> (Target, Ledger) {
        let (mut target, mut ledger) = (Target::default(), Ledger::default());
        let facts = facts(Some(at(3, 10)));
        let answer = target.hear(&ask(1, at(3, 10)), &facts, &mut ledger);
        assert_eq!(answer, Some(Answer::Ready(vec![at(3, 10)])));
        (target, ledger)
    }

    fn write(target: &mut Target, ledger: &mut Ledger) -> bool {
        assert!(ledger.next_write().is_some());
        ledger.on_written(true);
        target.step(ledger)
    }

    #[test]
    fn it_says_that_it_is_the_primary_when_it_is() {
        let (mut target, mut ledger) = ready();
        let grant = Say::Grant { id: ID, epoch: 1 };
        let here = facts(Some(at(3, 10)));
        assert_eq!(target.hear(&grant, &here, &mut ledger), None);
        assert!(!target.step(&mut ledger), "it is not on the disk");
        assert!(write(&mut target, &mut ledger));
        assert_eq!(target.answer(&grant, &ledger), None, "it has not begun");
        target.begun();
        for say in [grant, Say::Revoke { id: ID }, ask(1, at(3, 10))] {
            let answer = target.hear(&say, &facts(None), &mut ledger);
            assert_eq!(answer, Some(Answer::Promoted(1)), "{say:?}");
        }
    }

    #[test]
    fn what_it_had_when_it_was_asked_it_must_have_still() {
        for now in [None, Some(at(3, 9)), Some(at(4, 10))] {
            let (mut target, mut ledger) = ready();
            let grant = Say::Grant { id: ID, epoch: 1 };
            assert_eq!(target.hear(&grant, &facts(now), &mut ledger), None);
            assert!(!write(&mut target, &mut ledger), "{now:?}");
            assert_eq!(
                target.answer(&grant, &ledger),
                Some(Answer::Refused("it is over".into()))
            );
            assert_eq!(ledger.record().stands, Stands::AsStarted);
        }
    }

    #[test]
    fn a_member_of_elections_is_asked_and_granted_nothing() {
        let (mut target, mut ledger) = (Target::default(), Ledger::default());
        let here = Facts {
            elected: Some(4),
            ..facts(Some(at(3, 10)))
        };
        let ready = target.hear(&ask(5, at(3, 10)), &here, &mut ledger);
        assert_eq!(ready, Some(Answer::Ready(vec![at(3, 10)])));
        let late = target.hear(&ask(4, at(3, 10)), &here, &mut ledger);
        assert_eq!(late, Some(Answer::Refused("it knows epoch 4".into())));
        for say in [Say::Grant { id: ID, epoch: 5 }, Say::Revoke { id: ID }] {
            let answer = target.hear(&say, &here, &mut ledger);
            assert_eq!(
                answer,
                Some(Answer::Refused("primaries are elected here".into()))
            );
        }
        assert!(ledger.is_settled());
    }

    #[test]
    fn who_cannot_be_a_primary_says_why() {
        let mut ledger = Ledger::default();
        ledger.change(|record| record.epoch = 5);
        let whole = facts(Some(at(3, 10)));
        let ill = Facts {
            obstacle: Some("ill".into()),
            ..whole.clone()
        };
        for (say, facts, wanted) in [
            (ask(5, at(3, 10)), whole.clone(), "it knows epoch 5"),
            (
                ask(6, at(4, 10)),
                whole.clone(),
                "it follows another history",
            ),
            (ask(6, at(3, 11)), whole, "it does not have everything"),
            (
                ask(6, at(3, 10)),
                facts(None),
                "it follows no primary, or does not have all of its data yet",
            ),
            (ask(6, at(3, 10)), ill, "ill"),
        ] {
            let answer = Target::default().hear(&say, &facts, &mut ledger);
            assert_eq!(answer, Some(Answer::Refused(wanted.into())));
        }
    }
}
