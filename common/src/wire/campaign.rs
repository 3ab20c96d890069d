//! Campaigns, audiences and message definitions.

use super::{InvalidField, at};
use crate::campaign::{
    Audience, AudienceFormat, Campaign, DatabaseAt, HttpSource, InvalidDatabaseAt, OnBadRow, OnUnknown, Schedule,
    Source, SqlSource, TextForm,
};
use crate::ids::LaneName;
use crate::limits::{HTTP_TIMEOUT_MS, INLINE_ROWS_MAX, SQL_TIMEOUT_MS};
use crate::local_time::SendAtLocal;
use crate::message::{DataSql, DataUrl, MessageSpec, OnMissingData};
use postrider_proto::v1;

impl From<MessageSpec> for v1::MessageDefinition {
    fn from(spec: MessageSpec) -> Self {
        Self {
            from: spec.from,
            reply_to: spec.reply_to,
            return_path: spec.return_path,
            subject: spec.subject,
            html: spec.html,
            text: spec.text,
            headers: spec.headers,
            tags: spec.tags,
            campaign: spec.campaign,
            correlation_id: spec.correlation_id,
            data_url: spec.data_url.map(Into::into),
            windows: (!spec.windows.is_empty()).then(|| spec.windows.into()),
            data_sql: spec.data_sql.map(Into::into),
        }
    }
}

impl From<v1::MessageDefinition> for MessageSpec {
    fn from(wire: v1::MessageDefinition) -> Self {
        Self {
            from: wire.from,
            reply_to: wire.reply_to,
            return_path: wire.return_path,
            subject: wire.subject,
            html: wire.html,
            text: wire.text,
            headers: wire.headers,
            tags: wire.tags,
            campaign: wire.campaign,
            correlation_id: wire.correlation_id,
            data_url: wire.data_url.map(Into::into),
            windows: wire.windows.map(Into::into).unwrap_or_default(),
            data_sql: wire.data_sql.map(Into::into),
        }
    }
}

impl From<OnMissingData> for v1::OnMissingData {
    fn from(on_missing: OnMissingData) -> Self {
        match on_missing {
            OnMissingData::Reject => Self::Reject,
            OnMissingData::Send => Self::Send,
            OnMissingData::Defer => Self::Defer,
        }
    }
}

impl From<v1::OnMissingData> for OnMissingData {
    fn from(wire: v1::OnMissingData) -> Self {
        match wire {
            v1::OnMissingData::Unspecified | v1::OnMissingData::Reject => Self::Reject,
            v1::OnMissingData::Send => Self::Send,
            v1::OnMissingData::Defer => Self::Defer,
        }
    }
}

impl From<DataUrl> for v1::DataUrl {
    fn from(data: DataUrl) -> Self {
        let DataUrl { url, timeout_ms, secret, on_missing, headers } = data;
        Self { url, timeout_ms, secret, on_missing_data: v1::OnMissingData::from(on_missing).into(), headers }
    }
}

impl From<DataSql> for v1::DataSql {
    fn from(data: DataSql) -> Self {
        let DataSql { url, query, key, timeout_ms, on_missing } = data;
        Self { url, query, key, timeout_ms, on_missing_data: v1::OnMissingData::from(on_missing).into() }
    }
}

impl From<v1::DataSql> for DataSql {
    fn from(wire: v1::DataSql) -> Self {
        let on_missing = wire.on_missing_data().into();
        let v1::DataSql { url, query, key, timeout_ms, on_missing_data: _ } = wire;
        Self { url, query, key, timeout_ms, on_missing }
    }
}

impl From<v1::DataUrl> for DataUrl {
    fn from(wire: v1::DataUrl) -> Self {
        let on_missing = wire.on_missing_data().into();
        let v1::DataUrl { url, timeout_ms, secret, on_missing_data: _, headers } = wire;
        Self { url, timeout_ms, secret, on_missing, headers }
    }
}

impl TryFrom<v1::AudienceSource> for Audience {
    type Error = InvalidField;
    fn try_from(wire: v1::AudienceSource) -> Result<Self, InvalidField> {
        let format = wire.format();
        if wire.address_field.is_empty() && wire.list.is_none() {
            return Err(InvalidField::new("audience.address", "it is missing: name the column that holds the address"));
        }
        let elsewhere = [wire.sql.is_some(), wire.file.is_some(), wire.http.is_some(), wire.list.is_some()];
        let sources = [&[!wire.audience_id.is_empty(), !wire.inline.is_empty()][..], &elsewhere].concat();
        if sources.iter().filter(|given| **given).count() > 1 {
            let why = "it has several sources: give one of audience_id, inline, sql, file, http and list";
            return Err(InvalidField::new("audience", why));
        }
        let file_format = || match format {
            v1::AudienceFormat::Unspecified => Err(InvalidField::new("audience.format", "it is missing")),
            v1::AudienceFormat::Csv => Ok(AudienceFormat::Csv),
            v1::AudienceFormat::Ndjson => Ok(AudienceFormat::Ndjson),
        };
        let source = if let Some(sql) = wire.sql {
            let database: Result<DatabaseAt, InvalidDatabaseAt> = sql.url.parse();
            let database = database.map_err(|why| InvalidField::new("audience.sql.url", why.to_string()))?;
            let timeout_ms = if sql.timeout_ms == 0 { SQL_TIMEOUT_MS } else { sql.timeout_ms };
            Source::Sql(SqlSource { database, query: sql.query, timeout_ms })
        } else if let Some(http) = wire.http {
            let timeout_ms = if http.timeout_ms == 0 { HTTP_TIMEOUT_MS } else { http.timeout_ms };
            Source::Http(HttpSource { url: http.url, headers: http.headers, timeout_ms })
        } else if let Some(file) = wire.file {
            Source::File { path: file.path, format: file_format()? }
        } else if let Some(list) = wire.list {
            Source::List { name: list.name.parse().map_err(at("audience.list"))? }
        } else if wire.audience_id.is_empty() {
            if wire.inline.len() > INLINE_ROWS_MAX {
                return Err(InvalidField::new(
                    "audience.inline",
                    format!("at most {INLINE_ROWS_MAX} rows (inline_rows_max); upload a larger audience"),
                ));
            }
            Source::Inline { rows: wire.inline }
        } else {
            let format = file_format()?;
            let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
            if wire.audience_id.len() != 64 || !wire.audience_id.bytes().all(hex) {
                return Err(InvalidField::new("audience.audience_id", "it is not an id that UploadAudience answered"));
            }
            Source::Stored { sha256: wire.audience_id, format }
        };
        let mut delimiter = wire.delimiter.chars();
        let text =
            TextForm { encoding: Some(wire.encoding).filter(|label| !label.is_empty()), delimiter: delimiter.next() };
        if delimiter.next().is_some() {
            return Err(InvalidField::new("audience.delimiter", "it has more than one character"));
        }
        Ok(Self {
            source,
            text,
            columns: wire.columns.into_iter().collect(),
            address_field: wire.address_field,
            key_field: Some(wire.key_field).filter(|k| !k.is_empty()),
        })
    }
}

