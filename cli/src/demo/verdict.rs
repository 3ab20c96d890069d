//! Judges a run by what the sink really took. Pure.

use crate::output::count;
use crate::shapes::{Recipient, Run};
use crate::sink::Delivery;
use postrider_common::run::RunState;
use serde::Serialize;
use std::collections::HashMap;

/// What there is to judge by.
#[derive(Debug)]
pub struct Findings<'a> {
    pub run: &'a Run,
    pub recipients: &'a [Recipient],
    /// How often each message was accepted for each recipient, by the sink's own ledger.
    pub copies: &'a HashMap<Delivery, u64>,
    /// Those of them of which the worker had not read the reply when it was killed, by the same ledger.
    pub unread: &'a HashMap<Delivery, u64>,
    /// `None`: no worker was killed.
    pub in_intent_at_kill: Option<u64>,
    pub invalid_rows: u64,
    pub repeated_rows: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Messages the sink accepted, and distinct ones among them.
    pub copies: u64,
    pub distinct: u64,
    /// Recipients of the run without a copy at the sink that were not refused by it.
    pub lost: u64,
    /// Copies beyond the first.
    pub duplicates: u64,
    /// Recipients with several copies and no reason for it.
    pub unmarked: u64,
    /// Messages that the sink accepted and of whose reply it knows that the worker never read it.
    pub unread: u64,
    /// Copies beyond those that an unread reply explains.
    pub unexplained: u64,
    /// Copies that belong to nobody in the run.
    pub strangers: u64,
    /// Everything that must not be.
    problems: Vec<String>,
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    pub fn sink_line(&self) -> String {
        format!("{} messages accepted, {} distinct", count(self.copies), count(self.distinct))
    }
}

/// Message ids are one per recipient of one run, so they tell whose copy it is.
pub fn judge(findings: &Findings<'_>) -> Verdict {
    let plain = |id: &str| id.trim_matches(['<', '>']).to_owned();
    let by_id = |counts: &HashMap<Delivery, u64>| {
        let mut by_id: HashMap<String, u64> = HashMap::new();
        for (delivery, count) in counts {
            *by_id.entry(plain(&delivery.message_id)).or_default() += count;
        }
        by_id
    };
    let (by_id, unread) = (by_id(findings.copies), by_id(findings.unread));
    let mut verdict = Verdict {
        copies: by_id.values().sum(),
        distinct: by_id.len() as u64,
        unread: unread.values().sum(),
        ..Verdict::default()
    };
    let mut known: u64 = 0;
    for recipient in findings.recipients {
        let copies = by_id.get(&plain(&recipient.message_id)).copied().unwrap_or(0);
        known += u64::from(copies > 0);
        if copies == 0 && recipient.state != "rejected" {
            verdict.lost += 1;
        }
        if copies > 1 {
            verdict.duplicates += copies - 1;
            let explained = unread.get(&plain(&recipient.message_id)).copied().unwrap_or(0);
            verdict.unexplained += (copies - 1).saturating_sub(explained);
            verdict.unmarked += u64::from(recipient.unknown_reason.is_none());
        }
    }
    verdict.strangers = verdict.distinct - known.min(verdict.distinct);
    verdict.problems = problems(findings, &verdict);
    verdict
}

