//! What a reply means for the recipient.
//!
//! A 5xx counts against a recipient only where it can be about the recipient or the message: after RCPT,
//! DATA or the final dot. Before that it is about us or the relay, and somebody will mend it.

use super::reply::Reply;
use crate::message::BuildError;
use crate::template::RenderError;
use postrider_common::limits::{CODE_BYTES_MAX, DETAIL_BYTES_MAX, RETRY_AFTER_MS_MAX};
use postrider_common::{Outcome, OutcomeKind};

/// Where in the conversation a reply came, by the command that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// None: the greeting.
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    FinalDot,
    Rset,
    Quit,
}

/// How an attempt for one message ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub kind: OutcomeKind,
    /// `550 5.1.1`, or a word for what is not a reply. Printable ASCII, at most `CODE_BYTES_MAX`.
    pub code: String,
    /// First line of the reply. Printable ASCII, at most `DETAIL_BYTES_MAX`.
    pub detail: String,
    /// 0 unless the server named a time; only with `Deferred`.
    pub retry_after_ms: u64,
}

impl Verdict {
    /// A verdict that no reply gave. `detail` is cut and made printable.
    pub fn without_reply(kind: OutcomeKind, code: &str, detail: &str) -> Self {
        Self {
            kind,
            code: printable(code, CODE_BYTES_MAX),
            detail: printable(detail, DETAIL_BYTES_MAX),
            retry_after_ms: 0,
        }
    }
}

impl Verdict {
    /// The outcome to report for recipient `index` of a batch.
    pub fn into_outcome(self, index: u32) -> Outcome {
        let Self { kind, code, detail, retry_after_ms } = self;
        Outcome { index, kind, code, detail, retry_after_ms }
    }
}

impl From<&RenderError> for Verdict {
    fn from(error: &RenderError) -> Self {
        Self::without_reply(OutcomeKind::Rejected, RenderError::CODE, &error.to_string())
    }
}

impl From<&BuildError> for Verdict {
    fn from(error: &BuildError) -> Self {
        Self::without_reply(OutcomeKind::Rejected, BuildError::CODE, &error.to_string())
    }
}

fn printable(text: &str, bytes_max: usize) -> String {
    text.chars().map(|c| if (' '..='~').contains(&c) { c } else { '?' }).take(bytes_max).collect()
}

/// The verdict on a message whose transaction ended with `reply` to `command`.
///
/// Only a 2xx to the final dot is an acceptance; a 2xx or 3xx where none belongs means that the two ends
/// disagree about where they are: unknown after the dot, deferred before it.
pub fn classify(command: Command, reply: &Reply) -> Verdict {
    let kind = match (reply.code, command) {
        (200..=299, Command::FinalDot) => OutcomeKind::Accepted,
        (300..=399, Command::FinalDot) => OutcomeKind::Unknown,
        // Channel closing (3.8); bad sequence: we are out of step, not the recipient.
        (421 | 503, _) => OutcomeKind::Deferred,
        // Too many recipients, in the words of RFC 821 (4.5.3.1.10).
        (552, Command::Rcpt) => OutcomeKind::Deferred,
        (500..=599, Command::Rcpt | Command::Data | Command::FinalDot) => OutcomeKind::Rejected,
        _ => OutcomeKind::Deferred,
    };
    let retry_after_ms = if kind == OutcomeKind::Deferred { retry_after_ms(&reply.lines.join(" ")) } else { 0 };
    Verdict { retry_after_ms, ..Verdict::without_reply(kind, &reply.code_text(), reply.first_line()) }
}

const ASKS: [&str; 10] = [
    "again in ",
    "again after ",
    "retry in ",
    "retry after ",
    "back in ",
    "greylisted for ",
    "please wait ",
    "delayed for ",
    "available in ",
    "not before ",
];
const FILLERS: [&str; 6] = ["another ", "approximately ", "about ", "at least ", "the next ", "approx. "];

