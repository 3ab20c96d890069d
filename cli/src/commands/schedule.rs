//! `schedule …`: when campaigns are due.

use crate::client;
use crate::context::Context;
use crate::failure::{Failure, Result};
use crate::output;
use crate::shapes::{Firing, instant};
use chrono::{DateTime, NaiveDate};
use clap::Subcommand;
use postrider_proto::v1;

#[derive(Debug, Clone, Subcommand)]
pub enum ScheduleCommand {
    /// Show the next firings of a campaign, with what its clock skips and repeats
    Next {
        /// Campaign
        name: String,
        /// How many, 1 to 1000
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
        count: u32,
        /// After this instant, such as 2026-03-28 or 2026-03-28T07:00:00+01:00 [default: now]
        #[arg(long, value_name = "TIME", value_parser = instant_ms)]
        from: Option<i64>,
    },
}

/// RFC 3339, or a date: its midnight in UTC.
fn instant_ms(text: &str) -> std::result::Result<i64, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.timestamp_millis());
    }
    match NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        Ok(date) => Ok(date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_millis()),
        Err(_) => Err("write a date such as 2026-03-28, or an instant such as 2026-03-28T07:00:00Z".to_owned()),
    }
}

pub async fn perform(context: &Context, command: ScheduleCommand) -> Result<()> {
    let (mut client, _) = context.client()?;
    let ScheduleCommand::Next { name, count, from } = command;
    let request = v1::NextFiringsRequest { campaign: name, limit: count, from_ms: from.unwrap_or(0) };
    let call = |channel| {
        let request = request.clone();
        async move { client::campaigns(channel).next_firings(request).await }
    };
    let answer = client.call(call).await?;
    let mut rows = Vec::new();
    for wire in answer.firings {
        let note = note(&wire)?;
        let firing = Firing { at: instant(wire.at_ms), local: wire.local, nominal: wire.nominal, note };
        if context.json() {
            output::json(&firing)?;
            continue;
        }
        let explained = match note {
            "after_gap" => format!("{} does not exist that day: the first instant after the gap", firing.nominal),
            "first" => format!("{} comes twice that day: the first time", firing.nominal),
            "second" => format!("{} comes twice that day: the second time", firing.nominal),
            _ => String::new(),
        };
        rows.push(vec![firing.local, firing.at.unwrap_or_default(), explained]);
    }
    if context.json() {
        return Ok(());
    }
    if rows.is_empty() {
        return output::line("nothing more is due");
    }
    output::table(&[&answer.time_zone, "UTC", "NOTE"], rows)?;
    output::line(format!("time zone database {}", answer.time_zone_version))
}

fn note(wire: &v1::Firing) -> Result<&'static str> {
    match wire.note() {
        v1::FiringNote::Plain => Ok("plain"),
        v1::FiringNote::AfterGap => Ok("after_gap"),
        v1::FiringNote::First => Ok("first"),
        v1::FiringNote::Second => Ok("second"),
        v1::FiringNote::Unspecified => {
            Err(Failure::failed("the master sent a firing without a note: update postrider"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_with_their_offset() {
        assert_eq!(instant_ms("1970-01-02"), Ok(86_400_000));
        assert_eq!(instant_ms("1970-01-01T01:00:00+01:00"), Ok(0));
        for wrong in ["", "tomorrow", "2026-02-30", "2026-03-28T07:00:00"] {
            assert!(instant_ms(wrong).is_err(), "{wrong}");
        }
    }
}
