//! Takes one address out of a segment. Lines stay in their places, and so do all states.

use super::HistoryError;
use super::segment::{Line, Segment, pack};
use postrider_common::Address;
use postrider_common::erasure::Erasing;
use postrider_common::ids::BatchId;
use std::collections::BTreeSet;

impl Segment {
    /// Cheap: whether any line may have it.
    pub fn has(&self, erasing: &Erasing) -> bool {
        // JSON writes such an address otherwise.
        let is_escaped = erasing.address().contains(['"', '\\']);
        self.texts().any(|text| is_escaped || erasing.is_in(text))
    }

    /// Whose lines are of this address.
    pub fn recipients_of(&self, erasing: &Erasing) -> Result<Vec<(BatchId, u32)>, HistoryError> {
        let mut all = Vec::new();
        for text in self.texts() {
            let line = self.line(text)?;
            let is_address = line.address.as_ref().is_some_and(|address| erasing.is_text(address));
            if is_address || line.key.as_ref().is_some_and(|key| erasing.is_text(key)) {
                all.push((line.batch, line.index));
            }
        }
        Ok(all)
    }

    /// Without the address: these lines lose all but what became of them, others what mentions it. Also how many those
    /// were. None: nothing is to be taken.
    pub fn without(
        &self,
        erasing: &Erasing,
        own: &BTreeSet<(BatchId, u32)>,
    ) -> Result<Option<(Vec<u8>, u64)>, HistoryError> {
        let (mut changed, mut mentions, mut lines) = (false, 0, Vec::new());
        for text in self.texts() {
            let mut line = self.line(text)?;
            let is_own = own.contains(&(line.batch.clone(), line.index));
            if is_own {
                blank(&mut line, erasing);
                changed = true;
            } else if mention(&mut line, erasing) {
                mentions += 1;
                changed = true;
            }
            lines.push(line);
        }
        if !changed {
            return Ok(None);
        }
        Ok(Some((pack(self.header(), &lines)?.1, mentions)))
    }
}

fn blank(line: &mut Line, erasing: &Erasing) {
    line.detail.clear();
    // A correction has neither.
    if line.address.is_some() {
        line.address = Some(Address::erased(&erasing.id).to_string());
        line.key = Some(erasing.id.to_string());
        // It is a hash of the key that has no key of its own.
        line.message_id = Some(String::new());
    }
}

fn mention(line: &mut Line, erasing: &Erasing) -> bool {
    let Line { detail, code, key, .. } = line;
    let mut taken = false;
    for text in [Some(detail), Some(code), key.as_mut()].into_iter().flatten() {
        if let Some(rest) = erasing.taken_from(text) {
            *text = rest;
            taken = true;
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::super::{Known, write};
    use super::*;
    use postrider_common::ids::RunId;
    use postrider_common::state::RecipientState;
    use postrider_store::{BatchRecord, BatchState};

    fn known(address: &str, key: &str, detail: &str) -> Known {
        Known {
            key: key.to_owned(),
            address: address.to_owned(),
            state: RecipientState::Rejected,
            attempts: 2,
            code: "550 5.1.1".to_owned(),
            detail: detail.to_owned(),
            reason: None,
            message_id: "<id@acme.example>".to_owned(),
            settled_at_ms: Some(5),
        }
    }

    #[test]
    fn its_lines_lose_all_but_what_became_of_them() {
        let batch = BatchRecord {
            id: BatchId { run: RunId::derive("t", "r"), sequence: 1 },
            site: "other".parse().expect("a site"),
            state: BatchState::Settled,
            payload: Vec::new(),
            recipients: Vec::new(),
            segments: Vec::new(),
            erased: Vec::new(),
        };
        for address in ["ada@example.com", "\"a\\\"d\"@example.com"] {
            let erasing = Erasing::new(
                "0123456789abcdef0123456789abcdef".parse().expect("an id"),
                &address.parse().expect("good"),
            );
            let all = vec![
                known(address, "7", &format!("<{address}> unknown")),
                known("bob@example.com", "8", "no such user"),
                known("carl@example.com", "9", &format!("as {address} said")),
            ];
            let written = write(1, &[(&batch, all.clone())]).expect("packs");
            let segment = Segment::read("s", &written.bytes).expect("reads");
            assert!(segment.has(&erasing));
            let own = segment.recipients_of(&erasing).expect("reads");
            assert_eq!(own, [(batch.id.clone(), 0)]);
            let (bytes, mentions) =
                segment.without(&erasing, &own.into_iter().collect()).expect("packs").expect("changed");
            assert_eq!(mentions, 1);
            let after = Segment::read("s", &bytes).expect("reads");
            let mut read = Vec::new();
            after.apply(&batch.id, &mut read).expect("whole");
            let gone = Address::erased(&erasing.id).to_string();
            let mut expected = all;
            expected[0] = Known { message_id: String::new(), ..known(&gone, erasing.id.as_str(), "") };
            expected[2].detail = format!("as {gone} said");
            assert_eq!(read, expected);
            assert!(after.texts().all(|text| !text.contains("ada@") && !text.contains("@example.com said")));
            assert_eq!(after.recipients_of(&erasing).expect("reads"), []);
            assert!(after.without(&erasing, &BTreeSet::new()).expect("packs").is_none());
        }
    }
}
