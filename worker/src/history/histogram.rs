//! Durations by their order of magnitude, in a form compact enough for a row.

/// The smallest time that has a bucket of its own, in seconds.
const FIRST: f64 = 0.000_5;
/// Buckets per doubling: a quantile is off by at most 19%.
const PER_DOUBLING: f64 = 4.0;
/// The last bucket holds everything beyond about nine hours.
const BUCKETS: usize = 104;

/// Counts of durations by their order of magnitude.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histogram(Vec<u64>);

impl Histogram {
    pub(super) fn add(&mut self, seconds: f64) {
        let bucket = bucket(seconds);
        if self.0.len() <= bucket {
            self.0.resize(bucket + 1, 0);
        }
        self.0[bucket] += 1;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (own, theirs) in self.0.iter_mut().zip(&other.0) {
            *own += theirs;
        }
    }

    /// Estimates the duration that this share of all durations does not exceed, in seconds.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.0.iter().sum();
        let rank = (share * total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.0.iter().position(|count| {
            seen += count;
            *count > 0 && seen >= rank
        })?;
        Some(middle(bucket))
    }

    /// Encodes each bucket that is not empty: its number as one byte, its count as a variable-length integer.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (bucket, count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            bytes.push(bucket as u8);
            let mut rest = *count;
            while rest >= 0x80 {
                bytes.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            bytes.push(rest as u8);
        }
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote. Damaged bytes are read as far as they make sense.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut histogram = Self::default();
        let mut bytes = bytes.iter();
        while let Some(bucket) = bytes.next() {
            let (mut count, mut shift) = (0u64, 0);
            for byte in bytes.by_ref() {
                count |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let bucket = usize::from(*bucket).min(BUCKETS - 1);
            if histogram.0.len() <= bucket {
                histogram.0.resize(bucket + 1, 0);
            }
            histogram.0[bucket] = histogram.0[bucket].saturating_add(count);
        }
        histogram
    }
}

fn bucket(seconds: f64) -> usize {
    let doublings = (seconds / FIRST).log2();
    // Anything shorter, and NaN, goes into the first bucket.
    if doublings > 0.0 { ((doublings * PER_DOUBLING) as usize + 1).min(BUCKETS - 1) } else { 0 }
}

/// The geometric middle of a bucket, in seconds.
fn middle(bucket: usize) -> f64 {
    if bucket == 0 { FIRST } else { FIRST * ((bucket as f64 - 0.5) / PER_DOUBLING).exp2() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_off_by_a_bucket_at_most() {
        let mut histogram = Histogram::default();
        for millis in 1..=1000 {
            histogram.add(f64::from(millis) / 1000.0);
        }
        for (share, expected) in [(0.5, 0.5), (0.95, 0.95), (1.0, 1.0)] {
            let found = histogram.quantile(share).expect("not empty");
            assert!((found / expected - 1.0).abs() < 0.2, "{share}: {found}");
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn any_time_has_a_bucket() {
        for (seconds, expected) in [(0.0, 0), (-3.0, 0), (f64::NAN, 0), (1e300, BUCKETS - 1), (0.000_51, 1)] {
            assert_eq!(bucket(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let mut histogram = Histogram::default();
        for (millis, times) in [(0.1, 1), (3.0, 200), (70_000.0, 20_000)] {
            (0..times).for_each(|_| histogram.add(millis / 1000.0));
        }
        assert_eq!(Histogram::from_bytes(&histogram.to_bytes()), histogram);
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!(twice.quantile(0.5), histogram.quantile(0.5));
        // A damaged row.
        Histogram::from_bytes(&[255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]);
    }
}
