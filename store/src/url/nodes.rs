//! URLs that name several servers: sentinels, or nodes of a cluster. Pure.

use std::{fmt, str::FromStr};

const SENTINEL_PORT: u16 = 26379;
const SERVER_PORT: u16 = 6379;
/// More than any group of sentinels; keeps a wrong text from becoming a thousand connections.
const NODES_MAX: usize = 64;

/// Where a server is. A host name or an IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub host: String,
    pub port: u16,
}

/// What a server is told at the beginning of a connection. Never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub user: Option<String>,
    pub password: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Group {
    /// Asked for the primary of `service`; `login` is for them, which is often another than the primary's.
    Sentinels {
        service: String,
        login: Login,
    },
    Cluster,
}

/// `redis+sentinel://[user:password@]host:port[,host:port…]/service[?db=N][&sentinel_user=…&sentinel_password=…]`
/// or `redis+cluster://[user:password@]host:port[,host:port…]`; `rediss+…` with TLS to all of them.
#[derive(Clone, PartialEq, Eq)]
pub struct NodesUrl {
    pub group: Group,
    pub tls: bool,
    /// For the servers, not for sentinels.
    pub login: Login,
    /// At least one.
    pub nodes: Vec<Node>,
    /// Of the servers; 0 in a cluster.
    pub db: i64,
}

impl FromStr for NodesUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("it has no ://")?;
        let (tls, is_sentinel) = match scheme {
            "redis+sentinel" => (false, true),
            "rediss+sentinel" => (true, true),
            "redis+cluster" => (false, false),
            "rediss+cluster" => (true, false),
            _ => return Err(format!("{scheme}:// names neither sentinels nor a cluster")),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (login_of(login)?, hosts),
            None => (Login::default(), authority),
        };
        let port = if is_sentinel { SENTINEL_PORT } else { SERVER_PORT };
        let nodes: Vec<Node> = hosts.split(',').map(|host| node_of(host, port)).collect::<Result<_, _>>()?;
        if nodes.len() > NODES_MAX {
            return Err(format!("it names {} servers and may name {NODES_MAX}", nodes.len()));
        }
        let mut url = Self { group: Group::Cluster, tls, login, nodes, db: 0 };
        if is_sentinel {
            url.take_service(path, query)?;
        } else if !matches!(path, "" | "0") || !query.is_empty() {
            return Err("nothing may follow the nodes of a cluster: it has only the database 0".to_owned());
        }
        Ok(url)
    }
}

impl NodesUrl {
    fn take_service(&mut self, path: &str, query: &str) -> Result<(), String> {
        let service = decoded(path)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if service.is_empty() || !service.chars().all(plain) {
            return Err("the name of the service is missing: write …host:port/SERVICE, as in `sentinel monitor \
                        SERVICE …`"
                .to_owned());
        }
        let mut login = Login::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "db" => self.db = value.parse().ok().filter(|db| *db >= 0).ok_or("db must be a whole number")?,
                "sentinel_user" => login.user = Some(decoded(value)?),
                "sentinel_password" => login.password = Some(decoded(value)?),
                _ => return Err("after ? there may be db, sentinel_user and sentinel_password".to_owned()),
            }
        }
        if login.user.is_some() && login.password.is_none() {
            return Err("sentinel_user needs sentinel_password".to_owned());
        }
        self.group = Group::Sentinels { service, login };
        Ok(())
    }
}

fn login_of(text: &str) -> Result<Login, String> {
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(decoded(password)?)),
        None => (text, None),
    };
    let user = Some(decoded(user)?).filter(|user| !user.is_empty());
    if password.is_none() {
        return Err("a user needs a password: write user:password@ or :password@".to_owned());
    }
    Ok(Login { user, password })
}

/// The messages do not repeat the text: what looks like a host may be a part of a password.
fn node_of(text: &str, port: u16) -> Result<Node, String> {
    let bracketed = text.starts_with('[');
    let has_port = text.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
    let node = if has_port { Node::parse(text) } else { Node::parse(&format!("{text}:{port}")) };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c) || (bracketed && ":%".contains(c));
    node.filter(|node| !node.host.is_empty() && node.host.chars().all(plain))
        .ok_or_else(|| "each server must be HOST:PORT, with commas between".to_owned())
}

