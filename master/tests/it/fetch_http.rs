//! Audiences over HTTP: pages that follow each other, and everything that goes wrong with them.

use crate::harness::{World, campaign};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use postrider_master::fetch::Settings;
use postrider_proto::v1;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// What a feed answers to which path and query, at which time it is asked so.
type Answer = Arc<dyn Fn(&str, u64, &HeaderMap) -> Response + Send + Sync>;

#[derive(Clone)]
struct Feed {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    answer: Answer,
}

impl Feed {
    async fn start(answer: impl Fn(&str, u64, &HeaderMap) -> Response + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let feed = Self { address, asked: Arc::default(), answer: Arc::new(answer) };
        let router = Router::new().fallback(serve).with_state(feed.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        feed
    }

    fn source(&self, path: &str) -> v1::AudienceSource {
        let url = format!("http://{}{path}", self.address);
        let headers = BTreeMap::from([("X-Feed".to_owned(), "people".to_owned())]);
        let http = v1::HttpSource { url, headers: headers.into_iter().collect(), timeout_ms: 0 };
        v1::AudienceSource { http: Some(http), address_field: "email".into(), ..v1::AudienceSource::default() }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(State(feed): State<Feed>, request: Request) -> Response {
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let before = {
        let mut asked = feed.asked.lock().unwrap();
        asked.push(path.clone());
        asked.iter().filter(|other| **other == path).count() as u64 - 1
    };
    (feed.answer)(&path, before, request.headers())
}

fn rows(from: u64, count: u64) -> String {
    (from..from + count).map(|n| format!("{{\"email\":\"p{n:03}@example.com\",\"name\":\"P {n}\"}}\n")).collect()
}

fn page(rows: String, next: Option<&str>) -> Response {
    linked(rows.into_response(), next)
}

fn linked(mut answer: Response, next: Option<&str>) -> Response {
    if let Some(next) = next {
        answer.headers_mut().insert("link", format!("<{next}>; rel=\"next\"").parse().unwrap());
    }
    answer
}

/// Ends in the middle of a row.
fn cut_off(rows: String, next: Option<&str>) -> Response {
    let half = Bytes::from(rows).slice(..150);
    let pieces = futures::stream::iter([Ok(half), Err(std::io::Error::other("cut off"))]);
    linked(Body::from_stream(pieces).into_response(), next)
}

async fn world() -> World {
    let outgoing = postrider_outgoing::Settings { allow: vec!["127.0.0.1/32".parse().unwrap()], ..Default::default() };
    World::with(|config| config.sources = Settings { outgoing, ..Settings::default() }).await
}

async fn begun(world: &World, source: v1::AudienceSource) -> String {
    world.apply(campaign("daily", Some(source))).await;
    world.run("daily", "").await
}

async fn split(world: &World, run: &str) -> Vec<String> {
    world.until(run, "split", |run| run.split_complete).await;
    let mut listed: Vec<String> = world.recipients(run, &[]).await.into_iter().map(|one| one.address).collect();
    listed.sort();
    listed
}

fn people(count: u64) -> Vec<String> {
    (0..count).map(|n| format!("p{n:03}@example.com")).collect()
}

async fn failed(world: &World, run: &str) -> v1::RunError {
    let shown = world.until(run, "failed", |run| run.state() == v1::RunState::Failed).await;
    assert_eq!(shown.recipients.unwrap().total, 0, "nobody is sent to");
    let error = shown.error.unwrap();
    assert!(!error.mend.is_empty() && !error.message.contains("secret"), "{error:?}");
    error
}

async fn resume(world: &World, run: &str) {
    world.admin().resume_run(v1::ResumeRunRequest { run_id: run.into() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_followed_and_one_that_breaks_off_goes_on_where_it_was() {
    let feed = Feed::start(|path, before, headers| {
        assert_eq!(headers["x-feed"], "people");
        match (path, before) {
            ("/people", _) => page(rows(0, 10), Some("/people?after=10")),
            ("/people?after=10", 0) => (StatusCode::TOO_MANY_REQUESTS, [("Retry-After", "1")]).into_response(),
            ("/people?after=10", 1) => cut_off(rows(10, 10), Some("?after=20")),
            ("/people?after=10", _) => page(rows(10, 10), Some("?after=20")),
            ("/people?after=20", _) => page(rows(20, 5), None),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    })
    .await;
    let world = world().await;
    let run = begun(&world, feed.source("/people")).await;
    assert_eq!(split(&world, &run).await, people(25));
    let (second, third) = ("/people?after=10", "/people?after=20");
    assert_eq!(feed.asked(), ["/people", second, second, second, third], "what was read is not asked for again");
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_repeat_for_ever_end_the_run_until_they_are_mended() {
    let is_mended = Arc::new(AtomicU64::new(0));
    let mended = Arc::clone(&is_mended);
    let feed = Feed::start(move |path, _, _| match path {
        _ if mended.load(Ordering::SeqCst) == 1 => page(rows(0, 3), None),
        "/itself" => page(rows(0, 3), Some("/itself")),
        "/circle" => page(rows(0, 3), Some("/circle?after=3")),
        "/circle?after=3" => page(rows(3, 3), Some("/circle")),
        "/empty?after=0" => page(String::new(), Some("/empty?after=1")),
        other => {
            let after: u64 = other.rsplit('=').next().and_then(|n| n.parse().ok()).unwrap_or(0);
            let some = if other.starts_with("/empty") { String::new() } else { rows(0, 3) };
            page(some, Some(&format!("?after={}", after + 1)))
        }
    })
    .await;
    for (path, part) in [
        ("/itself", "was there before"),
        ("/circle", "was there before"),
        ("/same?after=0", "is the same as the one before"),
        ("/empty?after=0", "a hundred in a row without a row"),
    ] {
        is_mended.store(0, Ordering::SeqCst);
        let world = world().await;
        let run = begun(&world, feed.source(path)).await;
        let error = failed(&world, &run).await;
        assert_eq!(error.code, "source_page_repeats");
        assert!(error.message.contains(part), "{path}: {error:?}");
        is_mended.store(1, Ordering::SeqCst);
        resume(&world, &run).await;
        assert_eq!(split(&world, &run).await, people(3), "{path}");
        world.master.stop().await;
    }
}

/// The second page belongs to another state of the feed than the first: none of it is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_changes_while_it_is_read_is_read_again() {
    let feed = Feed::start(|path, before, headers| {
        let is_compared = headers.get("if-none-match").is_some();
        let tagged = |tag: &str, mut answer: Response| {
            answer.headers_mut().insert("etag", format!("\"{tag}\"").parse().unwrap());
            answer
        };
        match (path, before, is_compared) {
            ("/people", 0, false) => tagged("old", page(rows(100, 3), Some("?after=3"))),
            ("/people", _, true) if headers["if-none-match"] == "\"new\"" => StatusCode::NOT_MODIFIED.into_response(),
            ("/people", ..) => tagged("new", page(rows(0, 3), Some("?after=3"))),
            _ => page(rows(3, 3), None),
        }
    })
    .await;
    let world = world().await;
    let run = begun(&world, feed.source("/people")).await;
    assert_eq!(split(&world, &run).await, people(6));
    assert_eq!(feed.asked().len(), 6, "two pages and a look at the first, twice");
    world.master.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_feed_fails_at_once_and_says_why() {
    let feed = Feed::start(|path, _, _| match path {
        "/list" => page("[{\"email\":\"a@example.com\"}]\n".into(), None),
        "/html" => page("<html>log in</html>\n".into(), None),
        "/elsewhere" => page(rows(0, 3), Some("http://127.0.0.1:1/")),
        "/scheme" => page(rows(0, 3), Some("ftp://127.0.0.1/")),
        "/denied?token=secret" => StatusCode::FORBIDDEN.into_response(),
        "/away" => (StatusCode::SERVICE_UNAVAILABLE, [("Retry-After", "86400")]).into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    })
    .await;
    for (path, code, part) in [
        ("/list", "source_format", "a JSON list"),
        ("/html", "source_format", "HTML"),
        ("/elsewhere", "source_link", "another scheme, host or port"),
        ("/scheme", "source_link", "ftp:// is refused"),
        ("/denied?token=secret", "source_refused", "it answered 403"),
        ("/gone", "source_refused", "it answered 404"),
        ("/away", "source_unreachable", "it answered 503"),
    ] {
        let world = world().await;
        let run = begun(&world, feed.source(path)).await;
        let error = failed(&world, &run).await;
        assert_eq!(error.code, code, "{path}: {error:?}");
        assert!(error.message.contains(part), "{path}: {error:?}");
        world.master.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_not_public_is_not_asked_unless_it_is_allowed() {
    let feed = Feed::start(|_, _, _| page(rows(0, 3), None)).await;
    let world = World::new().await;
    let error = failed(&world, &begun(&world, feed.source("/people")).await).await;
    assert_eq!(error.code, "source_refused");
    assert!(error.message.contains("loopback") && error.message.contains("[outgoing] allow"), "{error:?}");
    assert_eq!(feed.asked(), Vec::<String>::new());
    world.master.stop().await;
}

/// Fifty gigabytes are on offer; what is taken is what the limit lets in, and a few pieces under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_end_is_stopped_by_the_limit() {
    const OFFERED: u64 = 50 * 1024 * 1024 * 1024;
    const LIMIT: u64 = 4 * 1024 * 1024;
    let given = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&given);
    let feed = Feed::start(move |_, _, _| {
        let count = Arc::clone(&count);
        let pieces = futures::stream::unfold(0_u64, move |n| {
            let count = Arc::clone(&count);
            async move {
                // Hardly compressible, so that the limit of stored bytes is met.
                let line =
                    |m: u64| format!("{{\"email\":\"p{:016x}@example.com\"}}\n", m.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let piece: String = (n * 1000..(n + 1) * 1000).map(line).collect();
                let sent = count.fetch_add(piece.len() as u64, Ordering::SeqCst);
                (sent < OFFERED).then(|| (Ok::<_, std::io::Error>(Bytes::from(piece)), n + 1))
            }
        });
        Body::from_stream(pieces).into_response()
    })
    .await;
    let outgoing = postrider_outgoing::Settings { allow: vec!["127.0.0.1/32".parse().unwrap()], ..Default::default() };
    let change = |config: &mut postrider_master::MasterConfig| {
        config.sources = Settings { outgoing, ..Settings::default() };
        config.audience_bytes_max = LIMIT;
    };
    let world = World::with(change).await;
    let error = failed(&world, &begun(&world, feed.source("/people")).await).await;
    assert_eq!(error.code, "audience_too_large");
    let given = given.load(Ordering::SeqCst);
    assert!(given < 16 * LIMIT, "{given} bytes were taken");
    assert_eq!(std::fs::read_dir(world.storage.path().join("uploads")).into_iter().flatten().count(), 0);
    world.master.stop().await;
}
