//! One core: its loop, its connections and its shards.

mod conn;
mod core;
mod follow;
mod homes;
mod info;
mod load;
mod log;
mod message;
mod pubsub;
mod requests;
mod scripts;
mod session;
mod shared;

pub use self::core::Core;
pub use log::log;
pub use message::Message;
pub use shared::{Settings, Shared, Tunables, lock};
