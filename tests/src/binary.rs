//! Where the program under test is.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The binary under test, given by `scripts/test`; without it the debug build is brought up to date once.
pub const BIN: &str = "POSTRIDER_BIN";
/// A binary built with `--features s3,sql`, for a storage that is a bucket and audiences from databases.
pub const BIN_COMPLETE: &str = "POSTRIDER_BIN_COMPLETE";
/// A binary built with `--features sabotage`, for the runs that must go red.
pub const BIN_SABOTAGED: &str = "POSTRIDER_BIN_SABOTAGED";
/// Which fault a sabotaged binary shows: `ignore_fences` or `skip_intents`.
pub const SABOTAGE: &str = "POSTRIDER_SABOTAGE";

pub fn postrider() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    from_env(BIN).unwrap_or_else(|| BUILT.get_or_init(|| build(&[])).clone())
}

/// Built under a name of its own: cargo would write both builds to the same path.
pub fn sabotaged() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    from_env(BIN_SABOTAGED).unwrap_or_else(|| {
        BUILT.get_or_init(|| build(&["--features", "sabotage", "--target-dir", &apart("sabotage")])).clone()
    })
}

pub fn complete() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    from_env(BIN_COMPLETE).unwrap_or_else(|| {
        BUILT.get_or_init(|| build(&["--features", "s3,sql", "--target-dir", &apart("complete")])).clone()
    })
}

fn from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn apart(feature: &str) -> String {
    target().join(feature).display().to_string()
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
}

fn build(flags: &[&str]) -> PathBuf {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command.args(["build", "--quiet", "-p", "postrider"]).args(flags);
    let status = command.status().expect("cargo can be started");
    assert!(status.success(), "cargo build -p postrider {flags:?}: {status}");
    let folder = flags.last().map_or_else(target, PathBuf::from);
    folder.join("debug").join("postrider")
}
