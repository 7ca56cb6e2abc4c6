//! The only crate of ringkeep that may say `unsafe`: one io_uring per core behind the [`Reactor`]
//! trait, and an in-memory twin of it for tests and simulation.
#![warn(missing_docs)]

mod reactor;

pub use reactor::*;
