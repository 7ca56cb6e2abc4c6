//! Commands on geo.

use super::Spec;

/// Rows of this family.
pub const COMMANDS: &[Spec] = &[];
