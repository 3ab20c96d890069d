//! Audiences and campaigns as files, the way a customer writes them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Destinations of the generated addresses. Nothing leaves the machine: the relay is the sink.
const DOMAINS: [&str; 5] = ["gmail.com", "outlook.com", "yahoo.com", "example.com", "example.org"];
const CITIES: [&str; 4] = ["Zürich", "Łódź", "Αθήνα", "東京"];

#[derive(Debug, Clone)]
pub struct Audience {
    header: String,
    rows: Vec<String>,
    addresses: BTreeSet<String>,
}

impl Audience {
    pub fn with_header(header: &str) -> Self {
        Self { header: header.to_owned(), rows: Vec::new(), addresses: BTreeSet::new() }
    }

    /// `count` people over five domains.
    pub fn of(count: usize) -> Self {
        let mut audience = Self::with_header("email,name,city,coupon");
        for index in 0..count {
            audience.add(&format!("r{index:06}@{}", DOMAINS[index % DOMAINS.len()]));
        }
        audience
    }

    /// `count` people at each `NAME.example`: one batch a site when `count` is at most 100.
    pub fn of_sites(sites: &[String], count: usize) -> Self {
        let mut audience = Self::with_header("email,name,city,coupon");
        for site in sites {
            for index in 0..count {
                audience.add(&format!("r{index:04}@{site}.example"));
            }
        }
        audience
    }

    /// One more person, who must be delivered to like everybody else.
    pub fn add(&mut self, address: &str) {
        let index = self.rows.len();
        let city = CITIES[index % CITIES.len()];
        self.add_row(address, &format!("Person {index},{city},K{:05}", index * 7919 % 100_000));
    }

    /// The same with merge fields of the caller's, as the rest of the row.
    pub fn add_row(&mut self, address: &str, fields: &str) {
        self.addresses.insert(address.to_owned());
        self.rows.push(format!("{address},{fields}"));
    }

    /// A row as it is, which is not expected to be admitted.
    pub fn add_bad_row(&mut self, row: &str) {
        self.rows.push(row.to_owned());
    }

    pub fn addresses(&self) -> &BTreeSet<String> {
        &self.addresses
    }

    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    pub fn to_csv(&self) -> String {
        let mut text = format!("{}\n", self.header);
        for row in &self.rows {
            let _ = writeln!(text, "{row}");
        }
        text
    }
}

/// A campaign file; the fields are what the scenarios vary.
#[derive(Debug, Clone)]
pub struct Campaign {
    pub name: String,
    pub lane: String,
    pub on_unknown: &'static str,
    pub subject: String,
    pub text: String,
    pub headers: String,
}

impl Campaign {
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            lane: "bulk".to_owned(),
            on_unknown: "resend",
            subject: "Your digest, {{ name }}".to_owned(),
            text: "Hello {{ name }},\nnews from {{ city }}. Your code is {{ coupon }}.\n".to_owned(),
            headers: String::new(),
        }
    }

    /// Writes `NAME.toml` and `NAME.csv` into the folder.
    pub fn write(&self, folder: &Path, audience: &Audience) -> PathBuf {
        let csv = format!("{}.csv", self.name);
        write(&folder.join(&csv), &audience.to_csv());
        let text = format!(
            "name = \"{}\"\nfrom = \"Acme Digest <digest@acme.example>\"\nlane = \"{}\"\non_unknown = \"{}\"\n{}\n\
             [audience]\ncsv = \"{csv}\"\naddress = \"email\"\n\n\
             [template]\nsubject = '''{}'''\ntext_inline = '''\n{}'''\n\
             html_inline = '''<p>Hello {{{{ name }}}}</p>'''\n",
            self.name, self.lane, self.on_unknown, self.headers, self.subject, self.text
        );
        let path = folder.join(format!("{}.toml", self.name));
        write(&path, &text);
        path
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
}