/// The time that a text such as "try again in 5 minutes" asks for, or 0. Also "back in 00:05:00".
fn retry_after_ms(text: &str) -> u64 {
    let text = text.to_ascii_lowercase();
    ASKS.iter()
        .flat_map(|ask| text.match_indices(ask).map(|(at, ask)| at + ask.len()).collect::<Vec<_>>())
        .filter_map(|at| duration_ms(&text[at..]))
        .max()
        .unwrap_or_default()
        .min(RETRY_AFTER_MS_MAX)
}

fn duration_ms(text: &str) -> Option<u64> {
    let mut text = text.trim_start();
    while let Some(rest) = FILLERS.iter().find_map(|filler| text.strip_prefix(filler)) {
        text = rest.trim_start();
    }
    let (number, rest) = leading_number(text)?;
    if let Some(rest) = rest.strip_prefix(':') {
        let (minutes, rest) = leading_number(rest)?;
        let (seconds, _) = leading_number(rest.strip_prefix(':')?)?;
        return number
            .checked_mul(3600)?
            .checked_add(minutes.checked_mul(60)?)?
            .checked_add(seconds)?
            .checked_mul(1000);
    }
    let rest = rest.trim_start();
    let unit: &str = &rest[..rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len()];
    let unit_ms = match unit {
        "s" | "sec" | "secs" | "second" | "seconds" => 1000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(unit_ms)
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    Some((text[..text.len() - rest.len()].parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use OutcomeKind::{Accepted, Deferred, Rejected, Unknown};

    fn reply(code: u16, enhanced: &str, text: &str) -> Reply {
        Reply { code, enhanced: enhanced.into(), lines: vec![text.into()] }
    }

    #[test]
    fn replies_and_what_they_mean() {
        use Command::{Data, Ehlo, FinalDot, Greeting, Helo, Mail, Rcpt};
        let rows = [
            (FinalDot, 250, Accepted),
            (FinalDot, 251, Accepted),
            (FinalDot, 354, Unknown),
            (FinalDot, 421, Deferred),
            (FinalDot, 451, Deferred),
            (FinalDot, 503, Deferred),
            (FinalDot, 552, Rejected),
            (FinalDot, 554, Rejected),
            (Data, 250, Deferred),
            (Data, 451, Deferred),
            (Data, 554, Rejected),
            (Data, 503, Deferred),
            (Rcpt, 354, Deferred),
            (Rcpt, 421, Deferred),
            (Rcpt, 450, Deferred),
            (Rcpt, 452, Deferred),
            (Rcpt, 503, Deferred),
            (Rcpt, 550, Rejected),
            (Rcpt, 552, Deferred),
            (Rcpt, 553, Rejected),
            (Mail, 451, Deferred),
            (Mail, 550, Deferred),
            (Greeting, 554, Deferred),
            (Ehlo, 550, Deferred),
            (Helo, 550, Deferred),
        ];
        for (command, code, kind) in rows {
            assert_eq!(classify(command, &reply(code, "", "x")).kind, kind, "{code} to {command:?}");
        }
    }

    #[test]
    fn the_code_is_short_and_the_detail_printable() {
        let verdict = classify(Command::Rcpt, &reply(550, "5.1.1", &"é".repeat(500)));
        assert_eq!(verdict.code, "550 5.1.1");
        assert_eq!(verdict.detail, "?".repeat(DETAIL_BYTES_MAX));
    }

    #[test]
    fn a_server_may_say_when() {
        let rows = [
            ("Greylisted, please try again in 300 seconds", 300_000),
            ("try again in 5 minutes", 300_000),
            ("Try again in about 1 hour.", 3_600_000),
            ("retry after 30s", 30_000),
            ("please come back in 00:04:32", 272_000),
            ("try again in 5 minutes or retry in 10 min", 600_000),
            ("try again in 99999999999999999999 seconds", 0),
            ("try again in 9999999999999999999 seconds", 0),
            ("try again in 500 hours", RETRY_AFTER_MS_MAX),
            ("try again later", 0),
            ("try again in 5 parsecs", 0),
            ("", 0),
        ];
        for (text, ms) in rows {
            assert_eq!(classify(Command::Rcpt, &reply(450, "", text)).retry_after_ms, ms, "{text}");
        }
        assert_eq!(classify(Command::Rcpt, &reply(550, "", "try again in 5 minutes")).retry_after_ms, 0);
    }
}
