//! The audience of the demo: invented people, the same at every start.
//!
//! Row *i* depends on *i* only, so a short audience is the beginning of a longer one. Names are a common
//! given name and an initial; addresses are only at names that RFC 2606 and RFC 6761 reserve. Some rows
//! are wrong on purpose and some repeat an earlier address, at fixed places, so that the report of the
//! demo can be checked against [`invalid_rows`] and [`repeated_rows`].

use std::fmt::Write as _;

/// The campaign file and its templates, as they are in the examples.
pub const CAMPAIGN: &str = include_str!("../../../examples/daily-digest/campaign.toml");
pub const HTML: &str = include_str!("../../../examples/daily-digest/digest.html");
pub const TEXT: &str = include_str!("../../../examples/daily-digest/digest.txt");

const HEADER: &str =
    "email,name,city,plan,unread,reader_id,headline_1,minutes_1,headline_2,minutes_2,headline_3,minutes_3\n";

/// One row in a hundred is invalid.
const INVALID_EVERY: usize = 100;
const INVALID_AT: usize = 37;
/// One row in 250 repeats the address of the row `REPEATED_BACK` before it. That row is never invalid and
/// never a repeat itself: 61 and 11 modulo 100 are not `INVALID_AT`, 61 modulo 250 is not `REPEATED_AT`.
const REPEATED_EVERY: usize = 250;
const REPEATED_AT: usize = 111;
const REPEATED_BACK: usize = 50;

/// A header and `count` rows; lines end in LF, fields are quoted where RFC 4180 asks for it.
pub fn recipients_csv(count: usize) -> String {
    let mut csv = String::with_capacity(HEADER.len() + count * 256);
    csv.push_str(HEADER);
    for index in 0..count {
        push_row(&mut csv, index);
    }
    csv
}

/// How many of the first `count` rows cannot be admitted: address or field count wrong.
pub fn invalid_rows(count: usize) -> usize {
    count_at(count, INVALID_AT, INVALID_EVERY)
}

/// How many of the first `count` rows are valid and repeat an earlier address, in another case.
pub fn repeated_rows(count: usize) -> usize {
    count_at(count, REPEATED_AT, REPEATED_EVERY)
}

fn count_at(count: usize, at: usize, every: usize) -> usize {
    (count + every - 1 - at) / every
}

/// A script: given names with their spelling in an address, initials, and cities.
struct Script {
    given: &'static [(&'static str, &'static str)],
    initials: &'static [&'static str],
    cities: &'static [&'static str],
}

const SCRIPTS: [Script; 11] = [
    Script {
        given: &[("Åsa", "asa"), ("Zoë", "zoe"), ("Søren", "soren"), ("Łukasz", "lukasz"), ("Çağla", "cagla")],
        initials: &["B.", "Ø.", "Š.", "Ğ."],
        cities: &["Malmö", "Zürich", "Łódź", "İzmir", "São Paulo"],
    },
    Script {
        given: &[("Maria", "maria"), ("Tom", "tom"), ("Grace", "grace"), ("Noah", "noah"), ("Ruth \"Ruthie\"", "ruth")],
        initials: &["A.", "K.", "M.", "W."],
        cities: &["Washington, D.C.", "Leeds", "Cape Town", "Perth, \"the west\"", "Cork"],
    },
    Script {
        given: &[("Дарья", "darya"), ("Олександр", "oleksandr"), ("Иван", "ivan"), ("Мила", "mila")],
        initials: &["К.", "Ж.", "Ш.", "Б."],
        cities: &["Київ", "София", "Астана", "Београд"],
    },
    Script {
        given: &[("Ελένη", "eleni"), ("Νίκος", "nikos"), ("Σοφία", "sofia"), ("Γιώργος", "giorgos")],
        initials: &["Π.", "Θ.", "Λ."],
        cities: &["Αθήνα", "Θεσσαλονίκη", "Πάτρα"],
    },
    Script {
        given: &[("ليلى", "layla"), ("عمر", "omar"), ("مريم", "maryam"), ("يوسف", "yusuf")],
        initials: &["م.", "ح.", "ن."],
        cities: &["القاهرة", "عمّان", "الرباط"],
    },
    Script {
        given: &[("נועה", "noa"), ("איתי", "itai"), ("תמר", "tamar")],
        initials: &["ל.", "ש.", "ב."],
        cities: &["חיפה", "תל אביב", "באר שבע"],
    },
    Script {
        given: &[("आरव", "aarav"), ("दिया", "diya"), ("रोहन", "rohan"), ("मीरा", "meera")],
        initials: &["श.", "क.", "प."],
        cities: &["मुंबई", "दिल्ली", "काठमांडू"],
    },
    Script {
        given: &[("美玲", "meiling"), ("伟", "wei"), ("静", "jing"), ("建国", "jianguo")],
        initials: &["L.", "W.", "Z."],
        cities: &["北京", "台北", "广州"],
    },
    Script {
        given: &[("さくら", "sakura"), ("ハルト", "haruto"), ("ゆい", "yui"), ("ケンジ", "kenji")],
        initials: &["T.", "S.", "M."],
        cities: &["とうきょう", "さっぽろ", "ナゴヤ"],
    },
    Script {
        given: &[("민준", "minjun"), ("서연", "seoyeon"), ("지우", "jiwoo")],
        initials: &["K.", "P.", "C."],
        cities: &["서울", "부산", "제주"],
    },
    Script {
        given: &[("สมชาย", "somchai"), ("มาลี", "malee"), ("นารี", "naree")],
        initials: &["ก.", "ส.", "พ."],
        cities: &["กรุงเทพฯ", "เชียงใหม่", "ภูเก็ต"],
    },
];

