//! Where a campaign's recipients come from, and what can be checked of it before it is uploaded.

use super::elsewhere::{self, Elsewhere};
use super::fields::{Complaints, Fields};
use crate::failure::{Failure, Result};
use crate::toml_text::Table;
use postrider_common::campaign::{Audience, AudienceFormat, Source, TextForm};
use postrider_master::audience::ReadError;
use postrider_master::audience::read::csv;
use postrider_master::audience::row::Roles;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const KEYS: &[&str] = &[
    "csv",
    "ndjson",
    "sql",
    "file",
    "http",
    "list",
    "address",
    "key",
    "on_bad_row",
    "encoding",
    "delimiter",
    "columns",
];
/// One of them is given.
const SOURCES: &[&str] = &["csv", "ndjson", "sql", "file", "http", "list"];

/// What `[audience]` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or nothing that can be used.
    Nothing,
    Local(AudienceFile),
    /// A master reads it.
    Elsewhere(Audience),
}

/// A local file to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudienceFile {
    pub path: PathBuf,
    pub format: AudienceFormat,
    pub text: TextForm,
    pub columns: BTreeMap<String, String>,
    pub address_field: String,
    pub key_field: Option<String>,
}

/// Reads `[audience]`; also gives the `on_bad_row` that may stand there.
pub fn read(
    folder: &Path,
    table: &Table,
    line: usize,
    complaints: &mut Complaints,
) -> (Found, Option<(String, usize)>) {
    let fields = Fields::new("audience.", table, KEYS, complaints);
    let on_bad_row = fields.text("on_bad_row", complaints);
    let given: Vec<_> = SOURCES.iter().filter_map(|source| fields.entry(source)).collect();
    match given.as_slice() {
        [] => complaints.at(
            line,
            "[audience] names no source: write csv = \"FILE\", ndjson = \"FILE\", sql = { … }, http = \"https://…\", file = \"PATH\" or list = \"NAME\"",
        ),
        [_] => {}
        [first, second, ..] => complaints
            .at(second.line, format!("audience.{} and audience.{} are both there: keep one", first.key, second.key)),
    }
    let address = fields.text("address", complaints).map(|(name, _)| name);
    let key_field = fields.text("key", complaints).map(|(name, _)| name).filter(|name| !name.is_empty());
    let elsewhere = elsewhere::read(&fields, key_field.is_some(), complaints);
    let text = text_form(&fields, complaints);
    let columns = fields.text_table("columns", complaints);
    let local = match (fields.text("csv", complaints), fields.text("ndjson", complaints)) {
        (Some((name, line)), _) => Some((name, line, AudienceFormat::Csv)),
        (None, Some((name, line))) => Some((name, line, AudienceFormat::Ndjson)),
        (None, None) => None,
    };
    // A list has its own.
    let own = elsewhere.as_ref().and_then(|found| matches!(found.source, Source::List { .. }).then(String::new));
    let Some(address_field) = address.filter(|name| !name.is_empty()).or(own) else {
        complaints.at(line, "audience.address is missing: name the column that holds the address");
        return (Found::Nothing, on_bad_row);
    };
    let found = match (elsewhere, local) {
        (Some(Elsewhere { source, key }), _) => {
            Found::Elsewhere(Audience { source, text, columns, address_field, key_field: key_field.or(key) })
        }
        (None, Some((name, line, format))) => {
            let file = AudienceFile { path: folder.join(name), format, text, columns, address_field, key_field };
            if let Err(why) = file.check_columns() {
                complaints.at(line, why);
            }
            Found::Local(file)
        }
        (None, None) => Found::Nothing,
    };
    (found, on_bad_row)
}

pub(super) const ENDINGS: &str = "its name must end in .csv, .ndjson or .jsonl, compressed or not (.gz, .zst)";

/// Told by the ending of its name.
pub(super) fn format_of(path: &Path) -> Option<AudienceFormat> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let name = [".gz", ".zst"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "csv" => Some(AudienceFormat::Csv),
        "ndjson" | "jsonl" => Some(AudienceFormat::Ndjson),
        _ => None,
    }
}

fn text_form(fields: &Fields<'_>, complaints: &mut Complaints) -> TextForm {
    let encoding = fields.text("encoding", complaints).map(|(label, _)| label).filter(|label| !label.is_empty());
    let mut delimiter = None;
    if let Some((text, line)) = fields.text("delimiter", complaints) {
        let mut letters = text.chars();
        match (letters.next(), letters.next()) {
            (letter, None) => delimiter = letter,
            (_, Some(_)) => complaints.at(line, "audience.delimiter must be one character, such as \";\""),
        }
    }
    TextForm { encoding, delimiter }
}

impl AudienceFile {
    /// Tells a wrong path before anything else is done.
    pub fn exists(path: &Path) -> Result<()> {
        match std::fs::metadata(path) {
            Ok(_) => Ok(()),
            Err(error) => Err(Failure::usage(format!("audience {}: {error}", path.display()))),
        }
    }

    /// For `--audience FILE`, read as the campaign's `own` audience is: the format is told by the ending.
    pub fn of_path(path: &Path, own: Audience) -> Result<Self> {
        let told = |why| Failure::usage(format!("cannot read the audience {}: {why}", path.display()));
        let format = format_of(path).ok_or_else(|| told(ENDINGS))?;
        let Audience { source: _, text, columns, address_field, key_field } = own;
        let file = Self { path: path.to_owned(), format, text, columns, address_field, key_field };
        file.check_columns().map_err(Failure::usage)?;
        Ok(file)
    }

    /// What is to be read once it is uploaded under that name.
    pub fn stored(&self, sha256: String) -> Audience {
        Audience {
            source: Source::Stored { sha256, format: self.format },
            text: self.text.clone(),
            columns: self.columns.clone(),
            address_field: self.address_field.clone(),
            key_field: self.key_field.clone(),
        }
    }

    /// Opens the file and finds the columns in its header row (CSV), as the split will; rows are checked by that.
    pub fn check_columns(&self) -> std::result::Result<(), String> {
        let told = |why: &dyn std::fmt::Display| format!("audience {}: {why}", self.path.display());
        let file = std::fs::File::open(&self.path).map_err(|error| told(&error))?;
        if file.metadata().map_err(|error| told(&error))?.is_dir() {
            return Err(told(&"it is a folder"));
        }
        let roles = Roles::of(&self.stored(String::new()));
        match self.format {
            AudienceFormat::Ndjson => Ok(()),
            AudienceFormat::Csv => match csv(file, &self.text, roles) {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err(told(&"it is empty: its first line must name the columns")),
                Err(ReadError::Run(error)) => Err(told(&format!("{}; {}", error.message, error.mend))),
                Err(ReadError::Storage(error)) => Err(told(&error)),
            },
        }
    }
}