impl From<Audience> for v1::AudienceSource {
    fn from(audience: Audience) -> Self {
        let wire_format = |format| match format {
            AudienceFormat::Csv => v1::AudienceFormat::Csv.into(),
            AudienceFormat::Ndjson => v1::AudienceFormat::Ndjson.into(),
        };
        let from = match audience.source {
            Source::Stored { sha256, format } => {
                Self { audience_id: sha256, format: wire_format(format), ..Self::default() }
            }
            Source::Inline { rows } => Self { inline: rows, ..Self::default() },
            Source::Sql(SqlSource { database, query, timeout_ms }) => {
                let sql = v1::SqlSource { url: database.to_string(), query, timeout_ms };
                Self { sql: Some(sql), ..Self::default() }
            }
            Source::Http(HttpSource { url, headers, timeout_ms }) => {
                Self { http: Some(v1::HttpSource { url, headers, timeout_ms }), ..Self::default() }
            }
            Source::File { path, format } => {
                Self { file: Some(v1::FileSource { path }), format: wire_format(format), ..Self::default() }
            }
            Source::List { name } => Self { list: Some(v1::ListSource { name: name.to_string() }), ..Self::default() },
        };
        Self {
            address_field: audience.address_field,
            key_field: audience.key_field.unwrap_or_default(),
            encoding: audience.text.encoding.unwrap_or_default(),
            delimiter: audience.text.delimiter.map(String::from).unwrap_or_default(),
            columns: audience.columns.into_iter().collect(),
            ..from
        }
    }
}

impl TryFrom<v1::Campaign> for Campaign {
    type Error = InvalidField;
    fn try_from(wire: v1::Campaign) -> Result<Self, InvalidField> {
        let on_unknown = match wire.on_unknown() {
            v1::OnUnknown::Unspecified | v1::OnUnknown::Resend => OnUnknown::Resend,
            v1::OnUnknown::Hold => OnUnknown::Hold,
        };
        let on_bad_row = match wire.on_bad_row() {
            v1::OnBadRow::Unspecified | v1::OnBadRow::Skip => OnBadRow::Skip,
            v1::OnBadRow::Fail => OnBadRow::Fail,
        };
        let lane = if wire.lane.is_empty() { LaneName::bulk() } else { wire.lane.parse().map_err(at("lane"))? };
        let send_at_local = wire.send_at_local.map(SendAtLocal::try_from).transpose()?;
        let mut schedule = wire.schedule;
        if let Some(schedule) = schedule.as_mut().filter(|one| one.overlap == v1::Overlap::Unspecified as i32) {
            // With waves a run goes on for a day: the one before would keep every second from running.
            let overlap = if send_at_local.is_some() { v1::Overlap::Allow } else { v1::Overlap::Skip };
            schedule.overlap = overlap.into();
        }
        let message = wire.message.ok_or_else(|| InvalidField::new("template", "it is missing"))?;
        Ok(Self {
            name: wire.name.parse().map_err(at("name"))?,
            lane,
            on_unknown,
            on_bad_row,
            schedule: schedule.map(Schedule::try_from).transpose()?,
            send_at_local,
            audience: wire.audience.map(Audience::try_from).transpose()?,
            message: message.into(),
            notify_url: wire.notify_url,
        })
    }
}

impl From<Campaign> for v1::Campaign {
    fn from(campaign: Campaign) -> Self {
        let on_unknown = match campaign.on_unknown {
            OnUnknown::Resend => v1::OnUnknown::Resend,
            OnUnknown::Hold => v1::OnUnknown::Hold,
        };
        let on_bad_row = match campaign.on_bad_row {
            OnBadRow::Skip => v1::OnBadRow::Skip,
            OnBadRow::Fail => v1::OnBadRow::Fail,
        };
        Self {
            name: campaign.name.to_string(),
            lane: campaign.lane.to_string(),
            on_unknown: on_unknown.into(),
            schedule: campaign.schedule.map(Into::into),
            send_at_local: campaign.send_at_local.map(Into::into),
            audience: campaign.audience.map(Into::into),
            message: Some(campaign.message.into()),
            notify_url: campaign.notify_url,
            on_bad_row: on_bad_row.into(),
        }
    }
}