fn problems(findings: &Findings<'_>, verdict: &Verdict) -> Vec<String> {
    let run = findings.run;
    let r = &run.recipients;
    let sum = r.pending + r.accepted + r.rejected + r.exhausted + r.suppressed + r.cancelled + r.unknown;
    let listed = findings.recipients.len() as u64;
    let rows = [
        (run.kind != RunState::Finished, format!("the run is {} and not finished", run.state)),
        (r.total != sum, format!("the states sum up to {sum} and not to {}", r.total)),
        (r.total != listed, format!("{listed} recipients are listed and {} counted", r.total)),
        (
            (run.bad_rows, run.repeated_rows) != (findings.invalid_rows, findings.repeated_rows),
            format!(
                "{} invalid and {} repeated rows were counted, there are {} and {}",
                run.bad_rows, run.repeated_rows, findings.invalid_rows, findings.repeated_rows
            ),
        ),
        (verdict.lost > 0, format!("{} recipients are lost", verdict.lost)),
        (verdict.unmarked > 0, format!("{} duplicates are not marked with a reason", verdict.unmarked)),
        (
            verdict.unexplained > 0,
            format!("{} messages were sent again although the worker had read the reply", verdict.unexplained),
        ),
        (verdict.strangers > 0, format!("{} messages belong to nobody in the run", verdict.strangers)),
        (
            verdict.duplicates > findings.in_intent_at_kill.unwrap_or(0),
            format!(
                "{} duplicates are more than the {} recipients in intent at the kill",
                verdict.duplicates,
                findings.in_intent_at_kill.unwrap_or(0)
            ),
        ),
        (
            findings.in_intent_at_kill.is_none(),
            "the run ended before the worker was caught with half its slots in intent: try more --recipients".into(),
        ),
    ];
    rows.into_iter().filter(|(wrong, _)| *wrong).map(|(_, text)| text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_proto::v1;

    fn recipient(id: &str, state: v1::RecipientState, reason: &str) -> Recipient {
        let message_id = format!("<{id}@acme.example>");
        let wire =
            v1::Recipient { message_id, state: state.into(), unknown_reason: reason.into(), ..Default::default() };
        Recipient::from_wire(wire).expect("good")
    }

    fn judged(
        recipients: &[Recipient],
        copies: &[(&str, u64)],
        unread: &[(&str, u64)],
        in_intent: Option<u64>,
    ) -> Verdict {
        let total = recipients.len() as u64;
        let wire = v1::Run {
            state: v1::RunState::Finished.into(),
            recipients: Some(v1::RecipientCounts { total, accepted: total, ..Default::default() }),
            ..Default::default()
        };
        let delivery = |(id, copies): &(&str, u64)| {
            let message_id = format!("<{id}@acme.example>");
            (Delivery { address: format!("{id}@example.com"), message_id }, *copies)
        };
        judge(&Findings {
            run: &Run::from_wire(Some(wire)).expect("good"),
            recipients,
            copies: &copies.iter().map(delivery).collect(),
            unread: &unread.iter().map(delivery).collect(),
            in_intent_at_kill: in_intent,
            invalid_rows: 0,
            repeated_rows: 0,
        })
    }

    #[test]
    fn the_ledger_is_the_judge() {
        use v1::RecipientState::{Accepted, Rejected};
        let all = [
            recipient("a", Accepted, ""),
            recipient("b", Accepted, "outcome_not_recorded"),
            recipient("c", Rejected, ""),
        ];
        let good = judged(&all, &[("a", 1), ("b", 2)], &[("a", 1), ("b", 1)], Some(1));
        assert!(good.is_good(), "{good:?}");
        assert_eq!((good.copies, good.distinct, good.duplicates, good.unread), (3, 2, 1, 2));
        type Copies = &'static [(&'static str, u64)];
        let rows: [(Copies, Copies, Option<u64>, &str); 6] = [
            (&[("b", 1)], &[], Some(1), "1 recipients are lost"),
            (&[("a", 2), ("b", 1)], &[("a", 1)], Some(1), "1 duplicates are not marked"),
            (&[("a", 1), ("b", 3)], &[("b", 2)], Some(1), "2 duplicates are more than the 1 recipients in intent"),
            (&[("a", 1), ("b", 2)], &[("a", 1)], Some(1), "1 messages were sent again although"),
            (&[("a", 1), ("b", 1), ("x", 1)], &[], Some(1), "1 messages belong to nobody"),
            (&[("a", 1), ("b", 1)], &[], None, "ended before the worker was caught"),
        ];
        for (copies, unread, in_intent, expected) in rows {
            let verdict = judged(&all, copies, unread, in_intent);
            assert_eq!(verdict.problems().len(), 1, "{verdict:?}");
            assert!(verdict.problems()[0].contains(expected), "{verdict:?}");
        }
    }
}
