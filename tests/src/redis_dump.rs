//! Everything that a Redis holds, as bytes: what a thief of its memory would read.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const REPLY_BOUND: Duration = Duration::from_secs(20);

/// One key with its type, and every text in it.
#[derive(Debug)]
pub struct Dumped {
    pub key: String,
    pub texts: Vec<Vec<u8>>,
}

/// # Panics
/// When the server does not answer.
pub fn dump(socket: &Path) -> Vec<Dumped> {
    let mut line = Line::connect(socket);
    let keys = line.ask(&[b"KEYS", b"*"]);
    let dumped = |key: Vec<u8>| {
        let kind = line.ask(&[b"TYPE", &key]).remove(0);
        let texts = match kind.as_slice() {
            b"string" => line.ask(&[b"GET", &key]),
            b"hash" => line.ask(&[b"HGETALL", &key]),
            b"list" => line.ask(&[b"LRANGE", &key, b"0", b"-1"]),
            b"set" => line.ask(&[b"SMEMBERS", &key]),
            b"zset" => line.ask(&[b"ZRANGE", &key, b"0", b"-1", b"WITHSCORES"]),
            // It expired in between.
            b"none" => Vec::new(),
            other => panic!("a key of type {}", String::from_utf8_lossy(other)),
        };
        Dumped { key: String::from_utf8_lossy(&key).into_owned(), texts }
    };
    keys.into_iter().map(dumped).collect()
}

struct Line(BufReader<UnixStream>);

impl Line {
    fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("redis can be reached");
        stream.set_read_timeout(Some(REPLY_BOUND)).expect("a timeout");
        Self(BufReader::new(stream))
    }

    /// All texts of the answer, one after the other.
    fn ask(&mut self, words: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut command = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            command.extend(format!("${}\r\n", word.len()).into_bytes());
            command.extend(*word);
            command.extend(b"\r\n");
        }
        self.0.get_mut().write_all(&command).expect("redis takes a command");
        let mut texts = Vec::new();
        self.answer(&mut texts);
        texts
    }

    fn answer(&mut self, texts: &mut Vec<Vec<u8>>) {
        let mut head = String::new();
        self.0.read_line(&mut head).expect("redis answers");
        let (kind, rest) = head.trim_end().split_at(1);
        let number = || rest.parse::<i64>().unwrap_or_else(|e| panic!("{head}: {e}"));
        match kind {
            "+" | ":" => texts.push(rest.as_bytes().to_vec()),
            "$" => {
                let Ok(length) = usize::try_from(number()) else { return };
                let mut text = vec![0; length + 2];
                self.0.read_exact(&mut text).expect("redis answers whole");
                text.truncate(length);
                texts.push(text);
            }
            "*" => (0..number()).for_each(|_| self.answer(texts)),
            _ => panic!("redis answered {head}"),
        }
    }
}
