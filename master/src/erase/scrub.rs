//! Addresses that are being erased, taken out of rows on their way into the storage: the erasure may have passed there already.

use super::names::Fields;
use super::rewrite::json_line;
use postrider_common::campaign::Audience;
use postrider_common::erasure::{Erasing, Taken};

/// For the rows of one audience.
#[derive(Debug, Clone)]
pub struct Scrubber {
    erasing: Vec<Erasing>,
    fields: Fields,
}

impl Scrubber {
    pub fn new(erasing: &[Erasing], audience: &Audience) -> Self {
        Self { erasing: erasing.to_vec(), fields: Fields::of(audience) }
    }

    /// Whole lines of NDJSON, as many as before.
    pub fn lines(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, end) = line.strip_suffix(b"\n").map_or((line, &b""[..]), |text| (text, b"\n"));
            let mut row = text.to_vec();
            for erasing in &self.erasing {
                let (rewritten, taken) = json_line(erasing, &self.fields, &row);
                if taken != Taken::Nothing {
                    row = rewritten;
                }
            }
            out.extend(row);
            out.extend(end);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_common::campaign::Source;

    #[test]
    fn who_is_being_erased_is_in_no_line() {
        let erasing = |id: &str, address: &str| {
            Erasing::new(id.repeat(32).parse().expect("an id"), &address.parse().expect("an address"))
        };
        let erasing = [erasing("a", "ada@example.com"), erasing("b", "bob@example.com")];
        let audience = Audience::of(Source::Inline { rows: Vec::new() }, "email");
        let lines = br#"{"email":"Ada@example.com","name":"Ada"}
{"email":"carl@example.com","name":"by bob@example.com"}

{"email":"dora@example.com"}
{"email":"bob@example.com"}
"#;
        let scrubbed = String::from_utf8(Scrubber::new(&erasing, &audience).lines(lines)).expect("UTF-8");
        let before = std::str::from_utf8(lines).expect("UTF-8");
        assert_eq!(scrubbed.lines().count(), before.lines().count());
        assert!(erasing.iter().all(|one| !one.is_in(&scrubbed)), "{scrubbed}");
        assert_eq!(scrubbed.lines().nth(3), before.lines().nth(3));
    }
}
