//! Durability: every call is logged before it is answered, in a redb file; now and then the whole model
//! is written and the log begins anew.
//!
//! Replaying is exact because the model is deterministic in its calls and their times.

use super::model::{Command, Model};
use crate::api::Result;
use crate::error::StoreError;
use redb::{Database, DatabaseError, Durability, ReadableDatabase, TableDefinition};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
const SNAPSHOT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshot");
/// Of the records and the snapshot. A store of another version is refused, not guessed at.
const SCHEMA: u32 = 11;
/// Bytes of log after which the model is written whole: bounds the time of a restart.
const LOG_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Record<C> {
    now_ms: i64,
    command: C,
}

#[derive(Serialize, Deserialize)]
struct Snapshot<M> {
    schema: u32,
    /// Records up to this one are in the model.
    sequence: u64,
    model: M,
}

/// What the file is called, and while it is made anew.
const FILE: &str = "store.redb";
const FRESH_FILE: &str = "store.redb.new";

/// What ends an erasure: from then on nothing of what was erased may be in the file, and that includes old records and
/// pages that are not used any more.
fn ends_an_erasure(command: &Command) -> bool {
    matches!(command, Command::WriteErasure(write) if !write.open)
}

#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    database: Database,
    sequence: u64,
    bytes: u64,
}

impl Log {
    /// Opens or creates `folder/store.redb` and rebuilds the model.
    pub fn open(folder: &Path) -> Result<(Self, Model)> {
        let place = folder.display();
        std::fs::create_dir_all(folder)
            .map_err(|error| StoreError::Url(format!("cannot create the folder {place}: {error}")))?;
        let database = Database::create(folder.join(FILE)).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::Url(format!(
                "{place} is in use by another process; an embedded store serves one master: use redis:// for several"
            )),
            other => StoreError::Corrupt(format!("{place}: {other}")),
        })?;
        // Left by a process that ended while it made the file anew.
        let _ = std::fs::remove_file(folder.join(FRESH_FILE));
        let mut log = Self { folder: folder.to_owned(), database, sequence: 0, bytes: 0 };
        let model = log.load().map_err(|error| match error {
            StoreError::Corrupt(why) => StoreError::Corrupt(format!("{place}: {why}")),
            other => other,
        })?;
        Ok((log, model))
    }

    fn load(&mut self) -> Result<Model> {
        let write = self.database.begin_write().map_err(corrupt)?;
        write.open_table(RECORDS).map_err(corrupt)?;
        write.open_table(SNAPSHOT).map_err(corrupt)?;
        write.commit().map_err(corrupt)?;

        let read = self.database.begin_read().map_err(corrupt)?;
        let snapshot = read.open_table(SNAPSHOT).map_err(corrupt)?;
        let mut model = Model::default();
        if let Some(bytes) = snapshot.get("model").map_err(corrupt)? {
            let (schema, _): (u32, _) = postcard::take_from_bytes(bytes.value()).map_err(corrupt)?;
            if schema != SCHEMA {
                return Err(StoreError::Unsafe {
                    message: format!("the embedded store has schema {schema}, this program writes {SCHEMA}"),
                    mend: "use the version that wrote it, or start with an empty folder".to_owned(),
                });
            }
            let whole: Snapshot<Model> = postcard::from_bytes(bytes.value()).map_err(corrupt)?;
            self.sequence = whole.sequence;
            model = whole.model;
        }
        let records = read.open_table(RECORDS).map_err(corrupt)?;
        let mut has_erased = false;
        for row in records.range(self.sequence + 1..).map_err(corrupt)? {
            let (sequence, bytes) = row.map_err(corrupt)?;
            let record: Record<Command> = postcard::from_bytes(bytes.value()).map_err(corrupt)?;
            has_erased |= ends_an_erasure(&record.command);
            model.replay(record.now_ms, record.command);
            self.sequence = sequence.value();
            self.bytes += bytes.value().len() as u64;
        }
        if self.sequence == 0 {
            drop((snapshot, records, read));
            self.compact(&model)?;
        } else if has_erased {
            drop((snapshot, records, read));
            self.renew(&model)?;
        }
        Ok(model)
    }

    /// Writes the commands in one transaction. With `sync` they are on disk when this returns; without,
    /// with the next that is.
    pub fn append(&mut self, now_ms: i64, commands: &[Command], sync: bool) -> Result<()> {
        if commands.is_empty() {
            return Ok(());
        }
        let mut write = self.database.begin_write().map_err(failed)?;
        write.set_durability(if sync { Durability::Immediate } else { Durability::None }).map_err(failed)?;
        {
            let mut records = write.open_table(RECORDS).map_err(failed)?;
            for command in commands {
                let record = postcard::to_stdvec(&Record { now_ms, command }).map_err(failed)?;
                self.sequence += 1;
                self.bytes += record.len() as u64;
                records.insert(self.sequence, record.as_slice()).map_err(failed)?;
            }
        }
        write.commit().map_err(failed)
    }

    /// As `compact`, into a new file that takes the place of this one, if these end an erasure.
    pub fn renew_after(&mut self, commands: &[Command], model: &Model) -> Result<()> {
        if commands.iter().any(ends_an_erasure) { self.renew(model) } else { Ok(()) }
    }

    fn renew(&mut self, model: &Model) -> Result<()> {
        let (fresh, place) = (self.folder.join(FRESH_FILE), self.folder.join(FILE));
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => (),
        }
        let before = std::mem::replace(&mut self.database, Database::create(&fresh).map_err(failed)?);
        let written = self.compact(model).and_then(|()| std::fs::rename(&fresh, &place).map_err(failed));
        if let Err(error) = written {
            self.database = before;
            return Err(error);
        }
        std::fs::File::open(&self.folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    pub fn compact_when_long(&mut self, model: &Model) -> Result<()> {
        if self.bytes < LOG_BYTES_MAX { Ok(()) } else { self.compact(model) }
    }

    /// Writes the whole model and drops the records that are in it.
    fn compact(&mut self, model: &Model) -> Result<()> {
        let whole = Snapshot { schema: SCHEMA, sequence: self.sequence, model };
        let bytes = postcard::to_stdvec(&whole).map_err(failed)?;
        let write = self.database.begin_write().map_err(failed)?;
        write.open_table(SNAPSHOT).map_err(failed)?.insert("model", bytes.as_slice()).map_err(failed)?;
        write.open_table(RECORDS).map_err(failed)?.retain(|_, _| false).map_err(failed)?;
        write.commit().map_err(failed)?;
        self.bytes = 0;
        Ok(())
    }
}

fn corrupt(error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(error.to_string())
}

/// A failed write: it may be on disk or not, only a restart can tell.
fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("the log on disk failed: {error}"))
}
