//! How a file's content becomes chunks.
//!
//! EROFS cuts a file into chunks of one size, a power of two, and has an index for each: where it is, or that it is a hole.
//! A file that lies in the tar in one piece is one chunk. A sparse file needs chunks small enough for its pieces; a chunk that
//! is neither a hole nor in one piece in the tar, at a multiple of the block size, is copied into the image.

use super::format::{BLOCK, BLOCK_BITS, CHUNK_INDEX, MAX_CHUNK_SHIFT};
use crate::layer::Extent;

/// The chunks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// How much larger than a block a chunk is, as a shift.
    pub(super) shift: u32,
    /// How many there are.
    pub(super) count: u64,
    /// How many bytes of them are copied.
    pub(super) copied: u64,
}

/// A chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Zeros.
    Hole,
    /// In the tar, from this block.
    Tar(u64),
    /// To be copied: this part of the file, rounded up to blocks.
    Copy(u64, u64),
}

impl Plan {
    /// The chunk size that makes the image smallest.
    pub(super) fn new(size: u64, extents: &[Extent]) -> Self {
        let whole = || Self::with(size, extents, shift_for(size));
        match extents {
            [] => whole(),
            [one] if one.at == 0 && one.len == size && one.from % BLOCK == 0 => whole(),
            _ => (0..=shift_for(size))
                .map(|shift| Self::with(size, extents, shift))
                .min_by_key(Self::cost)
                .unwrap_or_else(whole),
        }
    }

    /// The bytes that the chunks take in the image.
    pub(super) fn cost(&self) -> u64 {
        self.copied.saturating_add(self.count.saturating_mul(CHUNK_INDEX))
    }

    fn with(size: u64, extents: &[Extent], shift: u32) -> Self {
        let chunk = BLOCK << shift;
        let count = size.div_ceil(chunk);
        let (mut copied, mut counted) = (0u64, 0);
        for extent in extents {
            let end = extent.at.saturating_add(extent.len);
            // The chunks that it touches, and of those the ones that it fills.
            let touched = (extent.at / chunk).max(counted)..end.div_ceil(chunk);
            let full = extent.at.div_ceil(chunk)..if end >= size { count } else { end / chunk };
            let aligned = extent.from % BLOCK == extent.at % BLOCK;
            let direct = if aligned { full.end.saturating_sub(full.start.max(touched.start)) } else { 0 };
            let indirect = touched.end.saturating_sub(touched.start).saturating_sub(direct);
            copied = copied.saturating_add(indirect.saturating_mul(chunk.min(size.next_multiple_of(BLOCK))));
            counted = counted.max(touched.end);
        }
        Self { shift, count, copied }
    }

    /// The chunks, in order.
    pub(super) fn chunks<'e>(self, size: u64, extents: &'e [Extent]) -> impl Iterator<Item = Chunk> + use<'e> {
        let length = BLOCK << self.shift;
        let mut rest = extents;
        (0..self.count).map(move |number| {
            let (start, end) = (number * length, ((number + 1) * length).min(size));
            while let Some((first, others)) = rest.split_first()
                && first.at + first.len <= start
            {
                rest = others;
            }
            match rest.first() {
                Some(first) if first.at < end => {
                    let from = first.from.wrapping_add(start).wrapping_sub(first.at);
                    if first.at <= start && first.at + first.len >= end && from % BLOCK == 0 {
                        Chunk::Tar(from / BLOCK)
                    } else {
                        Chunk::Copy(start, end)
                    }
                }
                _ => Chunk::Hole,
            }
        })
    }
}

/// The shift that makes a file of this size one chunk, if there is one.
fn shift_for(size: u64) -> u32 {
    let blocks = size.div_ceil(BLOCK).max(1);
    blocks.checked_next_power_of_two().map_or(MAX_CHUNK_SHIFT, u64::trailing_zeros).min(MAX_CHUNK_SHIFT)
}

/// The greatest size of a file for which no sum here overflows: the kernel's own limit for a file.
pub(super) const MAX_SIZE: u64 = i64::MAX as u64 - (BLOCK << MAX_CHUNK_SHIFT);
const _: () = assert!(BLOCK == 1 << BLOCK_BITS);

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(at: u64, len: u64, from: u64) -> Extent {
        Extent { at, len, from }
    }

    #[test]
    fn a_file_in_one_piece_is_one_chunk_and_pieces_decide_on_smaller_ones() {
        use Chunk::{Copy, Hole, Tar};
        let mib = 1 << 20;
        for (size, extents, shift, chunks) in [
            (1, vec![extent(0, 1, 512)], 0, vec![Tar(1)]),
            (513, vec![extent(0, 513, 1024)], 1, vec![Tar(2)]),
            (5 << 30, vec![extent(0, 5 << 30, 512)], 24, vec![Tar(1)]),
            (2000, vec![], 2, vec![Hole]),
            // Data after a hole of one mebibyte.
            (2 * mib, vec![extent(mib, mib, 512)], 11, vec![Hole, Tar(1)]),
            (mib + 5, vec![extent(mib, 5, 512)], 11, vec![Hole, Tar(1)]),
            // Two pieces that follow each other.
            (4096, vec![extent(0, 1024, 512), extent(2048, 1024, 1536)], 1, vec![Tar(1), Hole, Tar(3), Hole]),
            // A piece that does not start where a block does.
            (1024, vec![extent(512, 512, 700)], 0, vec![Hole, Copy(512, 1024)]),
            (100, vec![extent(10, 20, 522)], 0, vec![Copy(0, 100)]),
        ] {
            let plan = Plan::new(size, &extents);
            let made: Vec<_> = plan.chunks(size, &extents).collect();
            assert_eq!((plan.shift, &made), (shift, &chunks), "{size} {extents:?}");
            let copied: u64 =
                made.iter().map(|c| if let Copy(a, b) = c { (b - a).next_multiple_of(BLOCK) } else { 0 }).sum();
            assert!(plan.copied >= copied, "{size} {extents:?} {plan:?}");
        }
    }

    #[test]
    fn a_sparse_file_that_claims_exabytes_costs_no_more_than_its_indexes() {
        let plan = Plan::new(MAX_SIZE, &[]);
        assert!(plan.cost() <= 64 << 20);
        let scattered: Vec<_> = (0..1000).map(|i| extent(i << 50, 512, i << 10)).collect();
        assert!(Plan::new(1000 << 50, &scattered).cost() > 1 << 28);
    }
}
