//! The client: one request, its redirects, and an answer of bounded size.

use crate::guard::{Checked, Guard, Refused};
use crate::secret::SecretText;
use crate::target::{InvalidTarget, Target};
use crate::{CONNECT_TIMEOUT, IDLE_TIMEOUT, REDIRECTS_MAX, Settings};
use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

const USER_AGENT: &str = concat!("postrider/", env!("CARGO_PKG_VERSION"));
/// Connections to one host that are kept for the next request.
const IDLE_CONNECTIONS_MAX: usize = 8;

/// Why there is no answer, or no end of it. An answer of whatever status is none of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("{0}")]
    Target(#[from] InvalidTarget),
    #[error("the answer leads to a URL that is not followed: {0}")]
    Redirect(String),
    #[error("the header '{0}' cannot be sent: its name or its value has characters that no header has")]
    Header(String),
    #[error("no answer came in time")]
    Timeout,
    #[error("the connection failed: {0}")]
    Connection(String),
    #[error("the answer has more than {max} bytes")]
    TooLarge { max: u64 },
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
}

impl Failure {
    /// The same again may go well.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Timeout | Self::Connection(_) => true,
            Self::Refused(_)
            | Self::Target(_)
            | Self::Redirect(_)
            | Self::Header(_)
            | Self::TooLarge { .. }
            | Self::Client(_) => false,
        }
    }

    /// Without the URL, which may have a token in its query.
    fn of(error: reqwest::Error) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            if let Some(refused) = error.downcast_ref::<Refused>() {
                return Self::Refused(refused.clone());
            }
            cause = error.source();
        }
        if error.is_timeout() {
            return Self::Timeout;
        }
        let error = error.without_url();
        let mut deepest: &(dyn Error + 'static) = &error;
        while let Some(source) = deepest.source() {
            deepest = source;
        }
        Self::Connection(deepest.to_string())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
}

/// One thing to ask.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    pub target: Target,
    pub headers: Vec<(String, SecretText)>,
    /// Stay with the first origin: they are not sent on to where another one leads.
    pub body: Bytes,
    /// From now to the last byte of the answer.
    pub timeout: Duration,
    /// At most `REDIRECTS_MAX`. What is posted is not posted elsewhere: 0 for that.
    pub redirects_max: u32,
}

impl Request {
    pub fn get(target: Target, timeout: Duration) -> Self {
        let (headers, body) = (Vec::new(), Bytes::new());
        Self { method: Method::Get, target, headers, body, timeout, redirects_max: REDIRECTS_MAX }
    }

    pub fn post(target: Target, body: Bytes, timeout: Duration) -> Self {
        Self { method: Method::Post, target, headers: Vec::new(), body, timeout, redirects_max: 0 }
    }

    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), SecretText::plain(value)));
        self
    }

    fn header_map(&self) -> Result<HeaderMap, Failure> {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            let wrong = || Failure::Header(name.escape_debug().take(80).collect());
            let mut value = HeaderValue::from_str(value.reveal()).map_err(|_| wrong())?;
            value.set_sensitive(true);
            map.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?, value);
        }
        Ok(map)
    }
}

/// Asks on behalf of others, within what the configuration allows. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outgoing {
    client: reqwest::Client,
    guard: Arc<Guard>,
    settings: Arc<Settings>,
}

impl Outgoing {
    pub fn new(settings: &Settings) -> Result<Self, Failure> {
        let guard = Arc::new(Guard::new(&settings.allow));
        let client = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .dns_resolver(Checked(Arc::clone(&guard)))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build()
            .map_err(|error| Failure::Client(error.to_string()))?;
        Ok(Self { client, guard, settings: Arc::new(settings.clone()) })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The head of the answer, after redirects; its body is read from it.
    pub async fn send(&self, request: Request) -> Result<Response, Failure> {
        let deadline = tokio::time::Instant::now() + request.timeout;
        let mut headers = request.header_map()?;
        let mut target = request.target.clone();
        for hop in 0..=request.redirects_max.min(REDIRECTS_MAX) {
            // An address in a URL is not resolved, so it is checked here.
            if let Some(address) = target.literal() {
                self.guard.check(&target.host(), address)?;
            }
            let method = match request.method {
                Method::Get => reqwest::Method::GET,
                Method::Post => reqwest::Method::POST,
            };
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            let call = self.client.request(method, target.url()).headers(headers.clone());
            let answer = call.body(request.body.clone()).timeout(left).send().await.map_err(Failure::of)?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Response { answer, target, bytes: 0 });
            }
            if hop == request.redirects_max.min(REDIRECTS_MAX) {
                let why = match request.redirects_max {
                    0 => "give the URL that it leads to".to_owned(),
                    max => format!("more than {max} redirects"),
                };
                return Err(Failure::Redirect(why));
            }
            let next = next_target(&target, answer.headers())?;
            if !next.has_same_origin(&target) {
                headers.clear();
            }
            target = next;
        }
        Err(Failure::Redirect("too many redirects".to_owned()))
    }
}

fn next_target(target: &Target, headers: &HeaderMap) -> Result<Target, Failure> {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| Failure::Redirect("it has no Location".to_owned()))?;
    let next = target.join(location).map_err(|error| Failure::Redirect(error.to_string()))?;
    if target.is_https() && !next.is_https() {
        return Err(Failure::Redirect("it leads from https:// to http://".to_owned()));
    }
    Ok(next)
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Response {
    answer: reqwest::Response,
    target: Target,
    bytes: u64,
}

impl Response {
    pub fn status(&self) -> u16 {
        self.answer.status().as_u16()
    }

    /// The value of a header, if it is there and text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.answer.headers().get(name)?.to_str().ok()
    }

    /// Each value of a header that may come more than once.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.answer.headers().get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    /// Where it came from, after redirects.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The next piece, decompressed. Errors: more than `max` bytes in all.
    pub async fn chunk(&mut self, max: u64) -> Result<Option<Bytes>, Failure> {
        let piece = self.answer.chunk().await.map_err(Failure::of)?;
        if let Some(piece) = &piece {
            self.bytes += piece.len() as u64;
            if self.bytes > max {
                return Err(Failure::TooLarge { max });
            }
        }
        Ok(piece)
    }

    /// All of it. Errors: more than `max` bytes.
    pub async fn whole(mut self, max: u64) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(piece) = self.chunk(max).await? {
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// How long the server wants to be left alone: RFC 9110 10.2.3.
    pub fn retry_after(&self, wall_ms: i64) -> Option<Duration> {
        retry_after(self.header(RETRY_AFTER.as_str())?, wall_ms)
    }
}

/// `Retry-After`, in seconds or as a date; `wall_ms` is now, in milliseconds since 1970.
pub fn retry_after(text: &str, wall_ms: i64) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at_ms = chrono::DateTime::parse_from_rfc2822(text).ok()?.timestamp_millis();
    Some(Duration::from_millis(u64::try_from(at_ms.saturating_sub(wall_ms)).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = 784_111_767_000;
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(10)));
        let later = now + 100_000;
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", later), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }
}
