//! A running master, clients to it, and a worker of the simplest kind.

use postrider_common::clock::{Clock, SystemClock};
use postrider_common::ids::to_hex;
use postrider_common::limits::SPLIT_AHEAD_BATCHES;
use postrider_common::site::SiteTable;
use postrider_common::{lane, payload};
use postrider_master::{LeaseSettings, MasterConfig, Retention, RunningMaster, start};
use postrider_proto::v1;
use postrider_proto::v1::admin_client::AdminClient;
use postrider_proto::v1::campaigns_client::CampaignsClient;
use postrider_proto::v1::dispatch_client::DispatchClient;
use postrider_proto::v1::messages_client::MessagesClient;
use postrider_store::Store;
use postrider_store::embedded::Embedded;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::transport::Channel;

/// No event in these tests takes longer on a loaded machine.
pub const SOON: Duration = Duration::from_secs(60);

pub struct World {
    pub master: RunningMaster,
    pub store: Arc<dyn Store>,
    pub storage: Arc<TempDir>,
    pub channel: Channel,
}

pub fn config(storage: &TempDir) -> MasterConfig {
    MasterConfig {
        grpc_listen: "127.0.0.1:0".parse().unwrap(),
        http_listen: Some("127.0.0.1:0".parse().unwrap()),
        storage: storage.path().display().to_string(),
        key_file: None,
        lease: LeaseSettings {
            ttl: Duration::from_secs(2),
            window: 100,
            doubt_grace: Duration::from_millis(100),
            hard_cap: Duration::from_mins(30),
        },
        lanes: lane::defaults(),
        sites: SiteTable::default(),
        limits: Default::default(),
        audience_bytes_max: 64 * 1024 * 1024,
        sources: Default::default(),
        split_ahead_batches: SPLIT_AHEAD_BATCHES,
        retention: Retention::default(),
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut MasterConfig)) -> Self {
        let store = Arc::new(Embedded::in_memory(Arc::new(SystemClock::default())));
        Self::on(store, Arc::new(tempfile::tempdir().unwrap()), change).await
    }

    /// Another master on the same store and storage.
    pub async fn again(&self) -> Self {
        self.again_with(|_| {}).await
    }

    pub async fn again_with(&self, change: impl FnOnce(&mut MasterConfig)) -> Self {
        Self::on(Arc::clone(&self.store), Arc::clone(&self.storage), change).await
    }

    /// Another master on another store, which knows nothing, and the same storage.
    pub async fn on_an_empty_store(&self) -> Self {
        let store = Arc::new(Embedded::in_memory(Arc::new(SystemClock::default())));
        Self::on(store, Arc::clone(&self.storage), |_| {}).await
    }

    pub async fn on(store: Arc<dyn Store>, storage: Arc<TempDir>, change: impl FnOnce(&mut MasterConfig)) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let mut config = config(&storage);
        change(&mut config);
        let master = start(config, Arc::clone(&store), clock).await.unwrap();
        let channel = Channel::from_shared(format!("http://{}", master.grpc_addr())).unwrap();
        Self { channel: channel.connect().await.unwrap(), master, store, storage }
    }

    pub fn campaigns(&self) -> CampaignsClient<Channel> {
        CampaignsClient::new(self.channel.clone())
    }
    pub fn messages(&self) -> MessagesClient<Channel> {
        MessagesClient::new(self.channel.clone())
    }
    pub fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel.clone())
    }
    pub fn dispatch(&self) -> DispatchClient<Channel> {
        DispatchClient::new(self.channel.clone())
    }

    pub async fn upload(&self, text: impl AsRef<[u8]>, format: v1::AudienceFormat) -> String {
        let text = text.as_ref();
        let sha256 = to_hex(&Sha256::digest(text));
        let mut parts = vec![header(format, &sha256)];
        parts.extend(text.chunks(300_000).map(|bytes| chunk(bytes.to_vec())));
        let answer = self.campaigns().upload_audience(tokio_stream::iter(parts)).await.unwrap().into_inner();
        assert_eq!((answer.audience_id.as_str(), answer.size_bytes), (sha256.as_str(), text.len() as u64));
        answer.audience_id
    }

    /// Applies a campaign over a CSV text and runs it.
    pub async fn run_csv(&self, name: &str, csv: &str) -> String {
        let id = self.upload(csv, v1::AudienceFormat::Csv).await;
        self.apply(campaign(name, Some(stored(&id, v1::AudienceFormat::Csv)))).await;
        self.run(name, "").await
    }

    pub async fn apply(&self, campaign: v1::Campaign) -> v1::ApplyCampaignResponse {
        let request = v1::ApplyCampaignRequest { campaign: Some(campaign), idempotency_key: String::new() };
        self.campaigns().apply_campaign(request).await.unwrap().into_inner()
    }

    pub async fn run(&self, campaign: &str, key: &str) -> String {
        let request = v1::RunCampaignRequest { campaign: campaign.into(), idempotency_key: key.into(), audience: None };
        self.campaigns().run_campaign(request).await.unwrap().into_inner().run_id
    }

    pub async fn show(&self, run: &str) -> v1::Run {
        let request = v1::GetRunRequest { run_id: run.into() };
        let run = self.admin().get_run(request).await.unwrap().into_inner().run.unwrap();
        let c = run.recipients.unwrap();
        let sum = c.pending + c.accepted + c.rejected + c.exhausted + c.suppressed + c.cancelled + c.unknown;
        assert_eq!(sum, c.total, "the counts of a run add up at every instant");
        run
    }

    /// Waits until the run is as wished.
    pub async fn until(&self, run: &str, what: &str, wished: impl Fn(&v1::Run) -> bool) -> v1::Run {
        let deadline = Instant::now() + SOON;
        loop {
            let shown = self.show(run).await;
            if wished(&shown) {
                return shown;
            }
            assert!(Instant::now() < deadline, "not {what} in time: {shown:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn recipients(&self, run: &str, states: &[v1::RecipientState]) -> Vec<v1::Recipient> {
        let states = states.iter().map(|state| (*state).into()).collect();
        let request = v1::ListRecipientsRequest { run_id: run.into(), states };
        let mut stream = self.admin().list_recipients(request).await.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(mut answer) = stream.message().await.unwrap() {
            all.append(&mut answer.recipients);
        }
        all
    }

    pub async fn metrics(&self) -> String {
        self.http("/metrics").await.1
    }

    /// Status and body of a GET.
    pub async fn http(&self, path: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.master.http_addr().unwrap()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

pub fn header(format: v1::AudienceFormat, sha256: &str) -> v1::UploadAudienceRequest {
    let header = v1::AudienceHeader { format: format.into(), sha256: sha256.into() };
    v1::UploadAudienceRequest { part: Some(v1::upload_audience_request::Part::Header(header)) }
}

pub fn chunk(bytes: Vec<u8>) -> v1::UploadAudienceRequest {
    v1::UploadAudienceRequest { part: Some(v1::upload_audience_request::Part::Chunk(bytes)) }
}

pub fn stored(id: &str, format: v1::AudienceFormat) -> v1::AudienceSource {
    v1::AudienceSource {
        audience_id: id.into(),
        format: format.into(),
        address_field: "email".into(),
        ..v1::AudienceSource::default()
    }
}

pub fn inline(rows: &[&str]) -> v1::AudienceSource {
    v1::AudienceSource {
        address_field: "email".into(),
        inline: rows.iter().map(|row| (*row).to_owned()).collect(),
        ..v1::AudienceSource::default()
    }
}

pub fn message() -> v1::MessageDefinition {
    v1::MessageDefinition {
        from: "Acme Digest <digest@acme.example>".into(),
        subject: "Your digest, {{ name }}".into(),
        html: "<p>Hello {{ name }}</p>".into(),
        ..v1::MessageDefinition::default()
    }
}

pub fn campaign(name: &str, audience: Option<v1::AudienceSource>) -> v1::Campaign {
    v1::Campaign {
        name: name.into(),
        lane: "bulk".into(),
        audience,
        message: Some(message()),
        ..v1::Campaign::default()
    }
}

/// `count` recipients at seven domains.
pub fn csv(count: usize) -> String {
    let domains = ["gmail.com", "outlook.com", "yahoo.com", "icloud.com", "gmx.de", "proton.me", "x.example"];
    let mut text = String::from("email,name\n");
    for n in 0..count {
        text.push_str(&format!("user{n}@{},Name {n}\n", domains[n % domains.len()]));
    }
    text
}

pub struct Worker {
    pub client: DispatchClient<Channel>,
    pub id: v1::Worker,
    pub requests: u32,
}

impl Worker {
    pub fn new(world: &World, name: &str) -> Self {
        let instance = uuid::Uuid::new_v4().to_string();
        Self { client: world.dispatch(), id: v1::Worker { name: name.into(), instance, seen: Vec::new() }, requests: 0 }
    }

    pub fn request(&mut self, batches_max: u32, wait_ms: u32) -> v1::LeaseRequest {
        self.requests += 1;
        v1::LeaseRequest {
            worker: Some(self.id.clone()),
            request_id: format!("r{}", self.requests),
            batches_max,
            wait_ms,
            slots: 256,
            ..v1::LeaseRequest::default()
        }
    }

    pub async fn lease(&mut self, batches_max: u32, wait_ms: u32) -> v1::LeaseResponse {
        let request = self.request(batches_max, wait_ms);
        self.client.lease(request).await.unwrap().into_inner()
    }

    pub async fn checkpoint(&mut self, lease: v1::LeaseCheckpoint) -> v1::LeaseAnswer {
        let request = v1::CheckpointRequest { worker: Some(self.id.clone()), leases: vec![lease] };
        self.client.checkpoint(request).await.unwrap().into_inner().leases.remove(0)
    }

    pub async fn finish(&mut self, lease: v1::LeaseCheckpoint) -> v1::LeaseAnswer {
        let request = v1::FinishRequest { worker: Some(self.id.clone()), leases: vec![lease] };
        self.client.finish(request).await.unwrap().into_inner().leases.remove(0)
    }

    /// Has everything of a lease accepted; which keys that were.
    pub async fn deliver(&mut self, lease: &v1::Lease) -> Vec<String> {
        let wanted: Vec<u32> = (0..lease.recipients.len() as u32).collect();
        let answer = self.checkpoint(report(lease, 1, Vec::new(), wanted)).await;
        let outcomes = answer.granted.iter().map(|index| outcome(*index, v1::OutcomeKind::Accepted)).collect();
        let keys = payload::decode(&lease.payload).unwrap().into_iter().map(|r| r.key).collect::<Vec<_>>();
        let delivered = answer.granted.iter().map(|index| keys[*index as usize].clone()).collect();
        let answer = self.finish(report(lease, 2, outcomes, Vec::new())).await;
        assert_ne!(answer.status(), v1::LeaseStatus::InIntent);
        delivered
    }

    /// Delivers until the run has ended; how often each key was delivered.
    pub async fn deliver_run(&mut self, world: &World, run: &str) -> BTreeMap<String, u32> {
        let mut delivered = BTreeMap::new();
        let deadline = Instant::now() + SOON;
        loop {
            let answer = self.lease(16, 50).await;
            for lease in &answer.leases {
                for key in self.deliver(lease).await {
                    *delivered.entry(key).or_default() += 1;
                }
            }
            if answer.leases.is_empty() {
                let shown = world.show(run).await;
                if shown.state() == v1::RunState::Finished {
                    return delivered;
                }
                assert!(Instant::now() < deadline, "the run does not end: {shown:?}");
            }
        }
    }
}

pub fn report(
    lease: &v1::Lease,
    sequence: u64,
    outcomes: Vec<v1::RecipientOutcome>,
    intents: Vec<u32>,
) -> v1::LeaseCheckpoint {
    v1::LeaseCheckpoint {
        batch_id: lease.batch_id.clone(),
        fence: lease.fence.clone(),
        sequence,
        outcomes,
        intents,
        progress: sequence,
    }
}

pub fn outcome(index: u32, kind: v1::OutcomeKind) -> v1::RecipientOutcome {
    v1::RecipientOutcome { index, kind: kind.into(), code: "250 2.0.0".into(), detail: "ok".into(), retry_after_ms: 0 }
}
