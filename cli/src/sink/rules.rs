//! Which recipients and messages a sink refuses, and how.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::time::Duration;

/// How a rule is written.
pub const RULE_SYNTAX: &str = "\
A rule is ACTION[:CODE]@MATCH[#COUNT]. The first rule that matches a recipient wins.

ACTION is one of
  reject       refuse the recipient at RCPT; CODE is 500 to 599, default 550
  defer        the same for now; CODE is 400 to 499, default 450
  reject-data  refuse the message at the final dot; default 554
  defer-data   the same for now; default 451
  close        close the connection at RCPT, without a reply
  drop         accept the message and close the connection without a reply to the final dot (RFC 1047)
  slow:MS      accept, MS milliseconds later than others

MATCH is compared with the recipient's address without regard to case; '*' stands for any characters.
COUNT: only the first COUNT times for each recipient.

  reject@*@bad.example
  defer:450@*@slow.example#1
  drop@u1*@example.com#1";

/// A rule that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidRule {
    pub rule: String,
    pub why: String,
}

impl fmt::Display for InvalidRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is not a rule: {}\n\n{RULE_SYNTAX}", self.rule, self.why)
    }
}

impl std::error::Error for InvalidRule {}

/// What happens to a recipient or message that a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Refused at RCPT with this code.
    RefuseRecipient(u16),
    /// Refused at the final dot with this code.
    RefuseMessage(u16),
    /// The connection is closed at RCPT.
    Close,
    /// The message is accepted and the connection closed without a reply.
    Drop,
    /// The reply to the final dot waits this much longer.
    Slow(Duration),
}

/// When a rule is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Recipient,
    FinalDot,
}

impl Effect {
    fn stage(self) -> Stage {
        match self {
            Self::RefuseRecipient(_) | Self::Close => Stage::Recipient,
            Self::RefuseMessage(_) | Self::Drop | Self::Slow(_) => Stage::FinalDot,
        }
    }
}

/// One `--fail RULE`; see `RULE_SYNTAX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailRule {
    pub effect: Effect,
    /// Lower-case.
    pattern: String,
    /// `None`: always.
    count: Option<u32>,
}

impl FromStr for FailRule {
    type Err = InvalidRule;

    fn from_str(rule: &str) -> Result<Self, InvalidRule> {
        let invalid = |why: &str| InvalidRule { rule: rule.to_owned(), why: why.to_owned() };
        let (action, rest) = rule.split_once('@').ok_or_else(|| invalid("it has no '@' after the action"))?;
        let (pattern, count) = match rest.rsplit_once('#') {
            Some((pattern, digits)) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                let count: u32 = digits.parse().map_err(|_| invalid("the count is too large"))?;
                (pattern, Some(count))
            }
            Some(_) | None => (rest, None),
        };
        if pattern.is_empty() {
            return Err(invalid("it says no addresses to match"));
        }
        if count == Some(0) {
            return Err(invalid("a count of 0 never matches"));
        }
        let (action, argument) = match action.split_once(':') {
            Some((action, argument)) => (action, Some(argument)),
            None => (action, None),
        };
        let code = |default: u16| match argument {
            None => Ok(default),
            Some(text) => {
                let class = default / 100;
                let code = text.parse().ok().filter(|code: &u16| text.len() == 3 && code / 100 == class);
                code.ok_or_else(|| invalid(&format!("the code of {action} is from {class}00 to {class}99")))
            }
        };
        let effect = match (action, argument) {
            ("reject", _) => Effect::RefuseRecipient(code(550)?),
            ("defer", _) => Effect::RefuseRecipient(code(450)?),
            ("reject-data", _) => Effect::RefuseMessage(code(554)?),
            ("defer-data", _) => Effect::RefuseMessage(code(451)?),
            ("close", None) => Effect::Close,
            ("drop", None) => Effect::Drop,
            ("slow", Some(ms)) => {
                let ms = ms.parse().map_err(|_| invalid("slow takes milliseconds, such as slow:500"))?;
                Effect::Slow(Duration::from_millis(ms))
            }
            ("slow", None) => return Err(invalid("slow takes milliseconds, such as slow:500")),
            ("close" | "drop", Some(_)) => return Err(invalid(&format!("{action} takes no code"))),
            _ => return Err(invalid(&format!("there is no action '{action}'"))),
        };
        Ok(Self { effect, pattern: pattern.to_lowercase(), count })
    }
}

