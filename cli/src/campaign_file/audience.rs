//! Where a campaign's recipients come from, and what can be checked of it before it is uploaded.

use super::fields::{Complaints, Fields};
use crate::failure::{Failure, Result};
use crate::toml_text::{Table, nearest};
use postrider_common::campaign::AudienceFormat;
use std::path::{Path, PathBuf};

const KEYS: &[&str] = &["csv", "ndjson", "sql", "http", "address", "key", "on_bad_row"];
/// A header row longer than this is not one.
const HEADER_BYTES_MAX: u64 = 1024 * 1024;

/// A local file to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudienceFile {
    pub path: PathBuf,
    pub format: AudienceFormat,
    pub address_field: String,
    pub key_field: Option<String>,
}

/// Reads `[audience]`; also gives the `on_bad_row` that may stand there.
pub fn read(
    folder: &Path,
    table: &Table,
    line: usize,
    complaints: &mut Complaints,
) -> (Option<AudienceFile>, Option<(String, usize)>) {
    let fields = Fields::new("audience.", table, KEYS, complaints);
    let on_bad_row = fields.text("on_bad_row", complaints);
    for later in ["sql", "http"] {
        if let Some(entry) = fields.entry(later) {
            let why = format!("audience.{later} comes later: this version reads csv and ndjson files; export to one");
            complaints.at(entry.line, why);
        }
    }
    let address = fields.text("address", complaints).map(|(name, _)| name);
    let key_field = fields.text("key", complaints).map(|(name, _)| name).filter(|name| !name.is_empty());
    let source = match (fields.text("csv", complaints), fields.text("ndjson", complaints)) {
        (Some(_), Some((_, line))) => {
            complaints.at(line, "audience.csv and audience.ndjson are both there: keep one");
            None
        }
        (Some((name, line)), None) => Some((name, line, AudienceFormat::Csv)),
        (None, Some((name, line))) => Some((name, line, AudienceFormat::Ndjson)),
        (None, None) => {
            if ["csv", "ndjson", "sql", "http"].iter().all(|key| fields.entry(key).is_none()) {
                complaints.at(line, "[audience] names no source: write csv = \"FILE\" or ndjson = \"FILE\"");
            }
            None
        }
    };
    let Some(address_field) = address.filter(|name| !name.is_empty()) else {
        complaints.at(line, "audience.address is missing: name the column that holds the address");
        return (None, on_bad_row);
    };
    let file = source.map(|(name, line, format)| {
        let file = AudienceFile { path: folder.join(name), format, address_field, key_field };
        if let Err(why) = file.check_columns() {
            complaints.at(line, why);
        }
        file
    });
    (file, on_bad_row)
}

impl AudienceFile {
    /// Tells a wrong path before anything else is done.
    pub fn exists(path: &Path) -> Result<()> {
        match std::fs::metadata(path) {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::usage(format!("audience {}: {error}", path.display()))),
        }
    }

    /// For `--audience FILE`: the format is told by the ending.
    pub fn of_path(path: &Path, address_field: &str, key_field: Option<String>) -> Result<Self> {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
        let format = match ending.as_str() {
            "csv" => AudienceFormat::Csv,
            "ndjson" | "jsonl" => AudienceFormat::Ndjson,
            _ => {
                let why = "its name must end in .csv, .ndjson or .jsonl";
                return Err(Failure::usage(format!("cannot read the audience {}: {why}", path.display())));
            }
        };
        let address_field = address_field.to_owned();
        let file = Self { path: path.to_owned(), format, address_field, key_field };
        file.check_columns().map_err(Failure::usage)?;
        Ok(file)
    }

    /// Opens the file and finds the columns in its header row (CSV); rows are checked by the split.
    pub fn check_columns(&self) -> std::result::Result<(), String> {
        let path = self.path.display();
        let file = std::fs::File::open(&self.path).map_err(|error| format!("audience {path}: {error}"))?;
        if file.metadata().map_err(|error| format!("audience {path}: {error}"))?.is_dir() {
            return Err(format!("audience {path}: it is a folder"));
        }
        match self.format {
            AudienceFormat::Ndjson => Ok(()),
            AudienceFormat::Csv => self.check_header(file),
        }
    }

    fn check_header(&self, file: std::fs::File) -> std::result::Result<(), String> {
        let path = self.path.display();
        let head = std::io::Read::take(file, HEADER_BYTES_MAX);
        let mut reader = csv::ReaderBuilder::new().has_headers(true).from_reader(head);
        let header = reader.headers().map_err(|error| format!("audience {path}: its header row is wrong: {error}"))?;
        let name = |name: &str| name.trim_start_matches('\u{feff}').to_owned();
        let columns: Vec<String> = header.iter().map(name).collect();
        if columns.iter().all(String::is_empty) {
            return Err(format!("audience {path}: it is empty: its first line must name the columns"));
        }
        let wanted = [("address", Some(&self.address_field)), ("key", self.key_field.as_ref())];
        for (key, column) in wanted {
            let Some(column) = column else { continue };
            if !columns.contains(column) {
                let near = nearest(column, columns.iter().map(String::as_str)).unwrap_or_default();
                let all = columns.join(", ");
                return Err(format!(
                    "audience {path}: there is no column '{column}' (audience.{key}); the nearest is '{near}'; \
                     the columns are {all}"
                ));
            }
        }
        Ok(())
    }
}
