//! Arguments in, node out.
fn main() {}
