//! Numbers that look random and are the same in every run.

/// A splitmix64 sequence.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// A number from 0 up to, but not, 1.
    fn unit(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A log-normal number: its logarithm has this mean and deviation (Box and Muller's transform).
    pub fn log_normal(&mut self, mean: f64, deviation: f64) -> f64 {
        let (a, b) = (1.0 - self.unit(), self.unit());
        let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        (mean + deviation * normal).exp()
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// Bytes that compress about as source code does, to a third: words of a small vocabulary.
    pub fn text(&mut self, length: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(length + 16);
        while text.len() < length {
            // Squared, so that some words are frequent.
            let word = (self.below(64) * self.below(64)) as u32;
            let letters = word.wrapping_mul(2_654_435_761).to_be_bytes();
            text.extend(letters.iter().take(2 + (word % 3) as usize).map(|b| b'a' + b % 26));
            let digits = self.below(100);
            text.extend_from_slice(if digits < 12 {
                b"\n    "
            } else if digits < 40 {
                b"("
            } else {
                b" "
            });
            if digits.is_multiple_of(3) {
                text.extend_from_slice(digits.to_string().as_bytes());
            }
        }
        text.truncate(length);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_one_sequence() {
        let (mut a, mut b) = (Random::new(7), Random::new(7));
        assert_eq!(a.bytes(100), b.bytes(100));
        assert_eq!(a.text(1000), b.text(1000));
        assert_ne!(Random::new(8).number(), Random::new(7).number());
    }
}
