//! A lane: a bulkhead with its share and its retry policy.

use crate::backoff::RetryPolicy;
use crate::ids::LaneName;
use crate::windows::Windows;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    pub name: LaneName,
    /// Share of the fleet's turns when several lanes have work, 1 to 1000.
    pub weight: u32,
    pub retry: RetryPolicy,
    /// When its sending may begin.
    pub windows: Windows,
}

/// What there is without configuration.
pub fn defaults() -> Vec<Lane> {
    let lane = |name, weight, retry| Lane { name, weight, retry, windows: Windows::default() };
    vec![
        lane(LaneName::transactional(), 100, RetryPolicy::TRANSACTIONAL),
        lane(LaneName::bulk(), 10, RetryPolicy::BULK),
    ]
}
