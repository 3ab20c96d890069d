//! How many of the leases just claimed one answer can carry. Pure.

use postrider_common::limits::GRPC_MESSAGE_BYTES_MAX;

/// Bytes of leases and definitions of one answer; the rest is room for what frames them.
pub const ANSWER_BYTES_MAX: usize = GRPC_MESSAGE_BYTES_MAX - 1024 * 1024;

/// The number of leases, from the first, that fit; at least one. `sizes` are their bytes, with those of
/// a definition counted to the first lease that needs it.
pub fn fitting(sizes: impl Iterator<Item = usize>, max: usize) -> usize {
    let mut total = 0_usize;
    let fits = |(index, size): &(usize, usize)| {
        total = total.saturating_add(*size);
        *index == 0 || total <= max
    };
    sizes.enumerate().take_while(fits).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_carries_what_fits_and_at_least_one() {
        for (sizes, count) in [(vec![], 0), (vec![9], 1), (vec![11], 1), (vec![5, 5, 1], 2), (vec![11, 1], 1)] {
            assert_eq!(fitting(sizes.iter().copied(), 10), count, "{sizes:?}");
        }
    }
}
