//! The crash journal: what a worker that is killed leaves to the next one on the same host, so that only
//! those recipients stay in doubt whose final dot was written and whose reply was not read.
//!
//! Three things are noted, each before the step that it is about: intents before they are asked for, the
//! final dot before its first byte, the outcome before it is reported. The next process reads them and tells
//! the facts (`tell`) before it asks for work: no dot noted → not written; a dot and no outcome → unknown;
//! an outcome → that outcome.
//!
//! A note is one `pwrite` into the page cache: it survives the death of the process, whatever kills it, and
//! not a loss of power. After another boot, and wherever a file is damaged or cut, only what is noted is
//! believed, never that something is *not* noted; the store doubts the others when their lease expires, as
//! it does without a journal. When a note cannot be written the whole journal is thrown away first, for the
//! same reason; if even that fails, no dot is written.
//!
//! One mutex guards the file: connections note their dots and outcomes themselves, since a dot may not
//! leave before its note is there, and handing it to a task would cost a wake-up each.

mod folder;
mod notes;
mod record;
mod table;
mod tell;

#[cfg(test)]
mod tests;

pub(crate) use tell::tell;

use folder::{FILE_BYTES_MAX, Folder};
pub use notes::Notes;
use postrider_common::ids::{BatchId, Fence};
use postrider_common::lease::{Fact, LeaseReport, Outcome};
pub use record::Record;
use record::VERSION;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// Of one file, unless what must be carried over is large: some tens of thousands of messages. It is sparse.
const FILE_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// A new file is at least this many times as large as what is carried over into it.
const FILE_GROWTH: u64 = 4;

/// The journal of this process.
#[derive(Debug)]
pub(crate) struct Journal {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    folder: Folder,
    instance: String,
    boot: String,
    standing: Standing,
    notes: Notes,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Standing {
    Writing(Page),
    /// It could not be written and was thrown away: work goes on without.
    Gone,
    /// It could not be written nor thrown away: what it does not say would be believed.
    Stuck,
}

/// The file that is written.
#[derive(Debug)]
struct Page {
    file: File,
    path: PathBuf,
    number: u64,
    at: u64,
    bytes: u64,
}

/// What dead processes left, ours until it is told.
#[derive(Debug)]
pub(crate) struct Leftovers {
    facts: Vec<Fact>,
    files: Vec<PathBuf>,
    /// Folders of others; our own is the journal's.
    _folders: Vec<Folder>,
}

/// Takes a folder below `root`, and what nobody else holds there.
pub(crate) fn open(root: &Path, instance: &str, boot: &str) -> io::Result<(Journal, Leftovers)> {
    let mut folders = folder::take(root)?.into_iter();
    let folder = folders.next().ok_or_else(|| io::Error::other("there is no folder to take"))?;
    let folders: Vec<Folder> = folders.collect();
    let (mut facts, mut files, mut last) = (Vec::new(), Vec::new(), 0);
    for (place, folder) in std::iter::once(&folder).chain(&folders).enumerate() {
        let found = folder.files()?;
        facts.extend(folder::facts(&found, boot));
        last = found.last().map_or(last, |(number, _)| if place == 0 { *number } else { last });
        files.extend(found.into_iter().map(|(_, path)| path));
    }
    let (instance, boot) = (instance.to_owned(), boot.to_owned());
    let mut state =
        State { folder, instance, boot, standing: Standing::Gone, notes: Notes::default(), buffer: Vec::new() };
    state.standing = Standing::Writing(state.turn(last + 1)?);
    Ok((Journal { state: Mutex::new(state) }, Leftovers { facts, files, _folders: folders }))
}

/// What the journals below `root` would tell, without taking them over; for people and tests.
pub fn facts_in(root: &Path) -> io::Result<Vec<Fact>> {
    folder::facts_in(root, &boot_id())
}

/// What would be told of journals that are in memory, oldest first, after the boot `boot`.
pub fn facts_in_memory<'a>(files: impl IntoIterator<Item = &'a [u8]>, boot: &str) -> Vec<Fact> {
    folder::facts_of(files.into_iter().map(record::read), boot)
}

/// The beginning of a journal that is to be `bytes` long.
pub fn begin(instance: &str, boot: &str, bytes: u64) -> Record {
    Record::Begin { version: VERSION, instance: instance.to_owned(), boot: boot.to_owned(), bytes }
}

/// Of the running system; empty where it has none, which is never the same as another.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

impl Journal {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked there left a file whose end is not right at worst, which is what reading expects.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A lease arrived, known by this number from now on. Nothing is written before intents are asked for.
    pub(crate) fn leased(&self, lease: u64, batch: &BatchId, fence: &Fence) {
        self.state().notes.leased(lease, batch, fence);
    }

    /// Intents are about to be asked for.
    pub(crate) fn asked(&self, reports: &[LeaseReport]) {
        let mut state = self.state();
        let records = state.notes.asked(reports);
        state.note(&records);
    }

