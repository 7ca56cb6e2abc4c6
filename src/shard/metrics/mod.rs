//! What the node tells a Prometheus: a page of numbers, and the port where it is read. The page on metrics
//! lists what is there.

mod commands;
mod families;
mod http;
mod page;
mod scrapes;

pub(super) use scrapes::Scrapes;
