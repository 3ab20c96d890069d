//! What happened, from the sink's ledger and the fault log; and which promises that broke. Pure.
//!
//! After Jepsen's total-queue, with a rule for duplicates of our own: a copy is a message that the sink
//! took (the reply may have been lost). A recipient with more than one copy must carry a reason, must have
//! begun as many attempts, and all copies but one must have an excuse that we gave ourselves: they came
//! from a worker before we killed or stopped it, or their reply was dropped by the sink.

use crate::client::RecipientLine;
use crate::faults::FaultLog;
use crate::ledger::{Decision, Line};
use crate::watcher::Watched;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Addresses named in a violation.
const NAMED_MAX: usize = 5;

/// What a scenario allows beside the promises that always hold.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Duplicates at most, beside the fault log's bound; `None`: the bound alone.
    pub duplicates_max: Option<u64>,
    /// Nobody may be marked `outcome_not_recorded`, sent twice or not.
    pub no_doubt: bool,
    /// Every recipient must have reached the sink (nothing was refused, held or cancelled).
    pub all_accepted: bool,
    /// Excuses for copies are looked at. Off where a whole outage cut every worker off.
    pub excuses: bool,
    /// Copies may exceed attempts by one: a stale worker's fact settled the recipient while its next
    /// transmission was under way, and the outcome of that one came too late to be counted.
    pub late_facts: bool,
    /// A master may fail to answer a poll.
    pub unanswered_polls: bool,
}

impl Rules {
    /// Everybody gets one message.
    pub const CLEAN: Self = Self {
        duplicates_max: Some(0),
        no_doubt: true,
        all_accepted: true,
        excuses: true,
        late_facts: false,
        unanswered_polls: false,
    };
    /// Everybody gets a message; those cut off by a fault may get another.
    pub const FAULTS: Self = Self { duplicates_max: None, no_doubt: false, ..Self::CLEAN };
}

#[derive(Debug, Clone, Default)]
pub struct Findings {
    pub audience: u64,
    /// Recipients with at least one copy at the sink.
    pub accepted: u64,
    pub copies: u64,
    /// Owed a message and without one, or without a final state.
    pub lost: Vec<String>,
    /// A copy that nobody asked for: an address outside the audience, or one that was cancelled or refused.
    pub unexpected: Vec<String>,
    /// Said to be accepted, and not at the sink; or the other way round.
    pub untrue: Vec<String>,
    pub duplicates_reply_lost: u64,
    pub duplicates_outcome_not_recorded: u64,
    /// More than one line in `run recipients`.
    pub listed_twice: Vec<String>,
    /// More than one copy and no reason.
    pub unmarked: Vec<String>,
    /// More copies than attempts, and by how many.
    pub beyond_attempts: Vec<(String, u32)>,
    /// More than one copy without an excuse.
    pub unexcused: Vec<String>,
    /// Copies with different message ids, or one message id for two recipients.
    pub identity: Vec<String>,
    /// Recipients marked `outcome_not_recorded`, sent twice or not.
    pub marked_outcome_not_recorded: u64,
    pub bound: u64,
}

