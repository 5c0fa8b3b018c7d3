//! Turns container images into runtime bundles, and back.
//!
//! An image comes from a registry, a layout or an archive ([`image`] has its documents). Each layer is stored as the
//! plain tar that its diff id names, with a table of its entries ([`layer`]).

pub mod bundle;
pub mod commit;
pub mod compress;
pub mod config;
pub mod diff;
pub mod digest;
pub mod dir;
pub mod directory;
pub mod erofs;
pub mod error;
pub mod format;
pub mod image;
pub mod ingest;
pub mod jail;
pub mod json;
pub mod layer;
pub mod mount;
pub mod platform;
pub mod progress;
pub mod pull;
pub mod push;
pub mod reference;
pub mod registry;
pub mod store;
pub mod tar;
pub mod transfer;
pub mod transport;
pub mod tree;
pub mod worker;
