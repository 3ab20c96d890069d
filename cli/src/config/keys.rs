//! Every key that a configuration may hold, and where this version stands with it.

use crate::toml_text::nearest;

/// What a value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Integer,
    /// A text such as `60s`.
    Duration,
    /// A text such as `500/s`.
    Rate,
    Texts,
    /// A table of whole numbers.
    Counts,
    /// A table of `base`, `cap` and `ttl`.
    Retry,
    /// A table of `from`, `to`, `days` and `time_zone`, or a list of them.
    Windows,
}

impl Kind {
    /// Reads after "must be".
    pub fn expected(self) -> &'static str {
        match self {
            Self::Text => "a text in quotes",
            Self::Integer => "a whole number",
            Self::Duration => "a duration in quotes, such as \"60s\"",
            Self::Rate => "a rate in quotes, such as \"500/s\"",
            Self::Texts => "a list of texts, such as [\"bulk\"]",
            Self::Counts => "a table of whole numbers, such as { transactional = 16 }",
            Self::Windows => crate::windows::EXPECTED,
            Self::Retry => "a table such as { base = \"5m\", cap = \"4h\", ttl = \"72h\" }",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `[section]`
    Table,
    /// `[[section]]`, each known by these keys, of which later layers change the others.
    List(&'static [&'static str]),
    /// Anything inside is refused with this reason.
    Refused(&'static str),
}

#[derive(Debug, Clone, Copy)]
pub struct Section {
    pub name: &'static str,
    pub shape: Shape,
    pub keys: &'static [Key],
}

const fn key(name: &'static str, kind: Kind) -> Key {
    Key { name, kind }
}

pub const SECTIONS: &[Section] = &[
    Section {
        name: "master",
        shape: Shape::Table,
        keys: &[
            key("grpc_listen", Kind::Text),
            key("http_listen", Kind::Text),
            key("audience_bytes_max", Kind::Integer),
            key("files_root", Kind::Text),
            key("split_ahead_batches", Kind::Integer),
        ],
    },
    Section {
        name: "store",
        shape: Shape::Table,
        keys: &[
            key("url", Kind::Text),
            key("durability", Kind::Text),
            key("replicas", Kind::Integer),
            key("shards", Kind::Integer),
            key("tls_ca", Kind::Text),
            key("tls_certificate", Kind::Text),
            key("tls_key", Kind::Text),
        ],
    },
    Section { name: "storage", shape: Shape::Table, keys: &[key("url", Kind::Text)] },
    Section { name: "encryption", shape: Shape::Table, keys: &[key("key_file", Kind::Text)] },
    Section {
        name: "lease",
        shape: Shape::Table,
        keys: &[
            key("ttl", Kind::Duration),
            key("window", Kind::Integer),
            key("doubt_grace", Kind::Duration),
            key("hard_cap", Kind::Duration),
        ],
    },
    Section {
        name: "retention",
        shape: Shape::Table,
        keys: &[key("runs", Kind::Duration), key("messages", Kind::Duration), key("dead_letters", Kind::Duration)],
    },
    Section {
        name: "lane",
        shape: Shape::List(&["name"]),
        keys: &[
            key("name", Kind::Text),
            key("weight", Kind::Integer),
            key("retry", Kind::Retry),
            key("send_window", Kind::Windows),
            key("quiet_hours", Kind::Windows),
            key("default_zone", Kind::Text),
            key("rate", Kind::Rate),
            key("burst", Kind::Integer),
            key("concurrency", Kind::Integer),
        ],
    },
    Section {
        name: "site",
        shape: Shape::List(&["name"]),
        keys: &[
            key("name", Kind::Text),
            key("domains", Kind::Texts),
            key("rate", Kind::Rate),
            key("concurrency", Kind::Integer),
        ],
    },
    Section {
        name: "worker",
        shape: Shape::Table,
        keys: &[
            key("master", Kind::Text),
            key("name", Kind::Text),
            key("slots", Kind::Integer),
            key("lanes", Kind::Texts),
            key("reserve", Kind::Counts),
            key("source_address", Kind::Text),
            key("ehlo", Kind::Text),
            key("journal", Kind::Text),
            key("drain_timeout", Kind::Duration),
            key("http_listen", Kind::Text),
        ],
    },
    Section { name: "outgoing", shape: Shape::Table, keys: &[key("allow", Kind::Texts), key("env", Kind::Texts)] },
    Section {
        name: "relay",
        shape: Shape::List(&["name"]),
        keys: &[
            key("name", Kind::Text),
            key("url", Kind::Text),
            key("tls", Kind::Text),
            key("tls_ca", Kind::Text),
            key("username", Kind::Text),
            key("password", Kind::Text),
            key("auth", Kind::Text),
            key("lanes", Kind::Texts),
            key("connections", Kind::Integer),
            key("connections_total", Kind::Integer),
            key("rate", Kind::Rate),
        ],
    },
    Section {
        name: "dkim",
        shape: Shape::List(&["domain", "selector"]),
        keys: &[key("domain", Kind::Text), key("selector", Kind::Text), key("key", Kind::Text)],
    },
    Section {
        name: "auth",
        shape: Shape::Refused(
            "tokens and certificates are not part of this version, and an open port that looks protected is worse \
             than none; remove the section and keep to loopback addresses",
        ),
        keys: &[],
    },
];

pub fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name)
}

impl Section {
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// `section.key` of all that is known, and the sections themselves.
fn paths() -> Vec<String> {
    let inside = |section: &Section| -> Vec<String> {
        section.keys.iter().map(|key| format!("{}.{}", section.name, key.name)).collect()
    };
    SECTIONS.iter().flat_map(|section| [vec![section.name.to_owned()], inside(section)].concat()).collect()
}

/// The known path that is most like the one given: a key of the same section first, if it is alike.
pub fn nearest_path(given: &str) -> String {
    if let Some((section_name, key)) = given.split_once('.')
        && let Some(section) = section(section_name)
    {
        let alike = nearest(key, section.keys.iter().map(|key| key.name));
        if let Some(name) = alike.filter(|name| strsim::normalized_damerau_levenshtein(name, key) >= 0.5) {
            return format!("{section_name}.{name}");
        }
    }
    let last = given.rsplit('.').next().unwrap_or(given);
    // The right key in the wrong section, or without one.
    let all = paths();
    let same_key = all.iter().find(|path| path.split_once('.').is_some_and(|(_, key)| key == last));
    let known = nearest(given, all.iter().map(String::as_str)).map(str::to_owned);
    same_key.filter(|_| section(given).is_none()).cloned().or(known).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_path_is_what_was_meant() {
        let rows = [
            ("lease.tll", "lease.ttl"),
            ("leese", "lease"),
            ("lease.grpc_listen", "master.grpc_listen"),
            ("doubt_grace", "lease.doubt_grace"),
            ("worker.reserved", "worker.reserve"),
            ("lane.rates", "lane.rate"),
            ("stores.url", "store.url"),
        ];
        for (given, expected) in rows {
            assert_eq!(nearest_path(given), expected, "{given}");
        }
    }
}
