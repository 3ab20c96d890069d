//! The client against a real server on loopback: what it fetches, and each thing that it refuses.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use postrider_outgoing::{Failure, Outgoing, Request, Settings, Target};
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);
const MAX: u64 = 1024 * 1024;

/// What a server was asked: path and headers.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<(String, HeaderMap)>>>);

impl Asked {
    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn last(&self) -> (String, HeaderMap) {
        self.0.lock().unwrap().last().cloned().expect("it was asked")
    }
}

struct Server {
    address: SocketAddr,
    asked: Asked,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Asked::default());
        let router = Router::new().fallback(answer).with_state(asked.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, asked }
    }

    fn url(&self, path: &str) -> Target {
        format!("http://{}{path}", self.address).parse().unwrap()
    }
}

/// `/to?URL` redirects there, `/again` to itself; the others say by their name what they do.
async fn answer(State(asked): State<Asked>, uri: Uri, headers: HeaderMap) -> Response {
    asked.0.lock().unwrap().push((uri.path().to_owned(), headers));
    match uri.path() {
        "/hello" => "hello".into_response(),
        "/to" => (StatusCode::FOUND, [(header::LOCATION, uri.query().unwrap_or_default().to_owned())]).into_response(),
        "/again" => (StatusCode::FOUND, [(header::LOCATION, "/again")]).into_response(),
        "/nowhere" => StatusCode::FOUND.into_response(),
        "/bomb" => ([(header::CONTENT_ENCODING, "gzip")], zeros(64 * 1024 * 1024)).into_response(),
        "/packed" => ([(header::CONTENT_ENCODING, "gzip")], zeros(1000)).into_response(),
        "/endless" => {
            let pieces = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 64 * 1024])));
            Body::from_stream(pieces).into_response()
        }
        "/silent" => std::future::pending().await,
        "/half" => {
            let first = futures::stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"half")) });
            Body::from_stream(futures::StreamExt::chain(first, futures::stream::pending())).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn zeros(bytes: usize) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&vec![0; bytes]).unwrap();
    packed.finish().unwrap()
}

fn allowing(networks: &[&str]) -> Outgoing {
    let allow = networks.iter().map(|network| network.parse().unwrap()).collect();
    Outgoing::new(&Settings { allow, ..Settings::default() }).unwrap()
}

fn loopback() -> Outgoing {
    allowing(&["127.0.0.1/32"])
}

async fn failure(outgoing: &Outgoing, request: Request) -> Failure {
    match outgoing.send(request).await {
        Ok(answer) => answer.whole(MAX).await.expect_err("it is refused"),
        Err(failure) => failure,
    }
}

#[tokio::test]
async fn what_is_allowed_is_fetched() {
    let server = Server::start().await;
    let request = Request::get(server.url("/hello"), LONG).header("X-Feed", "people");
    let answer = loopback().send(request).await.unwrap();
    assert_eq!((answer.status(), answer.target().clone()), (200, server.url("/hello")));
    assert_eq!(answer.whole(MAX).await.unwrap(), b"hello");
    let (_, headers) = server.asked.last();
    assert_eq!(headers["x-feed"], "people");
    assert!(headers["user-agent"].to_str().unwrap().starts_with("postrider/"));
    let packed = loopback().send(Request::get(server.url("/packed"), LONG)).await.unwrap();
    assert_eq!(packed.whole(MAX).await.unwrap(), vec![0; 1000], "it is unpacked");
}

#[tokio::test]
async fn an_address_that_is_not_public_is_refused_before_a_connection() {
    let server = Server::start().await;
    let port = server.address.port();
    for host in ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"] {
        let target: Target = format!("http://{host}:{port}/hello?token=secret").parse().unwrap();
        let why = failure(&allowing(&[]), Request::get(target, LONG)).await;
        assert!(matches!(why, Failure::Refused(_)), "{host}: {why:?}");
        assert!(!why.is_retryable() && !why.to_string().contains("secret"), "{host}: {why}");
    }
    assert_eq!(server.asked.count(), 0);
}

#[tokio::test]
async fn a_name_is_connected_to_where_its_allowed_address_is() {
    let server = Server::start().await;
    let target: Target = format!("http://localhost:{}/hello", server.address.port()).parse().unwrap();
    let answer = loopback().send(Request::get(target, LONG)).await.unwrap();
    assert_eq!(answer.whole(MAX).await.unwrap(), b"hello");
}

