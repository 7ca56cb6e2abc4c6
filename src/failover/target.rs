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
        if self.epoch <= ledger.record().epoch {
            return Err(format!("it knows epoch {}", ledger.record().epoch));
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
