//! The forms of URLs that a configuration names: masters and relays. Pure.

use std::net::IpAddr;

/// When a relay's URL names none.
const SMTP_PORT: u16 = 25;
/// RFC 8314 7.3.
const SMTPS_PORT: u16 = 465;

/// A host or domain name: letters of any script, digits, `-`, `_` and dots.
pub fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        let plain = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len()) && label.chars().all(plain) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// `http://host:port`, nothing more.
pub fn check_master(url: &str) -> Result<(), String> {
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(match url.split_once("://") {
            Some(("https", _)) => {
                "https:// is refused: TLS is not part of this version; use http:// on a network you trust".to_owned()
            }
            _ => format!("'{url}' is not a master: write http://HOST:PORT"),
        });
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let known = authority.bytes().all(|c| c.is_ascii_alphanumeric() || b".-_:[]".contains(&c));
    if authority.is_empty() || !known {
        return Err(format!("'http://{}' is not a master: write http://HOST:PORT", shown(rest)));
    }
    let port = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map(|(_, port)| port);
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(format!("'{url}' is not a master: its port is not a number up to 65535"));
    }
    Ok(())
}

/// Without what comes before an `@`: it may be a password.
fn shown(rest: &str) -> String {
    rest.rsplit_once('@').map_or(rest.to_owned(), |(_, place)| format!("…@{place}"))
}

/// Where a relay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub host: String,
    pub port: u16,
    /// TLS from the first byte on.
    pub is_tls: bool,
}

/// `smtp://host[:port]` or `smtps://host[:port]`.
pub fn parse_relay(url: &str) -> Result<Place, String> {
    let usage = "write smtp://HOST:PORT, or smtps://HOST:PORT for TLS from the first byte on";
    let (rest, is_tls) = match url.split_once("://") {
        Some(("smtp", rest)) => (rest, false),
        Some(("smtps", rest)) => (rest, true),
        Some((scheme, _)) => return Err(format!("{scheme}:// is not a relay: {usage}")),
        None => return Err(format!("it is not a URL: {usage}")),
    };
    if rest.contains('@') {
        return Err("a user or a password in the URL is refused, since it would be shown: write username = and \
                    password = \"env:NAME\" beside it"
            .to_owned());
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        None if is_tls => SMTPS_PORT,
        None => SMTP_PORT,
        Some(text) => text.parse().map_err(|_| format!("'{text}' is not a port: {usage}"))?,
    };
    if !(is_domain(host) || host.parse::<IpAddr>().is_ok()) || port == 0 {
        return Err(format!("'{host}' is not a host: {usage}"));
    }
    Ok(Place { host: host.to_owned(), port, is_tls })
}
