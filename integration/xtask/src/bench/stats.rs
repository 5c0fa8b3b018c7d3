//! Samples to figures.

use serde::{Deserialize, Serialize};

/// The middle of the samples and the range that holds the middle 80 in 100.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) p10: f64,
    pub(crate) p90: f64,
    pub(crate) samples: usize,
}

impl Figure {
    /// None without samples.
    pub(crate) fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let last = samples.len().checked_sub(1)?;
        let at = |percent: usize| samples.get((last * percent + 50) / 100).copied();
        Some(Self { median: at(50)?, p10: at(10)?, p90: at(90)?, samples: samples.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples_and_do_not_depend_on_their_order() {
        let figure = Figure::of((0..=100).rev().map(f64::from).collect()).unwrap();
        assert_eq!(figure, Figure { median: 50.0, p10: 10.0, p90: 90.0, samples: 101 });
        assert_eq!(Figure::of(vec![3.0]).unwrap(), Figure { median: 3.0, p10: 3.0, p90: 3.0, samples: 1 });
        assert_eq!(Figure::of(Vec::new()), None);
    }
}
