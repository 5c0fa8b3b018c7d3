//! Tar streams: read into a [`Layer`](crate::layer::Layer), and written.

#[cfg(test)]
mod differential;
mod scan;
#[cfg(test)]
mod tests;
mod write;

pub use scan::{Limits, Scanner};
pub use write::Writer;

/// What headers and contents are padded to, in bytes.
const BLOCK: usize = 512;

/// How many bytes are missing after `size` bytes up to the next block.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}
