//! Merge fields from the endpoint or the database of a campaign: one call for a batch, signed, or one query, of bounded time
//! and size.
//!
//! When to call and what a failure means is decided by the engine. What is fetched stays in the memory of the lease, and
//! neither it nor a key is in a log. docs/data-url.md says what goes over the wire.

mod answer;
#[cfg(any(feature = "sql", test))]
mod rows;
mod sign;
#[cfg(feature = "sql")]
mod sql;

pub(crate) use answer::{Absent, Found};

use crate::engine::{Endpoint, Fetched};
use crate::metrics::Metrics;
use crate::send::Hold;
use answer::read;
use bytes::Bytes;
use postrider_common::clock::Clock;
use postrider_common::ids::{BatchId, Fence, to_hex};
use postrider_common::limits::{DATA_ANSWER_BYTES_MAX, DATA_TIMEOUT_MS_MAX, DATA_TIMEOUT_MS_MIN};
use postrider_common::message::{DataSql, DataUrl, MessageSpec, OnMissingData};
use postrider_outgoing::{Failure, Outgoing, Request, Secret, SecretText, Settings, Target};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Of a message id: enough that no two calls share one.
const ID_HEX_CHARS: usize = 32;

/// The `data_url` or `data_sql` of a campaign, checked.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    asked: Asked,
    timeout: Duration,
    pub(crate) on_missing: OnMissingData,
    /// By which its leases share a breaker.
    pub(crate) endpoint: Endpoint,
}

/// Who is asked, and how.
#[derive(Debug, Clone)]
enum Asked {
    Url(Call),
    #[cfg(feature = "sql")]
    Database(sql::Asking),
}

#[derive(Debug, Clone)]
struct Call {
    target: Target,
    secret: Option<Secret>,
    headers: BTreeMap<String, String>,
}

/// Of the endpoint of a database.
const DATABASE: &str = "database ";

impl Origin {
    /// None: all fields are in the payload. Errors: what a master should have refused, or what this build cannot do.
    pub(crate) fn of(spec: &MessageSpec) -> Option<Result<Self, String>> {
        let of_database = || spec.data_sql.as_ref().map(Self::database);
        spec.data_url.as_ref().map(Self::url).or_else(of_database)
    }

    #[cfg(feature = "sql")]
    fn database(data: &DataSql) -> Result<Self, String> {
        Ok(Self {
            endpoint: Endpoint(Arc::from(format!("{DATABASE}{}", data.url))),
            timeout: timeout(data.timeout_ms),
            on_missing: data.on_missing,
            asked: Asked::Database(sql::Asking::new(data)?),
        })
    }

    #[cfg(not(feature = "sql"))]
    fn database(_: &DataSql) -> Result<Self, String> {
        Err("data_sql: this build cannot read databases: use one with the feature sql (cargo build --features sql)"
            .into())
    }

    fn url(data: &DataUrl) -> Result<Self, String> {
        let target: Target = data.url.parse().map_err(|error| format!("data_url: {error}"))?;
        let secret = match data.secret.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|error| format!("data_url.secret: {error}"))?),
        };
        Ok(Self {
            endpoint: Endpoint(Arc::from(target.as_str())),
            timeout: timeout(data.timeout_ms),
            on_missing: data.on_missing,
            asked: Asked::Url(Call { target, secret, headers: data.headers.clone() }),
        })
    }

    /// For logs and metrics.
    fn shown(&self) -> String {
        shown(&self.endpoint)
    }
}

fn timeout(ms: u64) -> Duration {
    Duration::from_millis(ms.clamp(DATA_TIMEOUT_MS_MIN, DATA_TIMEOUT_MS_MAX))
}

/// An endpoint without its query, which may have a token in it.
pub(crate) fn shown(endpoint: &Endpoint) -> String {
    if let Some(at) = endpoint.0.strip_prefix(DATABASE) {
        return at.to_owned();
    }
    endpoint.0.parse::<Target>().map(|target| target.shown()).unwrap_or_default()
}

/// What is posted.
#[derive(Debug, Serialize)]
struct Question<'a> {
    run: &'a str,
    campaign: &'a str,
    batch: String,
    keys: Vec<&'a str>,
}

/// Why there is no answer that can be used.
#[derive(Debug)]
struct Refusal {
    why: String,
    is_passing: bool,
    retry_after: Option<Duration>,
}

impl Refusal {
    fn lasting(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_passing: false, retry_after: None }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { is_passing: failure.is_retryable(), why: failure.to_string(), retry_after: None }
    }
}

/// Fetches for all leases of a worker. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    outgoing: Outgoing,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
}

