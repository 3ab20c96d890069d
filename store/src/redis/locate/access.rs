//! The way in: what the store URL says about servers, and how a connection is made to any of them.

use crate::error::StoreError;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, IntoConnectionInfo};
use std::sync::Arc;
use std::time::Duration;

/// A connection that carries nothing is probed after this long, and given up when the probes are not answered: a
/// host that vanished is noticed even while nobody calls.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(3);
const KEEPALIVE_PROBES: u32 = 3;
/// What was sent and not acknowledged by the other host for this long ends the connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(15);

/// The servers that a store URL names, and the credentials for them.
#[derive(Debug)]
pub(in crate::redis) struct Servers {
    client: Client,
}

impl Servers {
    pub fn new(url: &str) -> Result<Arc<Self>, StoreError> {
        let wrong = |error: redis::RedisError| StoreError::Url(error.to_string());
        let info = url.into_connection_info().map_err(wrong)?;
        // A courtesy to whoever lists clients, which the store's user is not allowed on every server.
        let login = info.redis_settings().clone().set_skip_set_lib_name();
        let info = info.set_tcp_settings(tcp_settings()).set_redis_settings(login);
        Ok(Arc::new(Self { client: Client::open(info).map_err(wrong)? }))
    }

    pub(super) fn fixed(&self) -> Client {
        self.client.clone()
    }
}

/// Nagle's algorithm off: it would hold back what is pipelined until the answer before it came.
fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER);
    let keepalive = keepalive.with_interval(KEEPALIVE_EVERY).with_retries(KEEPALIVE_PROBES);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    settings.set_user_timeout(UNACKNOWLEDGED_MAX)
}