/// `%40` is `@`: what stands in user and password must not look like the rest of the URL.
fn decoded(text: &str) -> Result<String, String> {
    let wrong = || "user, password and service must be percent-encoded UTF-8".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next()).ok_or_else(wrong)?, digit(rest.next()).ok_or_else(wrong)?);
                u8::try_from(high * 16 + low).map_err(|_| wrong())?
            }
            byte => byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

impl Node {
    /// `host:port`, `[::1]:port`, or `::1:port` as servers write it. The host may be empty.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port > 0)?;
        let bare = host.strip_prefix('[').map_or(Some(host), |host| host.strip_suffix(']'))?;
        Some(Self { host: bare.to_owned(), port })
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.password.is_some() { "Login(…)" } else { "Login()" })
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sentinels { service, .. } => write!(f, "Sentinels({service})"),
            Self::Cluster => f.write_str("Cluster"),
        }
    }
}

impl fmt::Debug for NodesUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodesUrl").field("group", &self.group).field("nodes", &self.nodes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> Node {
        Node { host: host.to_owned(), port }
    }

    fn login(user: &str, password: &str) -> Login {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Login { user: some(user), password: some(password) }
    }

    #[test]
    fn sentinels_are_named_with_their_service() {
        let text = "redis+sentinel://me:p%40ss@10.0.0.1:26380,b,[::1]:1/mail?db=2&sentinel_password=a%3Db";
        let url: NodesUrl = text.parse().unwrap();
        assert_eq!(url.nodes, [node("10.0.0.1", 26380), node("b", 26379), node("::1", 1)]);
        assert_eq!((url.tls, url.db, &url.login), (false, 2, &login("me", "p@ss")));
        let sentinels = Group::Sentinels { service: "mail".to_owned(), login: login("", "a=b") };
        assert_eq!(url.group, sentinels);
        assert!(!format!("{url:?} {:?} {:?}", url.login, url.group).contains("ss"), "{url:?}");
        let url: NodesUrl = "rediss+sentinel://a/s?sentinel_user=u&sentinel_password=p".parse().unwrap();
        assert!(url.tls);
        assert_eq!(url.group, Group::Sentinels { service: "s".to_owned(), login: login("u", "p") });
    }

    #[test]
    fn nodes_of_a_cluster_are_named() {
        let url: NodesUrl = "redis+cluster://:secret@a:7000,b".parse().unwrap();
        assert_eq!((url.group, url.nodes), (Group::Cluster, vec![node("a", 7000), node("b", 6379)]));
        assert_eq!(url.login, login("", "secret"));
        assert!("rediss+cluster://a".parse::<NodesUrl>().unwrap().tls);
    }

    #[test]
    fn each_wrong_url_says_what_is_wrong_and_no_secret() {
        for (text, expected) in [
            ("redis+sentinel://me:secret@a:1", "the name of the service is missing"),
            ("redis+sentinel://a:1/s?secret=1", "after ? there may be"),
            ("redis+sentinel://a:1/s?db=secret", "db must be"),
            ("redis+sentinel://a:1/s?sentinel_user=u", "needs sentinel_password"),
            ("redis+sentinel://me:secret@a:1,,b/s", "each server must be HOST:PORT"),
            ("redis+sentinel://secret@a:1/s", "a user needs a password"),
            ("redis+sentinel://me:sec%zzret@a:1/s", "percent-encoded"),
            ("redis+cluster://me:secret@a:1/2", "nothing may follow"),
            ("redis+cluster://me:secret@a:99999", "each server must be HOST:PORT"),
            ("redis+cluster://", "each server must be HOST:PORT"),
        ] {
            let error = text.parse::<NodesUrl>().unwrap_err();
            assert!(error.contains(expected) && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_of_servers_are_read_as_servers_write_them() {
        assert_eq!(Node::parse("127.0.0.1:7000"), Some(node("127.0.0.1", 7000)));
        assert_eq!(Node::parse("::1:7000"), Some(node("::1", 7000)));
        assert_eq!(Node::parse(":7000"), Some(node("", 7000)));
        assert_eq!(Node::parse("host"), None);
        assert_eq!(node("::1", 7).to_string(), "[::1]:7");
    }
}
