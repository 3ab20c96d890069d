//! The sink's own account of what it was asked to take, one line per final dot, written before the reply.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What the sink did with a message whose final dot it read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// 2xx was, or was about to be, written.
    Accept,
    Reject,
    Defer,
    /// The message was taken and the connection closed without a reply (RFC 1047).
    Lost,
}

impl Decision {
    /// The message is in the receiver's hands.
    pub fn is_a_copy(self) -> bool {
        match self {
            Self::Accept | Self::Lost => true,
            Self::Reject | Self::Defer => false,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    /// Milliseconds since 1970-01-01T00:00:00Z at the decision.
    pub at_ms: i64,
    pub connection: u64,
    /// The most connections that the sink had open at once until then.
    pub connections_most: u64,
    pub peer: String,
    pub rcpt_to: String,
    pub message_id: String,
    #[serde(default)]
    pub subject: String,
    pub decision: Decision,
}

impl Line {
    pub fn peer_ip(&self) -> &str {
        self.peer.rsplit_once(':').map_or(self.peer.as_str(), |(ip, _)| ip)
    }
}

/// Every complete line of the file; a line that is still being written is left for the next look.
///
/// # Panics
/// When a complete line is not what the sink promises: a judge must not guess.
pub fn read(path: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    complete.lines().filter(|line| !line.is_empty()).filter_map(final_dot).collect()
}

/// Addresses of messages that the sink took and of which the client certainly did not read the reply.
pub fn unread(path: &Path) -> BTreeSet<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    unread_in(text.lines())
}

fn unread_in<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let (mut taken, mut unread) = (BTreeMap::new(), BTreeSet::new());
    for line in lines {
        // `read` looks after lines that are not right.
        let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let Some(seq) = entry["seq"].as_u64() else { continue };
        match entry["reply"].as_str() {
            Some(_) => unread.extend(taken.remove(&seq)),
            None => {
                drop(final_dot(line).filter(|dot| dot.decision.is_a_copy()).map(|dot| taken.insert(seq, dot.rcpt_to)))
            }
        }
    }
    unread
}

/// `None`: a remark that a client was gone before it could be told.
fn final_dot(line: &str) -> Option<Line> {
    let wrong = |e: serde_json::Error| -> ! { panic!("the sink's ledger: {e}: {line}") };
    let entry: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| wrong(e));
    entry.get("reply").is_none().then(|| Line::deserialize(entry).unwrap_or_else(|e| wrong(e)))
}

#[test]
fn remarks_are_told_from_final_dots() {
    let dot = r#"{"at_ms":5,"seq":1,"connection":2,"connections_most":1,"peer":"127.0.1.1:4","mail_from":"a@b.example",
        "rcpt_to":"c@d.example","message_id":"<1@b.example>","decision":"lost","code":250}"#;
    let line = final_dot(dot).expect("a final dot");
    assert_eq!((line.at_ms, line.peer_ip(), line.decision), (5, "127.0.1.1", Decision::Lost));
    let remark = r#"{"seq":1,"reply":"failed"}"#;
    assert!(final_dot(remark).is_none());
    let accepted = dot.replace("lost", "accept").replace('\n', " ");
    assert_eq!(unread_in([accepted.as_str()].into_iter()).len(), 0);
    assert_eq!(unread_in([accepted.as_str(), remark].into_iter()), ["c@d.example".to_owned()].into());
}
