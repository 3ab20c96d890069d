//! An audience, row by row: where recipients come from before they are in a run.
//!
//! `text` makes UTF-8 of a source, `csv` and `ndjson` cut that into records, `row` decides whether a record is a recipient, `read`
//! does the input and output. Rows come in the order of the source and are the same at each reading:
//! the position of a split is a number of rows.

pub mod csv;
pub mod ndjson;
pub mod read;
pub mod row;
pub mod text;

pub use row::{Row, RowReason};

use postrider_common::run::RunError;

/// Why an audience cannot be read on. Either the run fails, or the same is tried again later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// The audience is wrong: the run fails with this until a person mends it.
    Run(RunError),
    /// The storage did not answer as it should; it may later.
    Storage(String),
}

impl ReadError {
    pub fn run(code: &str, message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::Run(RunError { code: code.to_owned(), message: message.into(), mend: mend.into() })
    }
}

/// Columns named in an error message: more would hide the sentence.
const COLUMNS_SHOWN_MAX: usize = 30;
/// Characters of one column name in an error message.
const COLUMN_CHARS_SHOWN_MAX: usize = 60;

/// The error for a column that is not there: names it, what there is, and the nearest.
pub fn column_missing(setting: &str, wanted: &str, columns: &[String]) -> ReadError {
    let shown: Vec<String> = columns.iter().take(COLUMNS_SHOWN_MAX).map(|c| format!("'{}'", shorten(c))).collect();
    let more = if columns.len() > COLUMNS_SHOWN_MAX { ", …" } else { "" };
    let (wanted_shown, shown) = (shorten(wanted), shown.join(", "));
    let message = format!("the audience has no column '{wanted_shown}' (audience.{setting}); it has {shown}{more}");
    let separator = columns.iter().find_map(|c| [';', '\t', '|'].into_iter().find(|s| c.contains(*s)));
    let mend = match (nearest(wanted, columns), separator) {
        (Some(near), _) => {
            format!("did you mean '{}'? name a column that is there in audience.{setting}", shorten(near))
        }
        (None, Some(separator)) => format!("the columns seem to be separated so: audience.delimiter = {separator:?}"),
        (None, None) => format!("name a column that is there in audience.{setting}"),
    };
    ReadError::run("audience_column_missing", message, mend)
}

/// Of `names` the one that `wanted` may have meant, if one is near enough.
pub fn nearest<'a>(wanted: &str, names: &'a [String]) -> Option<&'a str> {
    let wanted = wanted.to_lowercase();
    let near = |name: &'a String| (strsim::jaro_winkler(&wanted, &name.to_lowercase()), name.as_str());
    let best = names.iter().take(postrider_common::limits::FIELDS_MAX).map(near).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= 0.75).then_some(best.1)
}

pub(crate) fn shorten(name: &str) -> String {
    let clean = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    name.chars().take(COLUMN_CHARS_SHOWN_MAX).map(clean).collect()
}
