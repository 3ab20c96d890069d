//! The folder below which a master reads files that campaigns name. Nothing else of the machine is theirs.

use super::FetchError;
use std::path::{Component, Path, PathBuf};

/// `master.files_root`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesRoot(PathBuf);

impl FilesRoot {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The file that is meant, after every symbolic link was followed: it is below the root.
    fn find(&self, path: &str) -> Result<PathBuf, String> {
        let path = Path::new(path);
        let plain = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        let below = path.strip_prefix(&self.0).unwrap_or(path);
        let is_plain = below.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !plain && !is_plain {
            return Err("it is not below master.files_root".into());
        }
        let root = self.0.canonicalize().map_err(|error| format!("master.files_root: {error}"))?;
        let found = root.join(below).canonicalize().map_err(|error| error.to_string())?;
        if !found.starts_with(&root) {
            return Err("it leads out of master.files_root".into());
        }
        if !found.is_file() {
            return Err("it is no file".into());
        }
        Ok(found)
    }
}

/// The same in the words of a run. Blocking.
pub(super) fn find(root: Option<&FilesRoot>, setting: &str, path: &str) -> Result<PathBuf, FetchError> {
    let shown: String =
        path.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(PATH_CHARS_SHOWN_MAX).collect();
    let Some(root) = root else {
        let message = format!("{setting} names the file {shown}, and this master reads no files for campaigns");
        return Err(FetchError::lasting(
            "source_file",
            message,
            "set master.files_root on every master, then resume the run",
        ));
    };
    root.find(path).map_err(|why| {
        let mend = "put it below master.files_root of every master, or name another, then resume the run";
        FetchError::lasting("source_file", format!("{setting}: the file {shown}: {why}"), mend)
    })
}

const PATH_CHARS_SHOWN_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_the_root() {
        let folder = tempfile::tempdir().expect("a folder");
        let outside = folder.path().join("secret.csv");
        std::fs::write(&outside, "email\n").expect("written");
        let root = folder.path().join("root");
        std::fs::create_dir_all(root.join("sub")).expect("made");
        std::fs::write(root.join("people.csv"), "email\n").expect("written");
        std::fs::write(root.join("sub/more.csv"), "email\n").expect("written");
        std::os::unix::fs::symlink(&outside, root.join("link.csv")).expect("linked");
        std::os::unix::fs::symlink(folder.path(), root.join("up")).expect("linked");
        std::os::unix::fs::symlink("people.csv", root.join("same.csv")).expect("linked");
        let files = FilesRoot::new(&root);
        for good in
            ["people.csv", "./people.csv", "sub/more.csv", "same.csv", root.join("people.csv").to_str().expect("UTF-8")]
        {
            assert!(files.find(good).is_ok(), "{good}: {:?}", files.find(good));
        }
        let absolute = outside.to_str().expect("UTF-8").to_owned();
        for bad in [
            "../secret.csv",
            "sub/../../secret.csv",
            "sub/../people.csv",
            "link.csv",
            "up/secret.csv",
            &absolute,
            "/etc/passwd",
            "none.csv",
            "sub",
            "",
            "/",
        ] {
            assert!(files.find(bad).is_err(), "{bad} is found");
        }
        assert_eq!(find(None, "audience.file", "people.csv").expect_err("no root").error.code, "source_file");
    }
}
