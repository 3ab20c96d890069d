//! The way in: what the store URL says about servers, and how a connection is made to any of them.

use crate::error::StoreError;
use crate::open::TlsFiles;
use crate::url::{Group, Login, Node, NodesUrl};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use std::sync::Arc;
use std::time::Duration;

/// A connection that carries nothing is probed after this long, and given up when the probes are not answered: a
/// host that vanished is noticed even while nobody calls.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(3);
const KEEPALIVE_PROBES: u32 = 3;
/// What was sent and not acknowledged by the other host for this long ends the connection.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(15);

/// The servers that a store URL names, and what is needed to connect to them.
#[derive(Debug)]
pub(in crate::redis) struct Servers {
    pub(super) named: Named,
    tls: Option<Tls>,
}

/// What the URL names.
#[derive(Debug)]
pub(super) enum Named {
    One(Client),
    Group(NodesUrl),
}

impl Servers {
    /// Reads the URL and the files for TLS; connects to nobody.
    pub fn new(url: &str, files: &TlsFiles) -> Result<Arc<Self>, StoreError> {
        let wrong = |error: redis::RedisError| StoreError::Url(error.to_string());
        let scheme = url.split(':').next().unwrap_or_default();
        let tls = if scheme.starts_with("rediss") { Some(Tls::read(files)?) } else { None };
        let named = if scheme.contains('+') && scheme != "redis+unix" {
            Named::Group(url.parse().map_err(StoreError::Url)?)
        } else {
            let info = url.into_connection_info().map_err(wrong)?;
            Named::One(open(with_settings(info), tls.as_ref())?)
        };
        Ok(Arc::new(Self { named, tls }))
    }

    /// A client for one of the servers of a group.
    pub(super) fn client(&self, group: &NodesUrl, node: &Node) -> Result<Client, StoreError> {
        self.client_with(&group.login, group.db, node)
    }

    /// A client for one of the sentinels.
    pub(super) fn sentinel_client(&self, group: &NodesUrl, node: &Node) -> Result<Client, StoreError> {
        match &group.group {
            Group::Sentinels { login, .. } => self.client_with(login, 0, node),
            Group::Cluster => Err(StoreError::Url("a cluster has no sentinels".to_owned())),
        }
    }

    fn client_with(&self, login: &Login, db: i64, node: &Node) -> Result<Client, StoreError> {
        let (host, port) = (node.host.clone(), node.port);
        let address = match &self.tls {
            None => ConnectionAddr::Tcp(host, port),
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let mut settings = RedisConnectionInfo::default().set_db(db);
        if let Some(user) = &login.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &login.password {
            settings = settings.set_password(password);
        }
        let info = address.into_connection_info().map_err(|error| StoreError::Url(error.to_string()))?;
        open(with_settings(info.set_redis_settings(settings)), self.tls.as_ref())
    }
}

/// The settings of every connection.
fn with_settings(info: ConnectionInfo) -> ConnectionInfo {
    // A courtesy to whoever lists clients, which the store's user is not allowed on every server.
    let login = info.redis_settings().clone().set_skip_set_lib_name();
    info.set_tcp_settings(tcp_settings()).set_redis_settings(login)
}

/// Nagle's algorithm off: it would hold back what is pipelined until the answer before it came.
fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER);
    let keepalive = keepalive.with_interval(KEEPALIVE_EVERY).with_retries(KEEPALIVE_PROBES);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    settings.set_user_timeout(UNACKNOWLEDGED_MAX)
}

fn open(info: ConnectionInfo, tls: Option<&Tls>) -> Result<Client, StoreError> {
    let made = match tls {
        None => Client::open(info),
        Some(tls) => tls.client(info),
    };
    made.map_err(|error| StoreError::Url(error.to_string()))
}

#[cfg(feature = "tls")]
#[derive(Debug)]
struct Tls {
    certificates: redis::TlsCertificates,
}

#[cfg(feature = "tls")]
impl Tls {
    /// Without a CA file the system's roots are trusted. The one provider of the program is installed if none is yet.
    fn read(files: &TlsFiles) -> Result<Self, StoreError> {
        // Somebody else of this process may have installed it before: it is the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let read = |key: &str, path: &std::path::PathBuf| {
            let wrong = |error| StoreError::Url(format!("{key}: cannot read {}: {error}", path.display()));
            std::fs::read(path).map_err(wrong)
        };
        let root_cert = files.ca.as_ref().map(|path| read("tls_ca", path)).transpose()?;
        if let (Some(path), Some(text)) = (&files.ca, &root_cert)
            && !String::from_utf8_lossy(text).contains("-----BEGIN CERTIFICATE-----")
        {
            return Err(StoreError::Url(format!("tls_ca: {} holds no certificate in PEM", path.display())));
        }
        let client_tls = match (&files.certificate, &files.key) {
            (Some(certificate), Some(key)) => Some(redis::ClientTlsConfig {
                client_cert: read("tls_certificate", certificate)?,
                client_key: read("tls_key", key)?,
            }),
            (None, None) => None,
            _ => return Err(StoreError::Url("tls_certificate and tls_key belong together: give both".to_owned())),
        };
        Ok(Self { certificates: redis::TlsCertificates { client_tls, root_cert } })
    }

    fn client(&self, info: ConnectionInfo) -> redis::RedisResult<Client> {
        Client::build_with_tls(info, self.certificates.clone())
    }
}

/// A build without TLS never has one.
#[cfg(not(feature = "tls"))]
#[derive(Debug)]
enum Tls {}

#[cfg(not(feature = "tls"))]
impl Tls {
    fn read(_: &TlsFiles) -> Result<Self, StoreError> {
        Err(StoreError::Url("this program was built without TLS: build it with the feature tls".to_owned()))
    }

    fn client(&self, _: ConnectionInfo) -> redis::RedisResult<Client> {
        match *self {}
    }
}
