//! A lane: a bulkhead with its share and its retry policy.

use crate::backoff::RetryPolicy;
use crate::ids::LaneName;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    pub name: LaneName,
    /// Share of the fleet's turns when several lanes have work, 1 to 1000.
    pub weight: u32,
    pub retry: RetryPolicy,
}

/// What there is without configuration.
pub fn defaults() -> Vec<Lane> {
    vec![
        Lane { name: LaneName::transactional(), weight: 100, retry: RetryPolicy::TRANSACTIONAL },
        Lane { name: LaneName::bulk(), weight: 10, retry: RetryPolicy::BULK },
    ]
}