/// Reserved names only: no mail ever leaves towards them.
const DOMAINS: [&str; 12] = [
    "example.com",
    "example.net",
    "example.org",
    "mail.example.com",
    "post.example.net",
    "alumni.example.org",
    "north.example",
    "harbour.example",
    "orchard.example",
    "library.example",
    "tram.example",
    "lighthouse.example",
];

const PLANS: [&str; 3] = ["free", "plus", "team"];

const HEADLINES: [&str; 14] = [
    "Your week in numbers",
    "Three drafts are waiting for a review",
    "Notes, tags and folders: what changed",
    "\"Quiet hours\" now follow your calendar",
    "The reading list grew by four",
    "Search, with <Ctrl+K>, finds attachments too",
    "Ana & Ben shared a folder with you",
    "Two comments on \"Budget, second draft\"",
    "Meeting notes from yesterday, summed up",
    "Café crawl: seven places, one map",
    "How others use checklists",
    "A backup finished; 2,481 notes are safe",
    "Your saved search \"travel\" has new results",
    "What we mended this week",
];

/// A small linear congruential generator (the multiplier and increment of Knuth's MMIX): the demo needs
/// the same people everywhere, not good randomness.
struct Lcg(u64);

impl Lcg {
    fn of_row(index: usize) -> Self {
        let mut lcg = Self(0x5eed ^ index as u64);
        for _ in 0..3 {
            lcg.below(1);
        }
        lcg
    }

    /// Uniform enough in `0..bound`.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn pick<T>(&mut self, choices: &'static [T]) -> &'static T {
        &choices[self.below(choices.len())]
    }
}

struct Person {
    address: String,
    name: String,
    city: &'static str,
}

fn person(lcg: &mut Lcg, index: usize) -> Person {
    let script = lcg.pick(&SCRIPTS);
    let (given, slug) = lcg.pick(script.given);
    let initial = lcg.pick(script.initials);
    let domain = lcg.pick(&DOMAINS);
    // The row number makes it unique; the separator only makes it look like life.
    let separator = lcg.pick(&[".", "-", "_", "+digest."]);
    Person {
        address: format!("{slug}{separator}{index}@{domain}"),
        name: format!("{given} {initial}"),
        city: lcg.pick::<&str>(script.cities),
    }
}

fn push_row(csv: &mut String, index: usize) {
    let mut lcg = Lcg::of_row(index);
    let Person { address, name, city } = person(&mut lcg, index);
    let address = if index % INVALID_EVERY == INVALID_AT {
        match invalid_address(address, index) {
            Some(address) => address,
            None => {
                // Wrong in another way: it ends after three fields.
                push_fields(csv, &[&format!("short.{index}@example.com"), &name, city]);
                return;
            }
        }
    } else if index % REPEATED_EVERY == REPEATED_AT {
        let earlier = index - REPEATED_BACK;
        person(&mut Lcg::of_row(earlier), earlier).address.to_uppercase()
    } else {
        address
    };
    let plan = lcg.pick(&PLANS);
    let unread = lcg.below(41).to_string();
    let reader_id = format!("r{index:07}");
    let first = lcg.below(HEADLINES.len());
    let mut fields: Vec<&str> = vec![&address, &name, city, plan, &unread, &reader_id];
    let minutes: Vec<String> = (0..3).map(|_| (1 + lcg.below(9)).to_string()).collect();
    for (item, minutes) in minutes.iter().enumerate() {
        // Steps of 5 never meet within three items of 14.
        fields.push(HEADLINES[(first + item * 5) % HEADLINES.len()]);
        fields.push(minutes);
    }
    push_fields(csv, &fields);
}

