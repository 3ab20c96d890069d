//! Folders on disk: one for each worker process that runs, and what dead ones left in theirs.
//!
//! In the configured folder a process takes the first `worker-N` whose lock is free, so any number of
//! workers may share the configured folder. Locks end with their process. Whoever starts takes over every
//! folder that nobody holds.

use super::record::{self, Contents};
use super::table::Table;
use postrider_common::lease::Fact;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Workers on one host that share a folder.
const FOLDERS_MAX: u32 = 1_000;
/// Of one file; a larger one is not ours.
pub(super) const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const PREFIX: &str = "worker-";
const LOCK: &str = "lock";
const SUFFIX: &str = ".journal";
/// A file that is not complete yet.
const DRAFT: &str = ".draft";

/// A folder that is ours as long as this lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

/// Replies may name recipients, so nobody else may read them.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

fn create(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Every folder that nobody holds, ours first. There is always one.
pub(super) fn take(root: &Path) -> io::Result<Vec<Folder>> {
    create(root)?;
    let mut present = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|number| number.parse().ok());
        present.extend(number.filter(|number: &u32| (1..=FOLDERS_MAX).contains(number)));
    }
    present.sort_unstable();
    let mut taken = Vec::new();
    for number in &present {
        taken.extend(lock(root, *number)?);
    }
    if taken.is_empty() {
        for number in (1..=FOLDERS_MAX).filter(|number| !present.contains(number)) {
            if let Some(folder) = lock(root, number)? {
                return Ok(vec![folder]);
            }
        }
        return Err(io::Error::other(format!("{FOLDERS_MAX} workers use it already")));
    }
    Ok(taken)
}

/// `None`: another process holds it.
fn lock(root: &Path, number: u32) -> io::Result<Option<Folder>> {
    let path = root.join(format!("{PREFIX}{number}"));
    create(&path)?;
    let lock = private().open(path.join(LOCK))?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(Folder { path, _lock: lock })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl Folder {
    pub(super) fn file(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:016}{SUFFIX}"))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn draft(&self) -> PathBuf {
        self.path.join(DRAFT)
    }

    /// The files in it, in the order in which they were begun.
    pub(super) fn files(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        files_in(&self.path)
    }
}

fn files_in(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).and_then(|number| number.parse().ok());
        files.extend(number.map(|number: u64| (number, entry.path())));
    }
    files.sort_unstable();
    Ok(files)
}

/// What the files of one folder say. Files that cannot be read count as damaged.
pub(super) fn facts(files: &[(u64, PathBuf)], boot: &str) -> Vec<Fact> {
    let contents = |(_, path): &(u64, PathBuf)| {
        let contents = read(path);
        match &contents {
            None => {
                tracing::warn!(file = %path.display(), "a crash journal cannot be read; its recipients stay in doubt");
            }
            Some(Contents { is_whole: false, records, .. }) => {
                tracing::warn!(file = %path.display(), records = records.len(), "a crash journal is damaged; what it says up to there is used");
            }
            Some(_) => {}
        }
        contents
    };
    facts_of(files.iter().map(contents), boot)
}

/// What files say that followed each other, in their order. None: one that cannot be read.
pub(super) fn facts_of(files: impl Iterator<Item = Option<Contents>>, boot: &str) -> Vec<Fact> {
    let mut facts = Vec::new();
    let (mut table, mut instance, mut is_whole) = (Table::default(), String::new(), true);
    for contents in files {
        let Some(contents) = contents else {
            is_whole = false;
            continue;
        };
        let Contents { instance: of, boot: then, records, is_whole: is_file_whole } = contents;
        if of != instance && !instance.is_empty() {
            facts.extend(std::mem::take(&mut table).facts(is_whole));
            is_whole = true;
        }
        instance = of;
        is_whole &= is_file_whole && then == boot && !boot.is_empty();
        records.into_iter().for_each(|record| table.apply(record));
    }
    facts.extend(table.facts(is_whole));
    facts
}

fn read(path: &Path) -> Option<Contents> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    record::read(&bytes)
}

/// What would be told of the journals in a configured folder, without taking them over; for looking.
pub(super) fn facts_in(root: &Path, boot: &str) -> io::Result<Vec<Fact>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(root)? {
        all.extend(facts(&files_in(&entry?.path())?, boot));
    }
    Ok(all)
}
