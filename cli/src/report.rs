//! What a run came to, for people. Pure: a run in, text out.

use crate::output::{clean, count};
use crate::shapes::{Recipients, Run};
use postrider_common::run::RunState;
use std::fmt::Write as _;

/// The lines that end `--wait` and `run show`. `now_ms` ends the duration of a run that goes on.
pub fn report(run: &Run, now_ms: i64) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    let campaign = match (run.campaign.as_str(), run.campaign_version) {
        ("", _) => "single message".to_owned(),
        (name, None) => name.to_owned(),
        (name, Some(version)) => format!("{name} version {version}"),
    };
    row("run", format!("{} ({campaign}, lane {})", run.run, run.lane));
    row("state", state(run));
    if let Some(error) = &run.error {
        row("error", format!("{}: {}", clean(&error.code), clean(&error.message)));
        row("mend", clean(&error.mend));
    }
    if let Some(until) = &run.held_until {
        row("held", format!("until {until}: its send windows, or those of its lane, are closed"));
    }
    if let Some(at) = &run.next_wave_at {
        row("next wave", at.clone());
    }
    if let (Some(list), Some(version)) = (&run.list, run.list_version) {
        row("list", format!("{} version {version}", clean(list)));
    }
    row("recipients", recipients(run));
    row("bad rows", format!("{} invalid, {} repeated", count(run.bad_rows), count(run.repeated_rows)));
    row("batches", batches(run));
    if let Some(seconds) = seconds(run, now_ms) {
        let rate = run.recipients.accepted as f64 / seconds.max(0.001);
        row("duration", format!("{seconds:.1} s, {rate:.0} messages/s accepted"));
    }
    let resent = run.resent_reply_lost + run.resent_outcome_not_recorded;
    if resent > 0 {
        row(
            "resent",
            format!(
                "{} after doubt: {} outcome_not_recorded, {} reply_lost",
                count(resent),
                count(run.resent_outcome_not_recorded),
                count(run.resent_reply_lost)
            ),
        );
    }
    if run.leases_expired > 0 {
        let (expired, taken) = (count(run.leases_expired), count(run.leases_taken_over));
        row("leases", format!("{expired} expired, {taken} taken over"));
    }
    row("next", next(run));
    text.trim_end().to_owned()
}

fn state(run: &Run) -> String {
    let mut text = run.state.to_owned();
    if run.paused && !run.kind.has_ended() {
        text.push_str(", paused");
    }
    if run.cancel_requested && run.kind != RunState::Cancelled {
        text.push_str(", being cancelled");
    }
    if !run.split_complete {
        text.push_str(", audience not read to its end");
    }
    if is_empty(run) {
        text.push_str(", nobody was sent to: the audience has no usable row");
    }
    text
}

/// The audience was read, and nobody in it could be sent to.
fn is_empty(run: &Run) -> bool {
    run.kind == RunState::Finished && run.recipients.total == 0
}

/// Recipients by final state, in the order in which they are shown.
pub fn ended(counts: &Recipients) -> [(&'static str, u64); 6] {
    [
        ("accepted", counts.accepted),
        ("rejected", counts.rejected),
        ("exhausted", counts.exhausted),
        ("suppressed", counts.suppressed),
        ("cancelled", counts.cancelled),
        ("unknown", counts.unknown),
    ]
}

fn recipients(run: &Run) -> String {
    let r = &run.recipients;
    let parts = [("pending", r.pending)].into_iter().chain(ended(r)).filter(|(_, number)| *number > 0);
    let parts: Vec<String> = parts.map(|(name, number)| format!("{} {name}", count(number))).collect();
    let parts = if parts.is_empty() { "none".to_owned() } else { parts.join(" + ") };
    format!("{} = {parts}", count(r.total))
}

fn batches(run: &Run) -> String {
    let b = &run.batches;
    let parts =
        [("settled", b.settled), ("ready", b.ready), ("leased", b.leased), ("delayed", b.delayed), ("dead", b.dead)];
    let parts = parts.into_iter().filter(|(name, number)| *number > 0 || *name == "settled");
    parts.map(|(name, number)| format!("{} {name}", count(number))).collect::<Vec<_>>().join(", ")
}

/// How long it took, or has taken until now.
pub fn seconds(run: &Run, now_ms: i64) -> Option<f64> {
    let end = if run.finished_at_ms == 0 { now_ms } else { run.finished_at_ms };
    (run.started_at_ms != 0 && end >= run.started_at_ms).then(|| (end - run.started_at_ms) as f64 / 1000.0)
}

fn next(run: &Run) -> String {
    let id = &run.run;
    let r = &run.recipients;
    match run.kind {
        RunState::Failed => format!("mend it, then: postrider run resume {id}"),
        RunState::Finished | RunState::Cancelled if r.rejected + r.exhausted + r.unknown + run.bad_rows > 0 => {
            format!("postrider run failures {id}")
        }
        RunState::Finished if is_empty(run) => {
            "look at the audience: is it the right file, with a row below the header?".into()
        }
        RunState::Finished | RunState::Cancelled => format!("postrider run recipients {id}"),
        RunState::Scheduled | RunState::Splitting | RunState::Sending if run.paused => {
            format!("postrider run resume {id}")
        }
        RunState::Scheduled | RunState::Splitting | RunState::Sending => format!("postrider run watch {id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_proto::v1;

    fn run(state: v1::RunState) -> Run {
        let wire = v1::Run {
            run_id: "run_1".into(),
            campaign: "daily".into(),
            lane: "bulk".into(),
            state: state.into(),
            split_complete: true,
            recipients: Some(v1::RecipientCounts { total: 1200, accepted: 1190, rejected: 10, ..Default::default() }),
            batches: Some(v1::BatchCounts { settled: 12, ..Default::default() }),
            bad_rows: 3,
            started_at_ms: 1000,
            finished_at_ms: 3000,
            resent_outcome_not_recorded: 7,
            leases_expired: 2,
            leases_taken_over: 2,
            ..Default::default()
        };
        Run::from_wire(Some(wire)).expect("good")
    }

    #[test]
    fn the_report_says_what_came_of_it() {
        let expected = "\
run          run_1 (daily, lane bulk)
state        finished
recipients   1,200 = 1,190 accepted + 10 rejected
bad rows     3 invalid, 0 repeated
batches      12 settled
duration     2.0 s, 595 messages/s accepted
resent       7 after doubt: 7 outcome_not_recorded, 0 reply_lost
leases       2 expired, 2 taken over
next         postrider run failures run_1";
        assert_eq!(report(&run(v1::RunState::Finished), 0), expected);
    }

    #[test]
    fn a_failed_run_says_how_to_go_on() {
        let mut failed = run(v1::RunState::Failed);
        let error = ("audience_column_missing", "there is no column\u{1b}", "name one");
        failed.error =
            Some(crate::shapes::RunError { code: error.0.into(), message: error.1.into(), mend: error.2.into() });
        let text = report(&failed, 0);
        assert!(text.contains("error        audience_column_missing: there is no column?\nmend         name one"));
        assert!(text.ends_with("next         mend it, then: postrider run resume run_1"), "{text}");
    }

    #[test]
    fn an_empty_audience_is_said_to_be_empty() {
        let mut empty = run(v1::RunState::Finished);
        empty.recipients = Default::default();
        assert!(report(&empty, 0).contains("nobody was sent to: the audience has no usable row"));
        assert!(report(&empty, 0).ends_with("next         postrider run failures run_1"));
        empty.bad_rows = 0;
        assert!(report(&empty, 0).contains("next         look at the audience"));
    }
}