/// The rules of a sink and how often each was used.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<FailRule>,
    /// By rule and address; only of rules with a count.
    used: Mutex<HashMap<(usize, String), u32>>,
}

impl Rules {
    pub fn new(rules: Vec<FailRule>) -> Self {
        Self { rules, used: Mutex::default() }
    }

    /// What happens to `address` now. The first rule that matches and is not used up decides; when it is
    /// for the other stage, nothing happens at this one.
    pub fn decide(&self, stage: Stage, address: &str) -> Option<Effect> {
        if self.rules.is_empty() {
            return None;
        }
        let address = address.to_lowercase();
        for (index, rule) in self.rules.iter().enumerate() {
            if !matches(&rule.pattern, &address) {
                continue;
            }
            let here = rule.effect.stage() == stage;
            if let Some(count) = rule.count {
                let mut used = self.used.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                let times = used.entry((index, address.clone())).or_default();
                if *times >= count {
                    continue;
                }
                *times += u32::from(here);
            }
            return here.then_some(rule.effect);
        }
        None
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let Some(rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    let Some(mut rest) = rest.strip_suffix(last) else { return false };
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read() {
        let rows = [
            ("reject@*@bad.example", Effect::RefuseRecipient(550), "*@bad.example", None),
            ("reject:552@*", Effect::RefuseRecipient(552), "*", None),
            ("defer:450@*@slow.example#1", Effect::RefuseRecipient(450), "*@slow.example", Some(1)),
            ("defer@A@Example.com", Effect::RefuseRecipient(450), "a@example.com", None),
            ("reject-data@*", Effect::RefuseMessage(554), "*", None),
            ("defer-data:452@*#3", Effect::RefuseMessage(452), "*", Some(3)),
            ("drop@u1*@example.com#2", Effect::Drop, "u1*@example.com", Some(2)),
            ("close@a#b@example.com", Effect::Close, "a#b@example.com", None),
            ("slow:250@*", Effect::Slow(Duration::from_millis(250)), "*", None),
        ];
        for (text, effect, pattern, count) in rows {
            let rule: FailRule = text.parse().unwrap();
            assert_eq!(rule, FailRule { effect, pattern: pattern.into(), count }, "{text}");
        }
        for text in [
            "",
            "reject",
            "reject@",
            "reject:450@*",
            "defer:550@*",
            "reject:5500@*",
            "reject:x@*",
            "bounce@*",
            "slow@*",
            "slow:x@*",
            "drop:550@*",
            "close:1@*",
            "reject@*#0",
            "reject@#1",
            "reject@*#99999999999",
        ] {
            let error = text.parse::<FailRule>().map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("ACTION[:CODE]@MATCH[#COUNT]"), "{error}");
        }
    }

    #[test]
    fn patterns_match_whole_addresses() {
        let rows = [
            ("*", "a@b", true),
            ("a@b", "a@b", true),
            ("a@b", "a@bc", false),
            ("*@b", "a@b", true),
            ("*@b", "a@b.c", false),
            ("u1*@b", "u12@b", true),
            ("u1*@b", "u1@b", true),
            ("u1*@b", "u2@b", false),
            ("*a*a*", "a", false),
            ("*a*a*", "xaxax", true),
            ("a*a", "a", false),
        ];
        for (pattern, text, expected) in rows {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_count_is_per_recipient_and_the_first_match_wins() {
        let rules = ["defer@*@x#1", "drop@a@x#1", "reject@*"].map(|text| text.parse().unwrap());
        let rules = Rules::new(rules.into());
        let defer = Some(Effect::RefuseRecipient(450));
        let reject = Some(Effect::RefuseRecipient(550));
        assert_eq!(rules.decide(Stage::Recipient, "a@x"), defer);
        assert_eq!(rules.decide(Stage::Recipient, "A@X"), None, "the second rule is for the dot");
        assert_eq!(rules.decide(Stage::FinalDot, "a@x"), Some(Effect::Drop));
        assert_eq!(rules.decide(Stage::Recipient, "a@x"), reject);
        assert_eq!(rules.decide(Stage::Recipient, "b@x"), defer);
        assert_eq!(rules.decide(Stage::Recipient, "b@x"), reject);
    }
}
