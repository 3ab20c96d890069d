//! What a worker counts, for `[worker] http_listen`. Metrics of sending are the masters'.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Endpoints with a series of their own; the others are counted together.
const ENDPOINTS_MAX: usize = 100;
const OTHERS: &str = "other";
/// Seconds: from a cache near by to the longest time that a call may take.
const BUCKETS: [f64; 10] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0, 60.0];
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfEndpoint {
    endpoint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCall {
    endpoint: String,
    outcome: &'static str,
}

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Metrics(Arc<Series>);

#[derive(Debug)]
struct Series {
    registry: Registry,
    endpoints: Mutex<BTreeSet<String>>,
    calls: Family<OfCall, Counter>,
    latency: Family<OfEndpoint, Histogram, fn() -> Histogram>,
    open: Family<OfEndpoint, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("postrider_worker");
        let calls = Family::default();
        registry.register("data_calls", "Calls of data_url and data_sql by how they ended", calls.clone());
        let latency = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        registry.register("data_call_seconds", "How long calls of data_url and data_sql took", latency.clone());
        let open = Family::default();
        registry.register("data_breaker_open", "1 while an endpoint is only probed", open.clone());
        Self(Arc::new(Series { registry, endpoints: Mutex::default(), calls, latency, open }))
    }
}

impl Metrics {
    /// The label of an endpoint: its URL without the query.
    fn label(&self, endpoint: &str) -> String {
        let mut known = self.0.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(endpoint) {
            if known.len() >= ENDPOINTS_MAX {
                return OTHERS.to_owned();
            }
            known.insert(endpoint.to_owned());
        }
        endpoint.to_owned()
    }

    pub(crate) fn fetched(&self, endpoint: &str, took: Duration, is_good: bool) {
        let endpoint = self.label(endpoint);
        let outcome = if is_good { "answered" } else { "failed" };
        self.0.latency.get_or_create(&OfEndpoint { endpoint: endpoint.clone() }).observe(took.as_secs_f64());
        self.0.calls.get_or_create(&OfCall { endpoint, outcome }).inc();
    }

    pub(crate) fn breaker(&self, endpoint: &str, is_open: bool) {
        let endpoint = self.label(endpoint);
        self.0.open.get_or_create(&OfEndpoint { endpoint }).set(i64::from(is_open));
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }

    /// `/healthz` and `/metrics`.
    pub(crate) fn router(&self) -> Router {
        let metrics = self.clone();
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/metrics", get(move || async move { answer(metrics.text()) }))
    }
}

fn answer(text: Result<String, std::fmt::Error>) -> Response {
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_beyond_the_bound_are_counted_together() {
        let metrics = Metrics::default();
        for n in 0..ENDPOINTS_MAX + 5 {
            metrics.fetched(&format!("http://e{n}.example/"), Duration::from_millis(30), n % 2 == 0);
        }
        metrics.breaker("http://e1.example/", true);
        let text = metrics.text().unwrap();
        let has = |line: &str| assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
        has("postrider_worker_data_calls_total{endpoint=\"http://e1.example/\",outcome=\"failed\"} 1");
        has("postrider_worker_data_calls_total{endpoint=\"http://e2.example/\",outcome=\"answered\"} 1");
        has("postrider_worker_data_call_seconds_count{endpoint=\"other\"} 5");
        has("postrider_worker_data_breaker_open{endpoint=\"http://e1.example/\"} 1");
    }
}
