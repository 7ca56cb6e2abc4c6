//! Who may do what: users, the rules that make them, what a request asks for, and what was refused. No I/O.
//!
//! A [`User`] is a name, passwords (their SHA-256 alone) and [`Selector`]s: the first is the user's own, the
//! others stand in parentheses in its rules. A request may run if one selector allows all of it.
//! [`Users`] is the set of them, which is never changed in place: whoever changes it makes a new one.

mod catalogue;
mod describe;
mod log;
mod request;
mod selector;
#[cfg(test)]
mod tests;
mod user;
mod users;

pub use catalogue::{CATEGORIES, Number, catalogue};
pub use log::{Context, Entry, LOG_LEN, Log, Reason};
pub use request::{Asked, Denied, Misfit};
pub use selector::{Access, RuleError, Selector};
pub use user::User;
pub use users::{DEFAULT, SetError, Users};
