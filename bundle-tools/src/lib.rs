//! Turns container images into runtime bundles, and back.
//!
//! An image comes from a registry, a layout or an archive ([`image`] has its documents). Each layer is stored as the
//! plain tar that its diff id names, with a table of its entries ([`layer`]).

pub mod commit;
pub mod compress;
pub mod diff;
pub mod digest;
pub mod dir;
pub mod directory;
pub mod error;
pub mod image;
pub mod json;
pub mod layer;
pub mod tar;
pub mod tree;
