//! A file below `master.files_root`, kept as it was when it was read.

use super::root::find;
use super::{FetchError, Fetcher, FilesRoot, Form, Pieces};
use async_trait::async_trait;
use tokio::io::AsyncReadExt as _;

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct FileFetcher {
    root: Option<FilesRoot>,
    path: String,
    form: Form,
}

impl FileFetcher {
    pub fn new(root: Option<FilesRoot>, path: &str, form: Form) -> Self {
        Self { root, path: path.to_owned(), form }
    }
}

#[async_trait]
impl Fetcher for FileFetcher {
    fn form(&self) -> Form {
        self.form.clone()
    }

    async fn fetch(&self, pieces: &mut Pieces) -> Result<(), FetchError> {
        let wrong = |error: std::io::Error| {
            let message = format!("audience.file: the file {}: {error}", self.path);
            FetchError::lasting("source_file", message, "make it readable for every master, then resume the run")
        };
        let (root, path) = (self.root.clone(), self.path.clone());
        let found = tokio::task::spawn_blocking(move || find(root.as_ref(), "audience.file", &path)).await;
        let found = found.map_err(|error| wrong(std::io::Error::other(error)))??;
        let mut file = tokio::fs::File::open(&found).await.map_err(wrong)?;
        let mark = |data: std::fs::Metadata| Ok::<_, std::io::Error>((data.len(), data.modified()?));
        let before = file.metadata().await.and_then(mark).map_err(wrong)?;
        loop {
            let mut bytes = Vec::with_capacity(READ_BYTES);
            if file.read_buf(&mut bytes).await.map_err(wrong)? == 0 {
                break;
            }
            pieces.raw(bytes).await?;
        }
        // What was being written to is half of one file and half of another.
        if file.metadata().await.and_then(mark).map_err(wrong)? != before {
            let message = format!("audience.file: the file {} changed while it was read", self.path);
            let mend = "write it under another name and rename it when it is whole, then resume the run";
            return Err(FetchError::passing("source_changed", message, mend));
        }
        Ok(())
    }
}
