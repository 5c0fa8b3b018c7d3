//! From a bundle back to an image: what its container changed becomes a layer, and the image's documents say so.

pub mod change;
pub mod document;
