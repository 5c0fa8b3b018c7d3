//! `features`.
/// The version of the runtime specification that this library follows.
pub const SPEC_VERSION: &str = "1.3.0";
