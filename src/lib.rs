//! ringkeep, the node: see `README.md` for what it does and [`docs`] for how.
//!
//! Modules import lower levels only: `base` (0), `handoff`, `image`, `proof`, `resp`, `route` (1), `aof`,
//! `elect`, `failover`, `journal` (2), `fleet`, `store`, `repl` (3), `rdb` (4), `cmd` (5), `acl`,
//! `recover` (6), `script` (7), `mesh` (8), `shard` (9), `tools` (10), `node` (11). `uring` is met from
//! `mesh` up, and nothing below it has a clock, a socket, a file or a thread.
#![forbid(unsafe_code)]

pub mod acl;
pub mod aof;
pub mod base;
pub mod cmd;
pub mod elect;
pub mod failover;
pub mod fleet;
pub mod handoff;
pub mod image;
pub mod journal;
pub mod mesh;
pub mod node;
pub mod proof;
pub mod rdb;
pub mod recover;
pub mod repl;
pub mod resp;
pub mod route;
pub mod script;
pub mod shard;
pub mod store;
pub mod tools;

/// How the house is built: pages that bind the code.
pub mod docs {
    #[doc = include_str!("docs/access.md")]
    pub mod access {}
    #[doc = include_str!("docs/architecture.md")]
    pub mod architecture {}
    #[doc = include_str!("docs/coverage.md")]
    pub mod coverage {}
    #[doc = include_str!("docs/elections.md")]
    pub mod elections {}
    #[doc = include_str!("docs/failover.md")]
    pub mod failover {}
    #[doc = include_str!("docs/handoff.md")]
    pub mod handoff {}
    #[doc = include_str!("docs/journal.md")]
    pub mod journal {}
    #[doc = include_str!("docs/many-nodes.md")]
    pub mod many_nodes {}
    #[doc = include_str!("docs/metrics.md")]
    pub mod metrics {}
    #[doc = include_str!("docs/migration.md")]
    pub mod migration {}
    #[doc = include_str!("docs/scopes.md")]
    pub mod scopes {}
    #[doc = include_str!("docs/settings.md")]
    pub mod settings {}
    #[doc = include_str!("docs/tls.md")]
    pub mod tls {}
    #[doc = include_str!("docs/wire.md")]
    pub mod wire {}
}
