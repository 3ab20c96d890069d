//! Rules of the house that a program can check. Each test is one rule of ARCHITECTURE.md or DESIGN.md.

mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Beyond this a file holds two reasons to change.
const LINES_MAX: usize = 600;
/// Files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];
const CRATES: [&str; 11] =
    ["proto", "common", "store", "mail", "outgoing", "sql", "master", "worker", "cli", "tests", "bench"];
/// Crates that speak the domain's words.
const DOMAIN: [&str; 9] = [
    "common/src",
    "store/src",
    "mail/src",
    "outgoing/src",
    "sql/src",
    "master/src",
    "worker/src",
    "cli/src",
    "tests/sim",
];
/// Keys of `postrider.toml` that other programs may rely on.
const PINNED_KEYS: &[(&str, &[&str])] = &[
    ("master", &["grpc_listen", "http_listen"]),
    ("store", &["url", "durability", "shards"]),
    ("storage", &["url"]),
    ("lease", &["ttl", "window", "doubt_grace", "hard_cap"]),
    ("lane", &["name", "weight", "rate", "burst", "concurrency", "retry"]),
    ("site", &["name", "domains", "rate", "concurrency"]),
    ("worker", &["master", "name", "slots", "lanes", "reserve", "source_address", "ehlo", "journal", "drain_timeout"]),
    ("relay", &["name", "url", "lanes", "connections", "connections_total", "rate"]),
];

struct Source {
    /// Relative to the root, with `/`.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace").to_owned()
}

fn sources(extensions: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in CRATES {
        walk(&root().join(folder), extensions, &mut found);
    }
    assert!(!found.is_empty(), "no sources under {}", root().display());
    found
}

fn walk(folder: &Path, extensions: &[&str], found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if entry.file_name() != "target" {
                walk(&path, extensions, found);
            }
        } else if path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)) {
            let relative = path.strip_prefix(root()).expect("it is under the root").display().to_string();
            found.push(Source { path: relative, text: fs::read_to_string(&path).expect("a source is UTF-8") });
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn is_under(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path.starts_with(place))
}

/// Code without comments and doc comments, line by line, numbered from 1.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default()))
        .filter(|(_, line)| !line.trim().is_empty())
}

/// True when `line` names the crate: `name::` or `use name` with no identifier before it.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

fn assert_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

