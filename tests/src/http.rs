//! A look at a master's second port.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

const ANSWER_BOUND: Duration = Duration::from_secs(5);

/// Status and body; none when nobody answers.
pub fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(ANSWER_BOUND)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: master\r\nConnection: close\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
