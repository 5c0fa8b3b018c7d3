//! The command `orlop`.

mod cli;

fn main() {}
