//! Which destination group a domain belongs to, from a table of domains. No DNS.

use crate::ids::{InvalidId, SiteName};
use std::collections::BTreeMap;

/// Consumer domains of the large receivers, by the operator that sets their pace.
const BUILT_IN: &[(&str, &[&str])] = &[
    ("google", &["gmail.com", "googlemail.com"]),
    (
        "microsoft",
        &[
            "outlook.com",
            "hotmail.com",
            "live.com",
            "msn.com",
            "hotmail.co.uk",
            "hotmail.fr",
            "outlook.fr",
            "outlook.de",
        ],
    ),
    ("yahoo", &["yahoo.com", "ymail.com", "rocketmail.com", "aol.com", "yahoo.co.uk", "yahoo.fr", "yahoo.de"]),
    ("apple", &["icloud.com", "me.com", "mac.com"]),
    ("gmx", &["gmx.de", "gmx.net", "gmx.at", "gmx.ch", "web.de", "mail.com"]),
    ("proton", &["proton.me", "protonmail.com", "pm.me"]),
];

/// Domain to site; every domain that is not named is of site `other`.
#[derive(Debug, Clone)]
pub struct SiteTable {
    by_domain: BTreeMap<String, SiteName>,
}

impl Default for SiteTable {
    fn default() -> Self {
        let mut by_domain = BTreeMap::new();
        for (site, domains) in BUILT_IN {
            for domain in *domains {
                if let Ok(site) = site.parse() {
                    by_domain.insert((*domain).to_owned(), site);
                }
            }
        }
        Self { by_domain }
    }
}

impl SiteTable {
    /// Adds a configured site; its domains leave the built-in ones.
    pub fn add(&mut self, site: &str, domains: &[String]) -> Result<(), InvalidId> {
        let site: SiteName = site.parse()?;
        for domain in domains {
            self.by_domain.insert(domain.to_lowercase(), site.clone());
        }
        Ok(())
    }

    pub fn site_of(&self, domain: &str) -> SiteName {
        self.by_domain.get(domain).cloned().unwrap_or_else(SiteName::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_find_their_site() {
        let mut table = SiteTable::default();
        table.add("acme", &["Acme.example".into(), "me.com".into()]).expect("a good site");
        for (domain, site) in
            [("gmail.com", "google"), ("acme.example", "acme"), ("me.com", "acme"), ("x.example", "other")]
        {
            assert_eq!(table.site_of(domain).as_str(), site);
        }
        let built_in: usize = BUILT_IN.iter().map(|(_, domains)| domains.len()).sum();
        assert_eq!(SiteTable::default().by_domain.len(), built_in, "every built-in site parses, once");
    }
}
