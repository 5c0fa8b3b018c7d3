//! Turns container images into runtime bundles, and back.
//!
//! The story of an image: a [`reference`] or a place says where it is, a [`transport`] or a [`registry`] fetches its documents
//! ([`image`]) and blobs, and [`pull`] takes what is missing into the [`store`]. Each layer comes in twice: the blob as it
//! was sent, and the plain tar that its diff id names, with a table of the tar's entries ([`layer`]). The tar and the
//! table are made by a [`worker`] in a [`jail`], which inflates ([`compress`]) and scans ([`tar`]) while the blob arrives; the
//! parent hashes behind it and believes nothing else. Another worker merges the tables into one [`tree`] and writes that as
//! a small EROFS image that points into the tars ([`erofs`]).
//!
//! The story of a [`bundle`]: the image is mounted under a writable layer ([`mount`]), or each of its files is written once
//! ([`directory`]); its configuration and the user's wishes become config.json ([`config`]). What a container changed in it is
//! listed ([`diff`]), or becomes a layer of a new image ([`commit`]), which [`push`] sends away.
//!
//! The store is made of files that get their names when they are whole, verified and durable; many processes use it at once.

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
pub mod index;
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
pub mod users;
pub mod worker;
