//! Records what a store sends to its server, and puts a server back into a state it was in.

use super::redis_server::Server;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

const ANSWER_MAX: Duration = Duration::from_secs(10);

pub type Words = Vec<Vec<u8>>;

/// A connection in MONITOR.
pub struct Recorder {
    lines: std::io::Split<BufReader<UnixStream>>,
    marks: u32,
}

impl Recorder {
    pub fn start(server: &Server) -> Self {
        let url = server.url();
        let mut stream = UnixStream::connect(url.trim_start_matches("unix://")).unwrap();
        stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
        stream.write_all(b"MONITOR\r\n").unwrap();
        let mut lines = BufReader::new(stream).split(b'\n');
        assert_eq!(lines.next().unwrap().unwrap(), b"+OK\r");
        Self { lines, marks: 0 }
    }

    /// Commands of clients (not of scripts) since the last call.
    pub fn take(&mut self, server: &Server) -> Vec<Words> {
        self.marks += 1;
        let mark = format!("mark-{}", self.marks).into_bytes();
        server.command::<Vec<u8>>(&["ECHO", std::str::from_utf8(&mark).unwrap()]);
        let mut commands = Vec::new();
        loop {
            let line = self.lines.next().unwrap().unwrap();
            let Some(words) = words(&line) else { continue };
            if words.get(1) == Some(&mark) {
                return commands;
            }
            commands.push(words);
        }
    }
}

/// `+1700000000.000001 [0 unix:/s] "SET" "key" "a\x00b"`; None: a script's call.
fn words(line: &[u8]) -> Option<Words> {
    let head = line.iter().position(|byte| *byte == b']')?;
    if line[..head].ends_with(b" lua") {
        return None;
    }
    let mut words = Vec::new();
    let mut bytes = line[head + 1..].iter().copied();
    while bytes.by_ref().any(|byte| byte == b'"') {
        let mut word = Vec::new();
        loop {
            match bytes.next()? {
                b'"' => break,
                b'\\' => word.push(match bytes.next()? {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'a' => 7,
                    b'b' => 8,
                    b'x' => {
                        let digits = [bytes.next()?, bytes.next()?];
                        u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
                    }
                    other => other,
                }),
                byte => word.push(byte),
            }
        }
        words.push(word);
    }
    Some(words)
}

/// The names of the scripts that were loaded, which are those of their files in `lua/`, by the name they are called by.
pub fn scripts_loaded(commands: &[Words]) -> BTreeMap<Vec<u8>, String> {
    let mut names = BTreeMap::new();
    for words in commands.iter().filter(|words| words[0] == b"FUNCTION") {
        let source = std::str::from_utf8(&words[2]).unwrap();
        let called = source.split("function_name = '").skip(1).map(|rest| rest.split('\'').next().unwrap());
        for name in called {
            let file = name.strip_prefix("postrider_").unwrap().rsplit_once('_').unwrap().0;
            names.insert(name.as_bytes().to_vec(), file.to_owned());
        }
    }
    names
}

pub fn run(connection: &mut redis::Connection, words: &[Vec<u8>]) -> redis::RedisResult<redis::Value> {
    let mut command = redis::Cmd::new();
    command.arg(words);
    command.query(connection)
}

/// Everything a server holds.
pub struct State(Vec<(Vec<u8>, Vec<u8>)>);

impl State {
    pub fn of(connection: &mut redis::Connection) -> Self {
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(connection).unwrap();
        if keys.is_empty() {
            return Self(Vec::new());
        }
        let mut pipe = redis::pipe();
        for key in &keys {
            pipe.cmd("DUMP").arg(key);
        }
        let dumps: Vec<Vec<u8>> = pipe.query(connection).unwrap();
        Self(keys.into_iter().zip(dumps).collect())
    }

    pub fn restore(&self, connection: &mut redis::Connection) {
        self.restoring().query::<()>(connection).unwrap();
    }

    fn restoring(&self) -> redis::Pipeline {
        let mut pipe = redis::pipe();
        pipe.cmd("FLUSHALL").ignore();
        for (key, bytes) in &self.0 {
            pipe.cmd("RESTORE").arg(key).arg(0).arg(bytes).ignore();
        }
        pipe
    }

    /// Restores, harms, calls. An error of the call, and whether it changed anything.
    pub fn call_harmed(
        &self,
        connection: &mut redis::Connection,
        harm: &[Words],
        call: &Words,
    ) -> (Option<String>, bool) {
        let mut pipe = self.restoring();
        for words in harm {
            let mut command = redis::Cmd::new();
            pipe.add_command(command.arg(words).clone()).ignore();
        }
        pipe.ignore_errors().cmd("DEBUG").arg("DIGEST");
        let mut command = redis::Cmd::new();
        pipe.add_command(command.arg(call).clone());
        pipe.cmd("DEBUG").arg("DIGEST");
        let mut answers: Vec<redis::Value> = pipe.query(connection).unwrap();
        let last = answers.split_off(answers.len() - 3);
        let error = match &last[1] {
            redis::Value::ServerError(error) => Some(format!("{error:?}")),
            redis::Value::Array(values) => refused(values),
            _ => None,
        };
        (error, last[0] != last[2])
    }
}

/// The usual way of a report that is not usual: position, and nothing but `more`.
fn refused(values: &[redis::Value]) -> Option<String> {
    let more = redis::Value::BulkString(b"more".to_vec());
    (values.len() == 3 && values[2] == more).then(|| "more".to_owned())
}

pub fn digest(connection: &mut redis::Connection) -> String {
    redis::cmd("DEBUG").arg("DIGEST").query(connection).unwrap()
}
