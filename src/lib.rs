//! ringkeep, the node: see `README.md` for what it does and `docs` for how.
#![forbid(unsafe_code)]
