//! The only crate of ringkeep that may say `unsafe`: one io_uring per core behind the [`Reactor`]
//! trait, and an in-memory twin of it for tests and simulation.
#![warn(missing_docs)]

pub mod affinity;
mod arena;
mod bufs;
mod caps;
mod doctor;
pub mod durable;
pub mod fake;
mod kernel;
mod net;
pub mod pass;
pub mod process;
mod reactor;
mod ring;
mod slots;
pub mod sys;
mod timers;
mod trial;
mod wake;

pub use arena::Chunk;
pub use caps::{
    Choice, Features, Level, Refusal, RefusalReason, RingConfig, SelfTestStep, SetupError,
    UnknownLevel,
};
pub use doctor::{Doctor, Finding, Severity, probe};
pub use kernel::{Counters, KernelReactor};
pub use reactor::*;
pub use wake::KernelWaker;
