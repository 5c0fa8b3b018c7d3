//! The command `orlop-bundle`.

fn main() {}
