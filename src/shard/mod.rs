//! One core: its loop, its connections and its shards.

mod access;
mod blocking;
mod census;
mod client;
mod clients;
mod cluster;
mod conn;
mod core;
mod debug;
mod evict;
mod follow;
mod frames;
mod homes;
mod info;
mod large;
mod latency;
mod load;
mod loans;
mod log;
mod memory;
mod message;
mod monitor;
mod oddities;
mod pubsub;
mod requests;
mod scripts;
mod session;
mod shared;
mod state;
mod tracking;
mod transactions;
mod upkeep;

pub use self::core::Core;
pub use log::log;
pub use message::Message;
pub use shared::{Settings, Shared, Tunables, lock};