    /// The final dot is about to be written. False: it must not be.
    #[must_use]
    pub(crate) fn dot(&self, lease: u64, index: u32) -> bool {
        let mut state = self.state();
        let records = state.notes.dot(lease, index);
        state.note(&records);
        match state.standing {
            Standing::Writing(_) | Standing::Gone => true,
            Standing::Stuck => false,
        }
    }

    /// It ended, and will be reported.
    pub(crate) fn ended(&self, lease: u64, outcome: &Outcome) {
        let mut state = self.state();
        let records = state.notes.ended(lease, outcome);
        state.note(&records);
    }

    /// A master has taken these outcomes.
    pub(crate) fn told(&self, lease: u64, indexes: Vec<u32>) {
        let mut state = self.state();
        let records = state.notes.told(lease, indexes);
        state.note(&records);
    }

    /// The lease is over; these outcomes are still to be told.
    pub(crate) fn over(&self, lease: u64, owed: Vec<u32>) {
        let mut state = self.state();
        let records = state.notes.over(lease, owed);
        state.note(&records);
    }

    /// The process ends in good order: a journal that owes nothing is removed.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        if state.notes.is_empty() {
            if let Standing::Writing(page) = &state.standing {
                // What is left of it says nothing.
                let _ = std::fs::remove_file(&page.path);
            }
            state.standing = Standing::Gone;
        }
    }
}

impl State {
    /// Writes what the notes say; the table has it already.
    fn note(&mut self, records: &[Record]) {
        if records.is_empty() {
            return;
        }
        if let Err(error) = self.write(records) {
            self.throw_away(&error);
        }
    }

    fn write(&mut self, records: &[Record]) -> io::Result<()> {
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.clear();
        let fits = records.iter().all(|record| record.write(&mut bytes));
        let written = if fits { self.append(&bytes) } else { Err(too_large()) };
        self.buffer = bytes;
        written
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        let number = match &mut self.standing {
            Standing::Gone => return Ok(()),
            Standing::Stuck => return Err(io::Error::other("it is still there")),
            Standing::Writing(page) if page.at + length <= page.bytes => {
                page.file.write_all_at(bytes, page.at)?;
                page.at += length;
                return Ok(());
            }
            Standing::Writing(page) => page.number,
        };
        // What was to be noted is in the table already, and so in the new file.
        let page = self.turn(number + 1)?;
        if let Standing::Writing(full) = std::mem::replace(&mut self.standing, Standing::Writing(page)) {
            std::fs::remove_file(&full.path)?;
        }
        Ok(())
    }

    /// Begins a new file with what is still owed. It gets its name when it is complete.
    fn turn(&self, number: u64) -> io::Result<Page> {
        let mut carried = Vec::new();
        if !self.notes.table.records().iter().all(|record| record.write(&mut carried)) {
            return Err(too_large());
        }
        let bytes = (carried.len() as u64 * FILE_GROWTH).max(FILE_BYTES_MIN);
        let begin = begin(&self.instance, &self.boot, bytes);
        let mut contents = Vec::new();
        if bytes > FILE_BYTES_MAX || !begin.write(&mut contents) {
            return Err(too_large());
        }
        contents.append(&mut carried);
        let (draft, path) = (self.folder.draft(), self.folder.file(number));
        let mut file = folder::private().truncate(true).open(&draft)?;
        file.write_all(&contents)?;
        file.set_len(bytes)?;
        std::fs::rename(&draft, &path)?;
        Ok(Page { file, path, number, at: contents.len() as u64, bytes })
    }

    /// It cannot be written any more, so nothing may be concluded from what it does not say.
    fn throw_away(&mut self, error: &io::Error) {
        let was_writing = matches!(self.standing, Standing::Writing(_));
        if let Standing::Writing(page) = &self.standing {
            // A file that is too short says by itself that something is missing.
            let _ = page.file.set_len(0);
            let _ = std::fs::remove_file(&page.path);
        }
        let is_left = self.folder.files().map_or(true, |files| {
            files.iter().any(|(_, path)| is_believed(path, &self.instance) && std::fs::remove_file(path).is_err())
        });
        if was_writing {
            let folder = self.folder.path().display();
            tracing::error!(%folder, %error, "failed to write the crash journal: make room on its disk and restart this worker; until then a crash leaves all its recipients in intent in doubt");
        }
        self.standing = if is_left { Standing::Stuck } else { Standing::Gone };
    }
}

/// A file of this process that a reader would take to be complete.
fn is_believed(path: &Path, instance: &str) -> bool {
    let Ok(bytes) = std::fs::read(path) else { return true };
    record::read(&bytes).is_some_and(|contents| contents.instance == instance && contents.is_whole)
}

fn too_large() -> io::Error {
    io::Error::other("more is owed than fits")
}

impl Leftovers {
    /// All is told: they are not needed any more.
    fn discard(self) {
        for path in &self.files {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(file = %path.display(), %error, "failed to remove a crash journal that is told");
            }
        }
    }
}