/// The next kind of wrong address, by turns; `None` for the row that is wrong in another way.
fn invalid_address(address: String, index: usize) -> Option<String> {
    match (index / INVALID_EVERY) % 6 {
        0 => Some(address.replace('@', " at ")),
        1 => Some(String::new()),
        2 => Some(address.replacen('@', "@example.net@", 1)),
        3 => None,
        4 => Some(format!("{}{address}", "long-".repeat(13))),
        _ => Some(address.replacen('@', "\0@", 1)),
    }
}

fn push_fields(csv: &mut String, fields: &[&str]) {
    for (position, field) in fields.iter().enumerate() {
        if position > 0 {
            csv.push(',');
        }
        if field.contains([',', '"', '\n', '\r']) {
            // Writing to a string cannot fail.
            let _ = write!(csv, "\"{}\"", field.replace('"', "\"\""));
        } else {
            csv.push_str(field);
        }
    }
    csv.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_common::address::Address;
    use std::collections::BTreeSet;

    /// Rows read by the csv crate and judged by the rules of the product, not by the generator's own.
    fn judge(count: usize) -> (usize, usize, usize) {
        let csv = recipients_csv(count);
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(csv.as_bytes());
        let columns = reader.headers().unwrap().len();
        let mut keys = BTreeSet::new();
        let (mut good, mut invalid, mut repeated) = (0, 0, 0);
        for record in reader.records() {
            let record = record.unwrap();
            match record[0].parse::<Address>() {
                Ok(address) if record.len() == columns => {
                    if keys.insert(address.normalised()) {
                        good += 1;
                    } else {
                        repeated += 1;
                    }
                }
                Ok(_) | Err(_) => invalid += 1,
            }
        }
        (good, invalid, repeated)
    }

    #[test]
    fn the_counts_are_those_of_the_rows() {
        for count in [0, 1, 37, 38, 111, 112, 137, 138, 361, 362, 500, 1000, 10_000] {
            let (good, invalid, repeated) = judge(count);
            assert_eq!(good + invalid + repeated, count, "every row is read");
            assert_eq!((invalid, repeated), (invalid_rows(count), repeated_rows(count)), "of {count} rows");
        }
        assert_eq!((invalid_rows(10_000), repeated_rows(10_000)), (100, 40));
    }

    #[test]
    fn every_kind_of_wrong_row_is_there() {
        let csv = recipients_csv(600);
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(csv.as_bytes());
        let rows: Vec<_> = reader.records().map(|row| row.unwrap()).skip(INVALID_AT).step_by(INVALID_EVERY).collect();
        assert!(!rows[0][0].contains('@'));
        assert_eq!(&rows[1][0], "");
        assert_eq!(rows[2][0].matches('@').count(), 2);
        assert_eq!(rows[3].len(), 3);
        assert!(rows[4][0].split('@').next().unwrap().len() > 64);
        assert!(rows[5][0].contains('\0'));
    }

    #[test]
    fn addresses_are_only_at_reserved_names() {
        for line in recipients_csv(2_000).lines().skip(1) {
            let address = line.split(',').next().unwrap().to_lowercase();
            let Some((_, domain)) = address.rsplit_once('@') else { continue };
            let reserved = ["example.com", "example.net", "example.org", "example"];
            assert!(reserved.iter().any(|name| domain == *name || domain.ends_with(&format!(".{name}"))), "{domain}");
        }
    }

    #[test]
    fn the_example_on_disk_is_the_beginning_of_the_demo() {
        assert!(include_str!("../../../examples/daily-digest/recipients.csv") == recipients_csv(500));
        assert!(recipients_csv(10_000).starts_with(&recipients_csv(500)));
    }
}
