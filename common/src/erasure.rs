//! What is left where an address was, and finding one in any text. Pure.

use crate::address::Address;
use crate::ids::ErasureId;
use crate::message::Recipient;
use serde_json::{Map, Value};

/// An address that is to go, and what stands in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasing {
    pub id: ErasureId,
    /// Normalised: two spellings of one address are one person.
    address: String,
    local: Vec<char>,
    domain: Vec<char>,
}

impl Erasing {
    pub fn new(id: ErasureId, address: &Address) -> Self {
        let normalised = address.normalised();
        let (local, domain) = normalised.rsplit_once('@').unwrap_or((&normalised, ""));
        Self { id, local: local.chars().collect(), domain: domain.chars().collect(), address: normalised }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whose address it is.
    pub fn is(&self, address: &Address) -> bool {
        address.normalised() == self.address
    }

    /// The text is this address and nothing else, but for spaces.
    pub fn is_text(&self, text: &str) -> bool {
        text.trim().to_lowercase() == self.address
    }

    pub fn is_in(&self, text: &str) -> bool {
        self.find(text, 0).is_some()
    }

    /// The text without the address. None: it is not in it.
    pub fn taken_from(&self, text: &str) -> Option<String> {
        let mut out = String::new();
        let mut from = 0;
        while let Some((start, end)) = self.find(text, from) {
            out.push_str(&text[from..start]);
            out.push_str(Address::erased(&self.id).as_str());
            from = end;
        }
        (from > 0).then(|| out + &text[from..])
    }

    /// The recipient it belongs to loses all; of others it goes wherever they mention it. True: it was this one's.
    pub fn take_from_recipient(&self, recipient: &mut Recipient) -> Taken {
        if self.is(&recipient.address) || self.is_text(&recipient.key) {
            *recipient = self.recipient();
            return Taken::All;
        }
        let key = self.taken_from(&recipient.key);
        let is_in_key = key.is_some();
        recipient.key = key.unwrap_or(std::mem::take(&mut recipient.key));
        if self.take_from_fields(&mut recipient.fields) || is_in_key { Taken::Mention } else { Taken::Nothing }
    }

    /// What is left of the recipient.
    pub fn recipient(&self) -> Recipient {
        Recipient { address: Address::erased(&self.id), key: self.id.to_string(), fields: Map::new() }
    }

    /// True: it was in one of them, or in a name.
    pub fn take_from_fields(&self, fields: &mut Map<String, Value>) -> bool {
        let mut taken = false;
        if fields.keys().any(|name| self.is_in(name)) {
            let all = std::mem::take(fields);
            fields.extend(all.into_iter().map(|(name, value)| (self.taken_from(&name).unwrap_or(name), value)));
            taken = true;
        }
        for (_, value) in fields.iter_mut() {
            taken |= self.take_from_value(value);
        }
        taken
    }

    // The recursion is bounded: values were parsed by serde_json, which refuses what is nested deeper than 128.
    fn take_from_value(&self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => match self.taken_from(text) {
                Some(rest) => {
                    *text = rest;
                    true
                }
                None => false,
            },
            Value::Array(values) => values.iter_mut().fold(false, |taken, value| self.take_from_value(value) | taken),
            Value::Object(fields) => self.take_from_fields(fields),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    /// Where it is, from this byte on. Not within a longer address.
    fn find(&self, text: &str, from: usize) -> Option<(usize, usize)> {
        let at = |at: usize| {
            let start = before(&text[from..at], &self.local)? + from;
            let end = at + 1 + after(&text[at + 1..], &self.domain)?;
            Some((start, end))
        };
        text[from..].match_indices('@').find_map(|(offset, _)| at(from + offset))
    }
}

/// What was taken from a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Nothing,
    /// It was mentioned.
    Mention,
    /// All: it is the one.
    All,
}

/// Where the text ends with these characters, which are in lower case.
fn before(text: &str, wanted: &[char]) -> Option<usize> {
    let mut rest = wanted;
    let mut start = text.len();
    for (at, c) in text.char_indices().rev() {
        if rest.is_empty() {
            let goes_on = c.is_alphanumeric() || "._-+%".contains(c);
            return (!goes_on).then_some(start);
        }
        for lower in c.to_lowercase().rev() {
            rest = rest.strip_suffix(&[lower])?;
        }
        start = at;
    }
    rest.is_empty().then_some(start)
}

/// Where these characters end that the text begins with.
fn after(text: &str, wanted: &[char]) -> Option<usize> {
    let mut rest = wanted;
    let mut characters = text.char_indices();
    let mut end = 0;
    while !rest.is_empty() {
        let (at, c) = characters.next()?;
        for lower in c.to_lowercase() {
            rest = rest.strip_prefix(&[lower])?;
        }
        end = at + c.len_utf8();
    }
    let mut following = text[end..].chars();
    let goes_on = match following.next() {
        Some('.' | '-') => following.next().is_some_and(char::is_alphanumeric),
        Some(c) => c.is_alphanumeric() || c == '_',
        None => false,
    };
    (!goes_on).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn erasing(address: &str) -> Erasing {
        Erasing::new(ID.parse().expect("an id"), &address.parse().expect("an address"))
    }

    #[test]
    fn an_address_is_found_in_any_text_and_not_within_another() {
        let ada = erasing("Ada@Example.com");
        let gone = format!("{ID}@erased.invalid");
        for (text, expected) in [
            ("ada@example.com", "X"),
            ("ADA@EXAMPLE.COM", "X"),
            ("550 5.1.1 <Ada@example.com>: unknown", "550 5.1.1 <X>: unknown"),
            ("to=ada@example.com, cc=ada@example.com.", "to=X, cc=X."),
            ("mailto:ada@example.com?x", "mailto:X?x"),
            ("é ada@example.com é", "é X é"),
            ("ada@example.com@ada@example.com", "X@X"),
        ] {
            assert_eq!(ada.taken_from(text), Some(expected.replace('X', &gone)), "{text}");
        }
        for other in [
            "",
            "@",
            "ada@",
            "@example.com",
            "lada@example.com",
            "x.ada@example.com",
            "a+ada@example.com",
            "ada@example.com.au",
            "ada@example.comx",
            "ada@example.com-x",
            "ada@example.co",
            "ada@example",
        ] {
            assert_eq!(ada.taken_from(other), None, "{other}");
        }
        let josé = erasing("José@exämple.com");
        assert!(josé.is_in("JOSÉ@EXÄMPLE.COM"));
        assert!(!ada.is_in(&gone), "what is left is not found again");
    }

    #[test]
    fn its_recipient_loses_all_and_others_the_mention() {
        let ada = erasing("ada@example.com");
        let recipient = |address: &str, key: &str, fields: Value| {
            let Value::Object(fields) = fields else { panic!("fields are an object") };
            Recipient { address: address.parse().expect("an address"), key: key.to_owned(), fields }
        };
        for key in ["ada@example.com", "7"] {
            let mut one = recipient("Ada@example.com", key, json!({"name": "Ada", "n": [1, {"x": "y"}]}));
            assert_eq!(ada.take_from_recipient(&mut one), Taken::All);
            assert_eq!(one, ada.recipient());
            assert!(one.address.is_erased());
        }
        let fields = json!({"by": "ada@example.com", "n": [1, {"x": "ADA@example.com!"}], "ada@example.com": null});
        let mut bob = recipient("bob@example.com", "7", fields);
        assert_eq!(ada.take_from_recipient(&mut bob), Taken::Mention);
        assert!(!serde_json::to_string(&bob.fields).expect("JSON").to_lowercase().contains("ada@"));
        assert_eq!((bob.address.as_str(), bob.key.as_str(), bob.fields.len()), ("bob@example.com", "7", 3));
        let before = bob.clone();
        assert_eq!(ada.take_from_recipient(&mut bob), Taken::Nothing);
        assert_eq!(bob, before);
    }

    #[test]
    fn only_what_stands_for_an_erased_one_is_one() {
        for other in ["x@erased.invalid", "0123456789abcdef0123456789abcdef@erased.invalid.example"] {
            assert!(!other.parse::<Address>().expect("an address").is_erased(), "{other}");
        }
        let gone: Address =
            Address::erased(&ID.parse().expect("an id")).as_str().parse().expect("an address like others");
        assert!(gone.is_erased());
    }
}
