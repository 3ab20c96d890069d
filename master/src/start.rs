//! Starts a master and stops it.

use crate::api::admin::AdminApi;
use crate::api::campaigns::CampaignsApi;
use crate::api::dispatch::DispatchApi;
use crate::api::messages::MessagesApi;
use crate::assemble::{Master, assemble};
use crate::config::{MasterConfig, StartError};
use crate::core::Core;
use crate::http;
use crate::loops::erase::{self, EraseDuty};
use crate::loops::sweep::{self, SweepDuty};
use crate::schedule::{SYSTEM_FOLDER, Zones};
use crate::seal::{Sealed, Vault};
use crate::storage::Storage;
use postrider_common::Clock;
use postrider_common::limits::GRPC_MESSAGE_BYTES_MAX;
use postrider_proto::v1::admin_server::AdminServer;
use postrider_proto::v1::campaigns_server::CampaignsServer;
use postrider_proto::v1::dispatch_server::DispatchServer;
use postrider_proto::v1::messages_server::MessagesServer;
use postrider_store::Store;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;
use tonic_health::server::HealthReporter;

/// Splits get this long to store their position and be given back.
const DUTIES_STOP: Duration = Duration::from_secs(10);
/// Calls in flight get this long to be answered.
const SERVERS_STOP: Duration = Duration::from_secs(5);
/// A connection without traffic is asked for a sign of life this often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// And is closed when none came for this long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls in flight on one connection.
const STREAMS_PER_CONNECTION_MAX: u32 = 1024;

/// A master at work. Stop it with `stop`; dropping it ends it at once, as a crash would.
#[derive(Debug)]
pub struct RunningMaster {
    grpc_addr: SocketAddr,
    http_addr: Option<SocketAddr>,
    core: Arc<Core>,
    health: HealthReporter,
    duties: JoinSet<()>,
    /// Cancelled after the duties ended: listeners close.
    closing: CancellationToken,
    servers: JoinSet<()>,
}

/// Checks the settings, opens the storage, binds the ports and begins to serve.
pub async fn start(
    config: MasterConfig,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
) -> Result<RunningMaster, StartError> {
    let vault = config.key_file.as_deref().map(Vault::read).transpose()?.unwrap_or_default();
    let storage = Storage::open(&config.storage, vault.clone())?;
    storage.check(&config.storage).await?;
    let place = store.describe();
    let zones = Zones::newest(Path::new(SYSTEM_FOLDER));
    tracing::info!(version = zones.version(), origin = ?zones.origin(), "time zone database");
    let store = Arc::new(Sealed::new(store, vault));
    let master = assemble(&config, store, storage, clock, zones)?;
    let grpc = bind("grpc_listen", config.grpc_listen).await?;
    let http = match config.http_listen {
        Some(address) => Some(bind("http_listen", address).await?),
        None => None,
    };
    let grpc_addr = local("grpc_listen", &grpc, config.grpc_listen)?;
    let core = Arc::clone(&master.core);
    let closing = CancellationToken::new();
    let mut servers = JoinSet::new();
    let health = serve_grpc(&master, grpc, closing.clone(), &mut servers).await?;
    let mut http_addr = None;
    if let (Some(listener), Some(address)) = (http, config.http_listen) {
        http_addr = Some(local("http_listen", &listener, address)?);
        serve_http(&core, listener, closing.clone(), &mut servers);
    }
    let mut duties = master.begin_duties();
    duties.spawn(EraseDuty::new(Arc::clone(&core), erase::Config::default()).run());
    duties.spawn(SweepDuty::new(Arc::clone(&core), sweep::Config::default()).run());
    tracing::info!(%grpc_addr, ?http_addr, store = place, "master started");
    Ok(RunningMaster { grpc_addr, http_addr, core, health, duties, closing, servers })
}

impl RunningMaster {
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http_addr
    }

    /// Health says NOT_SERVING, held Lease calls are answered empty, splits are given back, then the
    /// listeners close. Takes at most `DUTIES_STOP` + `SERVERS_STOP`.
    pub async fn stop(mut self) {
        set_health(&self.health, tonic_health::ServingStatus::NotServing).await;
        self.core.stopping.cancel();
        let duties = async { while self.duties.join_next().await.is_some() {} };
        if tokio::time::timeout(DUTIES_STOP, duties).await.is_err() {
            tracing::warn!("duties did not end in time; what they held comes back when it expires");
            self.duties.abort_all();
        }
        self.closing.cancel();
        let servers = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(SERVERS_STOP, servers).await.is_err() {
            tracing::warn!("calls in flight did not end in time and were cut off");
            self.servers.abort_all();
        }
        tracing::info!("master stopped");
    }
}

async fn bind(field: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Bind { field, address, why: error.to_string() })
}

fn local(field: &'static str, listener: &TcpListener, address: SocketAddr) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|error| StartError::Bind { field, address, why: error.to_string() })
}

async fn serve_grpc(
    master: &Master,
    listener: TcpListener,
    closing: CancellationToken,
    servers: &mut JoinSet<()>,
) -> Result<HealthReporter, StartError> {
    /// One message of any of our services, both ways.
    macro_rules! limited {
        ($server:ident, $service:expr) => {
            $server::new($service)
                .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
                .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX)
        };
    }
    let (health, health_server) = tonic_health::server::health_reporter();
    set_health(&health, tonic_health::ServingStatus::Serving).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(postrider_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let wrong = |error: tonic_reflection::server::Error| StartError::Service(error.to_string());
    let core = &master.core;
    let router = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .add_service(health_server)
        .add_service(reflection().build_v1().map_err(wrong)?)
        .add_service(reflection().build_v1alpha().map_err(wrong)?)
        .add_service(limited!(CampaignsServer, CampaignsApi { core: Arc::clone(core) }))
        .add_service(limited!(MessagesServer, MessagesApi { core: Arc::clone(core) }))
        .add_service(limited!(DispatchServer, master.dispatch.clone()))
        .add_service(limited!(AdminServer, master.admin.clone()));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = router.serve_with_incoming_shutdown(incoming, closing.cancelled_owned());
    servers.spawn(ends("grpc", serving));
    Ok(health)
}

fn serve_http(core: &Arc<Core>, listener: TcpListener, closing: CancellationToken, servers: &mut JoinSet<()>) {
    let serving =
        axum::serve(listener, http::router(Arc::clone(core))).with_graceful_shutdown(closing.cancelled_owned());
    servers.spawn(ends("http", async move { serving.await }));
}

async fn ends<E: std::fmt::Display>(what: &'static str, serving: impl Future<Output = Result<(), E>>) {
    if let Err(error) = serving.await {
        tracing::error!(listener = what, %error, "listener ended");
    }
}

async fn set_health(health: &HealthReporter, status: tonic_health::ServingStatus) {
    let services = [
        "",
        tonic_name::<CampaignsServer<CampaignsApi>>(),
        tonic_name::<MessagesServer<MessagesApi>>(),
        tonic_name::<DispatchServer<DispatchApi>>(),
        tonic_name::<AdminServer<AdminApi>>(),
    ];
    for service in services {
        health.set_service_status(service, status).await;
    }
}

fn tonic_name<S: tonic::server::NamedService>() -> &'static str {
    S::NAME
}