impl Fetcher {
    pub(crate) fn new(settings: &Settings, clock: Arc<dyn Clock>, metrics: Metrics) -> Result<Self, Failure> {
        Ok(Self { outgoing: Outgoing::new(settings)?, clock, metrics })
    }

    /// Fetches the fields of these recipients, and leaves them with the lease.
    pub(crate) async fn fetch(&self, hold: &Hold, indexes: &[u32]) -> Fetched {
        let Some(Ok(origin)) = &hold.batch.definition.origin else { return Fetched::Done };
        let began_ms = self.clock.boot_ms();
        let asked = self.ask(origin, hold, indexes).await;
        let took = Duration::from_millis(self.clock.boot_ms() - began_ms);
        self.metrics.fetched(&origin.shown(), took, asked.is_ok());
        match asked {
            Ok(found) => {
                hold.batch.give_fields(found);
                Fetched::Done
            }
            Err(Refusal { why, is_passing, retry_after }) => {
                tracing::warn!(batch = %hold.batch.id, endpoint = origin.shown(), error = why, "merge fields were not fetched");
                let retry_after_ms = retry_after.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                Fetched::Failed { is_passing, retry_after_ms, random: self.clock.random() }
            }
        }
    }

    async fn ask(&self, origin: &Origin, hold: &Hold, indexes: &[u32]) -> Result<BTreeMap<u32, Found>, Refusal> {
        let recipients = &hold.batch.recipients;
        let of = |index: &u32| recipients.get(*index as usize).map(|recipient| (*index, recipient.key.as_str()));
        let keys: Vec<(u32, &str)> = indexes.iter().filter_map(of).collect();
        match &origin.asked {
            Asked::Url(call) => self.call(call, origin.timeout, hold, &keys).await,
            #[cfg(feature = "sql")]
            Asked::Database(asking) => asking.ask(origin.timeout, self.outgoing.settings(), &keys).await,
        }
    }

    async fn call(
        &self,
        call: &Call,
        timeout: Duration,
        hold: &Hold,
        keys: &[(u32, &str)],
    ) -> Result<BTreeMap<u32, Found>, Refusal> {
        let question = Question {
            run: hold.batch.run.as_str(),
            campaign: &hold.batch.campaign,
            batch: hold.batch.id.to_string(),
            keys: keys.iter().map(|(_, key)| *key).collect(),
        };
        let body = serde_json::to_vec(&question).map_err(|error| Refusal::lasting(error.to_string()))?;
        let request = self.request(call, timeout, &call_id(&hold.batch.id, &hold.batch.fence), body)?;
        let answer = self.outgoing.send(request).await?;
        let retry_after = answer.retry_after(self.clock.wall_ms());
        match answer.status() {
            200 => {}
            status @ (408 | 425 | 429 | 500..=599) => {
                let why = format!("it answered {status}");
                return Err(Refusal { why, is_passing: true, retry_after });
            }
            status => return Err(Refusal::lasting(format!("it answered {status}, not 200"))),
        }
        let body = answer.whole(DATA_ANSWER_BYTES_MAX).await?;
        read(&body, keys).map_err(Refusal::lasting)
    }

    /// The headers of Standard Webhooks (<https://www.standardwebhooks.com>), if there is a secret.
    fn request(&self, call: &Call, timeout: Duration, id: &str, body: Vec<u8>) -> Result<Request, Refusal> {
        let settings = self.outgoing.settings();
        let body = Bytes::from(body);
        let mut request = Request::post(call.target.clone(), body.clone(), timeout)
            .header("Content-Type", "application/json")
            .header("Accept", "application/json");
        for (name, value) in &call.headers {
            let value = SecretText::given(value, settings);
            let value = value.map_err(|error| Refusal::lasting(format!("data_url.headers.{name}: {error}")))?;
            request.headers.push((name.clone(), value));
        }
        let timestamp = self.clock.wall_ms().div_euclid(1000);
        request = request.header("webhook-id", id).header("webhook-timestamp", timestamp.to_string());
        if let Some(secret) = &call.secret {
            let lasting = |why: String| Refusal::lasting(format!("data_url.secret: {why}"));
            let secret = secret.read(settings).map_err(|error| lasting(error.to_string()))?;
            let signature = sign::sign(&secret, id, timestamp, &body).map_err(lasting)?;
            request = request.header("webhook-signature", signature);
        }
        Ok(request)
    }
}

/// The same for each try under one lease, so that an endpoint can tell a repeat.
fn call_id(batch: &BatchId, fence: &Fence) -> String {
    let hash = Sha256::digest(format!("{batch} {fence}"));
    format!("data_{}", &to_hex(&hash)[..ID_HEX_CHARS])
}