fn crate_only_in(name: &str, places: &[&str]) {
    let mut broken = Vec::new();
    for source in sources(&["rs"]) {
        if is_under(&source.path, places) || source.path.starts_with("tests/tidy") {
            continue;
        }
        for (number, line) in code(&source.text) {
            if names_crate(line, name) {
                broken.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert_none(&format!("`{name}` is named only in {places:?}"), &broken);
}

#[test]
fn redis_is_named_only_by_its_store() {
    // open.rs names the module of that name, to choose between the two stores.
    crate_only_in("redis", &["store/src/redis", "store/src/open.rs", "store/tests", "bench/src"]);
}

#[test]
fn tonic_is_named_only_at_the_edges() {
    // The client commands are an edge as a whole.
    let edges = [
        "proto/",
        "master/src/api",
        "master/src/start.rs",
        "master/tests",
        "worker/src/dispatch",
        "worker/tests",
        "cli/src",
        // Masters are called as a server would call them.
        "tests/sim",
    ];
    crate_only_in("tonic", &edges);
}

#[test]
fn wall_time_is_read_only_by_the_clock() {
    let mut broken = Vec::new();
    for source in sources(&["rs"]) {
        if source.path == "common/src/clock.rs" || source.path.starts_with("tests/tidy") {
            continue;
        }
        for (number, line) in code(&source.text) {
            for call in ["SystemTime::now", "Utc::now", "Local::now", "thread_rng", "UNIX_EPOCH"] {
                if line.contains(call) {
                    broken.push(format!("{}:{number}: {}", source.path, line.trim()));
                }
            }
        }
    }
    assert_none("wall time and randomness come through `Clock`", &broken);
}

#[test]
fn files_are_short_enough_to_read() {
    let mut broken = Vec::new();
    for source in sources(&["rs", "lua"]) {
        let lines = source.text.lines().count();
        let listed = LONG_FILES.iter().any(|(path, _)| *path == source.path);
        if lines > LINES_MAX && !listed {
            broken.push(format!("{}: {lines} lines", source.path));
        }
        if lines <= LINES_MAX && listed {
            broken.push(format!("{}: {lines} lines, take it off the list of exceptions", source.path));
        }
    }
    assert_none(&format!("no file has more than {LINES_MAX} lines"), &broken);
}

#[test]
fn modules_are_not_drawers() {
    let drawers = ["util", "utils", "helper", "helpers", "manager", "misc", "common_types", "types", "data", "info"];
    let mut broken = Vec::new();
    for source in sources(&["rs"]) {
        let path = Path::new(&source.path);
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let folders = path.parent().into_iter().flat_map(Path::components).map(|c| c.as_os_str().to_string_lossy());
        if drawers.contains(&stem) || folders.into_iter().any(|folder| drawers.contains(&folder.as_ref())) {
            broken.push(source.path.clone());
        }
        if !is_under(&source.path, &DOMAIN) {
            continue;
        }
        for (number, line) in code(&source.text) {
            for name in words::declared(line) {
                if let Some(word) = words::banned(name) {
                    broken.push(format!("{}:{number}: '{word}' in {name}", source.path));
                }
            }
        }
    }
    assert_none("modules and types are named after what they do, in the words of DESIGN.md section 3", &broken);
}

#[test]
fn no_path_of_one_machine() {
    let mut broken = Vec::new();
    let mut texts = sources(&["rs", "lua", "toml", "proto", "sh", "md"]);
    for folder in ["scripts", "docs", "examples", ".ci"] {
        walk(&root().join(folder), &["md", "toml", "py", "html", "txt", "sh"], &mut texts);
    }
    // Spelled in two parts, so that this file does not break its own rule.
    let homes = [["/ho", "me/"].concat(), ["/ro", "ot/"].concat(), ["/Us", "ers/"].concat()];
    for source in texts {
        for (index, line) in source.text.lines().enumerate() {
            if homes.iter().any(|home| line.contains(home.as_str())) {
                broken.push(format!("{}:{}: {}", source.path, index + 1, line.trim()));
            }
        }
    }
    assert_none("nothing names a home folder", &broken);
}

/// The methods of `Store`: those that change something are the transitions.
fn store_methods() -> Vec<String> {
    let text = read("store/src/api.rs");
    let body = text.split_once("pub trait Store").and_then(|(_, rest)| rest.split_once("\n}\n")).expect("a trait").0;
    body.lines()
        .filter_map(|line| line.trim().strip_prefix("async fn "))
        .filter_map(|rest| rest.split('(').next())
        .map(str::to_owned)
        .collect()
}

/// Methods of `Store` that only look.
const LOOKS: &[&str] = &[
    "now_ms",
    "rooms",
    "campaign",
    "campaigns",
    "definition",
    "due_schedules",
    "run",
    "runs",
    "runs_to_cancel",
    "bad_rows",
    "batches",
    "workers",
    "lanes",
    "dead_letters",
    "runs_to_forget",
    "left_segments",
    "kept",
    "erasure",
    "open_erasures",
    "suppression_set",
    "suppressions_of",
    "suppressions_after",
];

#[test]
fn every_transition_is_on_the_page() {
    let page = read("docs/state-machines.md");
    let methods = store_methods();
    assert!(methods.len() > LOOKS.len(), "the trait was not understood: {methods:?}");
    let broken: Vec<String> = methods
        .iter()
        .filter(|method| !LOOKS.contains(&method.as_str()))
        .filter(|method| !page.contains(method.as_str()))
        .cloned()
        .collect();
    assert_none("every transition of `Store` is named in docs/state-machines.md", &broken);
}

#[test]
fn every_script_says_what_it_takes_and_refuses() {
    let page = read("docs/state-machines.md");
    let methods: BTreeSet<String> = store_methods().into_iter().collect();
    let scripts: Vec<Source> =
        sources(&["lua"]).into_iter().filter(|source| source.path.starts_with("store/src/redis")).collect();
    assert!(!scripts.is_empty(), "the redis store has scripts");
    let mut broken = Vec::new();
    for script in scripts {
        let name = Path::new(&script.path).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let header: String =
            script.text.lines().take_while(|line| line.starts_with("--") || line.starts_with("#!")).collect();
        let is_transition = methods.contains(name);
        if is_transition {
            for part in ["KEYS", "ARGV", "eturns", "efuses"] {
                if !header.contains(part) {
                    broken.push(format!("{}: the header does not say {part}", script.path));
                }
            }
            if !LOOKS.contains(&name) && !page.contains(name) {
                broken.push(format!("{}: not in docs/state-machines.md", script.path));
            }
        } else if header.len() < 20 {
            broken.push(format!("{}: neither a transition nor explained by a header", script.path));
        }
    }
    assert_none("every Lua script has a header and an arrow", &broken);
}

#[test]
fn scripts_use_only_what_is_bounded() {
    // JSON loses digits, a pattern walks all keys, a blocking read outlives its caller.
    let banned = ["cjson", "'KEYS'", "BLPOP", "BZPOP", "BRPOP", "BLMOVE", "'SMEMBERS'", "math.random"];
    let mut broken = Vec::new();
    for script in sources(&["lua"]) {
        for (index, line) in script.text.lines().enumerate() {
            let line = line.split("--").next().unwrap_or_default();
            if let Some(name) = banned.iter().find(|name| line.contains(**name)) {
                broken.push(format!("{}:{}: {name}", script.path, index + 1));
            }
        }
    }
    assert_none("scripts use nothing that loses digits, blocks or walks everything", &broken);
}

#[test]
fn every_known_failure_has_its_tests() {
    let page = read("docs/known-failures.md");
    let code: String = sources(&["rs"]).into_iter().map(|source| source.text).collect();
    let mut broken = Vec::new();
    let mut rows = 0;
    for line in page.lines().filter(|line| line.starts_with("| ") && !line.contains("| tests |")) {
        rows += 1;
        let tests = line.trim_end_matches(" |").rsplit(" | ").next().unwrap_or_default();
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            broken.push(format!("no test: {line}"));
        }
        let missing = named.iter().filter(|name| !code.contains(&format!("fn {name}(")));
        broken.extend(missing.map(|name| format!("no such test: {name}")));
    }
    assert!(rows > 20, "the page was not understood");
    assert_none("every row of docs/known-failures.md names tests that exist", &broken);
}

#[test]
fn the_changelog_says_something() {
    let text = read("CHANGELOG.md");
    assert!(
        text.lines().filter(|line| line.starts_with("- ") || line.starts_with("* ")).count() > 0,
        "it lists nothing"
    );
}

#[test]
fn every_pinned_key_has_a_default_or_a_comment() {
    let text = read("cli/src/config/default.toml");
    // A key without a default is shown as a comment, so comments count; a paragraph belongs to the section
    // that it names, or to the one before.
    let mut section = String::new();
    let mut keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for paragraph in text.split("\n\n") {
        let lines: Vec<&str> = paragraph.lines().map(|line| line.trim_start_matches(['#', ' '])).collect();
        let name =
            |line: &&str| line.starts_with('[') && line.trim_matches(['[', ']']).chars().all(char::is_alphanumeric);
        if let Some(header) = lines.iter().copied().filter(name).find(|line| line.len() > 2) {
            section = header.trim_matches(['[', ']']).to_owned();
        }
        let named = lines.iter().filter_map(|line| line.split_once('=')).map(|(key, _)| key.trim().to_owned());
        keys.entry(section.clone()).or_default().extend(named);
    }
    let mut broken = Vec::new();
    for (section, names) in PINNED_KEYS {
        for name in *names {
            if !keys.get(*section).is_some_and(|known| known.contains(*name)) {
                broken.push(format!("[{section}] {name}"));
            }
        }
    }
    assert_none("cli/src/config/default.toml shows every pinned key", &broken);
}