#[tokio::test]
async fn redirects_are_followed_and_each_is_checked() {
    let server = Server::start().await;
    let to = |location: &str| Request::get(server.url(&format!("/to?{location}")), LONG);
    let answer = loopback().send(to("/hello")).await.unwrap();
    assert_eq!(answer.target().clone(), server.url("/hello"));
    assert_eq!(answer.whole(MAX).await.unwrap(), b"hello");
    let port = server.address.port();
    let before = server.asked.count();
    for location in [format!("http://127.0.0.2:{port}/hello"), "http://169.254.169.254/latest/".to_owned()] {
        let why = failure(&loopback(), to(&location)).await;
        assert!(matches!(why, Failure::Refused(_)), "{location}: {why:?}");
    }
    assert_eq!(server.asked.count(), before + 2, "only the redirects themselves were asked for");
    for (location, part) in [
        ("file:///etc/passwd", "file:// is refused"),
        ("http://user:password@127.0.0.1/", "a user or a password"),
        ("/again", "more than 5 redirects"),
    ] {
        let why = failure(&loopback(), to(location)).await.to_string();
        assert!(why.contains(part), "{location}: {why}");
    }
    let why = failure(&loopback(), Request::get(server.url("/nowhere"), LONG)).await;
    assert!(why.to_string().contains("no Location"), "{why}");
}

#[tokio::test]
async fn headers_do_not_go_along_to_another_origin() {
    let (first, second) = (Server::start().await, Server::start().await);
    let secret = |request: Request| request.header("Authorization", "Bearer secret");
    let here = secret(Request::get(first.url("/to?/hello"), LONG));
    loopback().send(here).await.unwrap();
    assert_eq!(first.asked.last().1["authorization"], "Bearer secret", "the same origin gets them again");
    let there = secret(Request::get(first.url(&format!("/to?{}", second.url("/hello").as_str())), LONG));
    let answer = loopback().send(there).await.unwrap();
    assert_eq!(answer.whole(MAX).await.unwrap(), b"hello");
    assert_eq!(second.asked.last().1.get("authorization"), None);
}

#[tokio::test]
async fn what_is_posted_is_not_posted_elsewhere() {
    let server = Server::start().await;
    let post = Request::post(server.url("/to?/hello"), Bytes::from_static(b"{}"), LONG);
    let why = failure(&loopback(), post).await;
    assert!(matches!(&why, Failure::Redirect(mend) if mend.contains("give the URL")), "{why:?}");
    assert_eq!(server.asked.count(), 1);
}

#[tokio::test]
async fn an_answer_is_bounded_after_it_was_unpacked() {
    let server = Server::start().await;
    for path in ["/bomb", "/endless"] {
        let why = failure(&loopback(), Request::get(server.url(path), LONG)).await;
        assert_eq!(why, Failure::TooLarge { max: MAX }, "{path}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_or_does_not_end_is_given_up() {
    let server = Server::start().await;
    for path in ["/silent", "/half"] {
        let why = failure(&loopback(), Request::get(server.url(path), Duration::from_millis(200))).await;
        assert_eq!((why.clone(), why.is_retryable()), (Failure::Timeout, true), "{path}");
    }
}

#[tokio::test]
async fn nobody_at_the_port_is_told_without_the_query() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let target: Target = format!("http://{address}/feed?token=secret").parse().unwrap();
    let why = failure(&loopback(), Request::get(target, LONG)).await;
    assert!(matches!(why, Failure::Connection(_)) && why.is_retryable(), "{why:?}");
    assert!(!why.to_string().contains("secret"), "{why}");
}

#[tokio::test]
async fn a_header_that_breaks_the_line_is_refused() {
    let server = Server::start().await;
    for (name, value) in [("X-A", "secret\r\nX-B: 1"), ("X A", "1")] {
        let why = failure(&loopback(), Request::get(server.url("/hello"), LONG).header(name, value)).await;
        assert!(matches!(why, Failure::Header(_)) && !why.to_string().contains("secret"), "{why:?}");
    }
    assert_eq!(server.asked.count(), 0);
}
