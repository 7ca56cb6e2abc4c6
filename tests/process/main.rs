//! The real binary on real sockets, on one core and on two cores with five shards.

mod atomic;
mod blocking;
mod client;
mod configure;
mod durable;
mod flow;
mod life;
mod memory;
mod node;
mod pubsub;
mod scripts;
mod session;
