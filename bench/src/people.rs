//! The data set of the measurements: an address, a name and three merge fields, about 125 bytes a person,
//! one of the fields random, so that it cannot be compressed away.

use postrider_common::message::Recipient;
use postrider_tests::Audience;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

const FIRST: [&str; 16] = [
    "Ada", "Boris", "Chiara", "David", "Elif", "Fatima", "George", "Hana", "Ivan", "José", "Kenji", "Łucja", "Mina",
    "Noah", "Olga", "Priya",
];
const LAST: [&str; 16] = [
    "Andersson",
    "Brown",
    "Costa",
    "Dubois",
    "Evans",
    "Fischer",
    "García",
    "Horváth",
    "Ivanova",
    "Jansen",
    "Kowalski",
    "López",
    "Müller",
    "Nguyen",
    "O'Brien",
    "Popescu",
];
const DOMAINS: [&str; 8] =
    ["gmail.com", "outlook.com", "yahoo.com", "icloud.com", "gmx.de", "example.com", "example.org", "example.net"];
const OFFERS: [&str; 8] = [
    "rain jacket; Bergen",
    "espresso machine; Trieste",
    "city bike; Utrecht",
    "reading lamp; Porto",
    "trail shoes; Innsbruck",
    "record player; Leeds",
    "garden bench; Lyon",
    "fountain pen; Hamburg",
];
const TOKEN_LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

struct Person {
    address: String,
    name: String,
    offer: &'static str,
    coupon: String,
    token: String,
}

fn person(random: &mut Random, index: usize) -> Person {
    let (first, last) = (random.one_of(&FIRST), random.one_of(&LAST));
    let address = format!("{}.{}{index}@{}", plain(first), plain(last), random.one_of(&DOMAINS));
    let token: String = (0..27).map(|_| char::from(TOKEN_LETTERS[random.below(32)])).collect();
    let offer = random.one_of(&OFFERS);
    Person {
        address,
        name: format!("{first} {last}"),
        offer,
        coupon: format!("SAVE{:04}", random.below(10_000)),
        token,
    }
}

/// The same people for the same seed, on every machine.
pub fn audience(count: usize, seed: u64) -> Audience {
    let mut audience = Audience::with_header("email,name,offer,coupon,token");
    let mut random = Random(seed);
    for index in 0..count {
        let Person { address, name, offer, coupon, token } = person(&mut random, index);
        audience.add_row(&address, &format!("{name},{offer},{coupon},{token}"));
    }
    audience
}

/// The same people as a file, whatever their number.
pub fn write_csv(path: &Path, count: usize, seed: u64) {
    let mut file = BufWriter::new(File::create(path).expect("a file"));
    writeln!(file, "email,name,offer,coupon,token").expect("written");
    let mut random = Random(seed);
    for index in 0..count {
        let Person { address, name, offer, coupon, token } = person(&mut random, index);
        writeln!(file, "{address},{name},{offer},{coupon},{token}").expect("written");
    }
    file.flush().expect("written");
}

/// The same people as a splitter would hand them to the store.
pub fn recipients(count: usize, seed: u64) -> Vec<Recipient> {
    let mut random = Random(seed);
    let recipient = |index| {
        let Person { address, name, offer, coupon, token } = person(&mut random, index);
        let pairs = [("name", name), ("offer", offer.to_owned()), ("coupon", coupon), ("token", token)];
        let fields = pairs.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        Recipient { key: address.clone(), address: address.parse().expect("an address"), fields }
    };
    (0..count).map(recipient).collect()
}

fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase()).collect()
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or_default()
    }

    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }
}