impl Findings {
    pub fn duplicates(&self) -> u64 {
        self.duplicates_reply_lost + self.duplicates_outcome_not_recorded + self.unmarked.len() as u64
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// A word for programs.
    pub kind: &'static str,
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

/// Everything a recipient has at the sink.
#[derive(Default)]
struct Taken<'a> {
    copies: Vec<&'a Line>,
}

pub fn find(audience: &BTreeSet<String>, ledger: &[Line], recipients: &[RecipientLine], faults: &FaultLog) -> Findings {
    let mut taken: BTreeMap<&str, Taken<'_>> = BTreeMap::new();
    for line in ledger.iter().filter(|line| line.decision.is_a_copy()) {
        taken.entry(&line.rcpt_to).or_default().copies.push(line);
    }
    let states: BTreeMap<&str, &RecipientLine> = recipients.iter().map(|r| (r.address.as_str(), r)).collect();
    let mut findings = Findings {
        audience: audience.len() as u64,
        accepted: taken.len() as u64,
        copies: taken.values().map(|t| t.copies.len() as u64).sum(),
        bound: faults.bound(),
        ..Findings::default()
    };
    let mut listed = BTreeSet::new();
    let twice = recipients.iter().filter(|r| !listed.insert(r.address.as_str()));
    findings.listed_twice = twice.map(|r| r.address.clone()).collect();
    let marked = recipients.iter().filter(|r| r.unknown_reason.as_deref() == Some("outcome_not_recorded"));
    findings.marked_outcome_not_recorded = marked.count() as u64;
    for address in audience {
        judge_state(address, taken.get(address.as_str()), states.get(address.as_str()), &mut findings);
    }
    for (address, taken) in &taken {
        if !audience.contains(*address) {
            findings.unexpected.push((*address).to_owned());
        }
        judge_copies(address, &taken.copies, states.get(address), faults, &mut findings);
    }
    judge_identity(ledger, &mut findings);
    findings
}

/// Is what is said of a recipient what the sink knows of it?
fn judge_state(address: &str, taken: Option<&Taken<'_>>, said: Option<&&RecipientLine>, findings: &mut Findings) {
    let copies = taken.map_or(0, |t| t.copies.len());
    let replied = taken.is_some_and(|t| t.copies.iter().any(|line| line.decision == Decision::Accept));
    let Some(said) = said else {
        findings.lost.push(address.to_owned());
        return;
    };
    match said.state.as_str() {
        "accepted" if copies == 0 => {
            findings.lost.push(address.to_owned());
            findings.untrue.push(address.to_owned());
        }
        "accepted" if !replied => findings.untrue.push(address.to_owned()),
        // A copy whose reply never came may end so: the later attempt was refused, or there was none.
        "accepted" | "unknown" => {}
        "rejected" | "exhausted" | "cancelled" | "suppressed" if copies == 0 => {}
        "rejected" | "exhausted" | "cancelled" | "suppressed" => {
            if said.unknown_reason.is_none() {
                findings.unexpected.push(address.to_owned());
            }
        }
        _ => findings.lost.push(address.to_owned()),
    }
}

fn judge_copies(
    address: &str,
    copies: &[&Line],
    said: Option<&&RecipientLine>,
    faults: &FaultLog,
    findings: &mut Findings,
) {
    if copies.len() < 2 {
        return;
    }
    let reason = said.and_then(|r| r.unknown_reason.as_deref());
    match reason {
        Some("reply_lost") => findings.duplicates_reply_lost += 1,
        Some("outcome_not_recorded") => findings.duplicates_outcome_not_recorded += 1,
        Some(_) | None => findings.unmarked.push(address.to_owned()),
    }
    let copies_count = u32::try_from(copies.len()).unwrap_or(u32::MAX);
    if let Some(excess) = said.and_then(|r| copies_count.checked_sub(r.attempts)).filter(|excess| *excess > 0) {
        findings.beyond_attempts.push((address.to_owned(), excess));
    }
    let excused = |line: &Line| line.decision == Decision::Lost || faults.excuse(line.peer_ip(), line.at_ms);
    if copies.iter().filter(|line| !excused(line)).count() > 1 {
        findings.unexcused.push(address.to_owned());
    }
}

/// One message id per recipient, for all its copies, and for nobody else.
fn judge_identity(ledger: &[Line], findings: &mut Findings) {
    let mut by_recipient: BTreeMap<&str, &str> = BTreeMap::new();
    let mut by_id: BTreeMap<&str, &str> = BTreeMap::new();
    for line in ledger.iter().filter(|line| line.decision.is_a_copy()) {
        let id = *by_recipient.entry(&line.rcpt_to).or_insert(&line.message_id);
        let owner = *by_id.entry(&line.message_id).or_insert(&line.rcpt_to);
        if id != line.message_id || owner != line.rcpt_to {
            findings.identity.push(line.rcpt_to.clone());
        }
    }
}

pub fn violations(findings: &Findings, rules: Rules, faults: &FaultLog, watched: &Watched) -> Vec<Violation> {
    let mut found = Vec::new();
    let beyond = findings.beyond_attempts.iter().filter(|(_, excess)| *excess > u32::from(rules.late_facts));
    let beyond: Vec<String> = beyond.map(|(address, _)| address.clone()).collect();
    let lists = [
        ("lost", &findings.lost),
        ("unexpected", &findings.unexpected),
        ("untrue", &findings.untrue),
        ("listed_twice", &findings.listed_twice),
        ("unmarked_duplicates", &findings.unmarked),
        ("beyond_attempts", &beyond),
        ("identity", &findings.identity),
        ("off_balance", &watched.off_balance),
    ];
    for (kind, list) in lists {
        if !list.is_empty() {
            found.push(Violation { kind, message: named(list) });
        }
    }
    if rules.excuses && !findings.unexcused.is_empty() {
        found.push(Violation { kind: "unexcused_duplicates", message: named(&findings.unexcused) });
    }
    let limits = [
        ("duplicates_bound", findings.duplicates_outcome_not_recorded, findings.bound),
        ("duplicates_max", findings.duplicates(), rules.duplicates_max.unwrap_or(u64::MAX)),
        ("in_doubt", if rules.no_doubt { findings.marked_outcome_not_recorded } else { 0 }, 0),
        // Fewer messages than owed cannot hide behind a state.
        (
            "not_accepted",
            if rules.all_accepted { findings.audience - findings.accepted.min(findings.audience) } else { 0 },
            0,
        ),
        ("unanswered_polls", if rules.unanswered_polls { 0 } else { watched.unanswered }, 0),
    ];
    for (kind, seen, allowed) in limits {
        if seen > allowed {
            found.push(Violation { kind, message: format!("{seen}, at most {allowed}") });
        }
    }
    if faults.hits() * 2 < faults.faults.len() {
        let message = format!("{} of {} faults hit intents in flight", faults.hits(), faults.faults.len());
        found.push(Violation { kind: "faults_missed", message });
    }
    if watched.polls == 0 {
        found.push(Violation { kind: "unwatched", message: "no poll was answered".to_owned() });
    }
    found
}

fn named(list: &[String]) -> String {
    let some = list.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    format!("{} ({some}{})", list.len(), if list.len() > NAMED_MAX { ", …" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{Fault, Role};

    fn copy(address: &str, peer: &str, decision: Decision) -> Line {
        Line {
            at_ms: 1,
            connection: 1,
            connections_most: 1,
            peer: format!("{peer}:40000"),
            rcpt_to: address.into(),
            message_id: format!("<{address}>"),
            subject: String::new(),
            decision,
        }
    }

    fn said(address: &str, state: &str, attempts: u32, reason: Option<&str>) -> RecipientLine {
        RecipientLine {
            key: address.into(),
            address: address.into(),
            state: state.into(),
            attempts,
            code: String::new(),
            message_id: format!("<{address}>"),
            unknown_reason: reason.map(str::to_owned),
        }
    }

    fn killed(source: &str, in_intent: u32, cuts_off: bool) -> FaultLog {
        let fault = Fault {
            role: Role::Worker,
            name: "w".into(),
            at_ms: 0,
            in_intent,
            slots: 4,
            cuts_off,
            source: Some(source.into()),
        };
        FaultLog { faults: vec![fault], forgotten: 0 }
    }

    fn kinds(ledger: &[Line], recipients: &[RecipientLine], faults: &FaultLog, rules: Rules) -> Vec<&'static str> {
        let audience = ["a".to_owned(), "b".to_owned()].into();
        let findings = find(&audience, ledger, recipients, faults);
        let watched = Watched { polls: 1, ..Watched::default() };
        violations(&findings, rules, faults, &watched).into_iter().map(|v| v.kind).collect()
    }

    const ONE: &str = "127.0.0.1";
    const TWO: &str = "127.0.0.2";

    #[test]
    fn one_copy_each_is_clean() {
        let ledger = [copy("a", ONE, Decision::Accept), copy("b", TWO, Decision::Accept)];
        let recipients = [said("a", "accepted", 1, None), said("b", "accepted", 1, None)];
        assert_eq!(kinds(&ledger, &recipients, &FaultLog::default(), Rules::CLEAN), Vec::<&str>::new());
    }

    #[test]
    fn loss_is_seen_whatever_is_said() {
        let ledger = [copy("a", ONE, Decision::Accept)];
        for line in [said("b", "accepted", 1, None), said("b", "pending", 0, None)] {
            let kinds = kinds(&ledger, &[said("a", "accepted", 1, None), line], &FaultLog::default(), Rules::CLEAN);
            assert!(kinds.contains(&"lost"), "{kinds:?}");
        }
        let kinds = kinds(&ledger, &[said("a", "accepted", 1, None)], &FaultLog::default(), Rules::CLEAN);
        assert!(kinds.contains(&"lost"), "{kinds:?}");
    }

    #[test]
    fn a_recipient_listed_twice_is_seen() {
        let ledger = [copy("a", ONE, Decision::Accept), copy("b", ONE, Decision::Accept)];
        let a = said("a", "accepted", 1, None);
        let recipients = [a.clone(), said("b", "accepted", 1, None), a];
        assert_eq!(kinds(&ledger, &recipients, &FaultLog::default(), Rules::CLEAN), ["listed_twice"]);
    }

    #[test]
    fn phantoms_are_seen() {
        let ledger = [
            copy("a", ONE, Decision::Accept),
            copy("b", ONE, Decision::Accept),
            copy("stranger", ONE, Decision::Accept),
        ];
        let recipients = [said("a", "accepted", 1, None), said("b", "cancelled", 0, None)];
        let audience = ["a".to_owned(), "b".to_owned()].into();
        let findings = find(&audience, &ledger, &recipients, &FaultLog::default());
        assert_eq!(findings.unexpected, ["b", "stranger"]);
    }

    #[test]
    fn a_duplicate_needs_a_reason_an_attempt_and_an_excuse() {
        let twice =
            [copy("a", ONE, Decision::Accept), copy("a", TWO, Decision::Accept), copy("b", TWO, Decision::Accept)];
        let b = said("b", "accepted", 1, None);
        let check = |reason, attempts, faults: &FaultLog| {
            kinds(&twice, &[said("a", "accepted", attempts, reason), b.clone()], faults, Rules::FAULTS)
        };
        let marked = Some("outcome_not_recorded");
        assert_eq!(check(marked, 2, &killed(ONE, 4, true)), Vec::<&str>::new());
        assert_eq!(check(None, 2, &killed(ONE, 4, true)), ["unmarked_duplicates"]);
        assert_eq!(check(marked, 1, &killed(ONE, 4, true)), ["beyond_attempts"]);
        assert_eq!(check(marked, 2, &killed("127.0.0.9", 4, true)), ["unexcused_duplicates"]);
        assert_eq!(check(marked, 2, &killed(ONE, 4, false)), ["unexcused_duplicates", "duplicates_bound"]);
        assert_eq!(check(marked, 2, &killed(ONE, 0, true)), ["duplicates_bound", "faults_missed"]);
        let mut stopped_before = killed(ONE, 4, true);
        stopped_before.faults[0].at_ms = -10_000;
        assert_eq!(check(marked, 2, &stopped_before), ["unexcused_duplicates"]);
    }

    #[test]
    fn a_lost_reply_is_an_excuse_and_not_an_acceptance() {
        let recipients = [said("a", "accepted", 2, Some("reply_lost")), said("b", "accepted", 1, None)];
        let b = copy("b", ONE, Decision::Accept);
        let twice = [copy("a", ONE, Decision::Lost), copy("a", ONE, Decision::Accept), b.clone()];
        assert_eq!(kinds(&twice, &recipients, &FaultLog::default(), Rules::FAULTS), Vec::<&str>::new());
        let once = [copy("a", ONE, Decision::Lost), b];
        assert_eq!(kinds(&once, &recipients, &FaultLog::default(), Rules::FAULTS), ["untrue"]);
    }

    #[test]
    fn a_recipient_keeps_its_message_id() {
        let mut other = copy("a", ONE, Decision::Accept);
        other.message_id = "<b>".into();
        let ledger = [other, copy("b", ONE, Decision::Accept)];
        let recipients = [said("a", "accepted", 1, None), said("b", "accepted", 1, None)];
        assert_eq!(kinds(&ledger, &recipients, &FaultLog::default(), Rules::CLEAN), ["identity"]);
    }
}
