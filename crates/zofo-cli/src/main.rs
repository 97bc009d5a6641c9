//! The `zofo` program.

fn main() {}
