//! Which addresses may be connected to: those of the public internet, and what the configuration allows.
//!
//! The table is the special-purpose registries of IANA (RFC 6890 and what was added since), and beside it everything
//! of IPv6 that is not global unicast (2000::/3). An address that carries another one inside (mapped, NAT64, 6to4,
//! Teredo) is refused whatever is in it: nobody publishes such for a service.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, what: &'static str) -> (IpNet, &'static str) {
    (IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)), what)
}

const fn v6(segments: [u16; 8], prefix: u8, what: &'static str) -> (IpNet, &'static str) {
    let [a, b, c, d, e, f, g, h] = segments;
    (IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)), what)
}

/// The first that holds an address names it.
const REFUSED: &[(IpNet, &str)] = &[
    v4(0, 0, 0, 0, 8, "this network"),
    v4(10, 0, 0, 0, 8, "private"),
    v4(100, 64, 0, 0, 10, "shared by carriers (CGNAT)"),
    v4(127, 0, 0, 0, 8, "loopback"),
    v4(169, 254, 0, 0, 16, "link-local"),
    v4(172, 16, 0, 0, 12, "private"),
    v4(192, 0, 0, 0, 24, "of protocols"),
    v4(192, 0, 2, 0, 24, "for documentation"),
    v4(192, 31, 196, 0, 24, "of AS112"),
    v4(192, 52, 193, 0, 24, "of AMT relays"),
    v4(192, 88, 99, 0, 24, "of 6to4 relays"),
    v4(192, 168, 0, 0, 16, "private"),
    v4(192, 175, 48, 0, 24, "of AS112"),
    v4(198, 18, 0, 0, 15, "for benchmarks"),
    v4(198, 51, 100, 0, 24, "for documentation"),
    v4(203, 0, 113, 0, 24, "for documentation"),
    v4(224, 0, 0, 0, 4, "multicast"),
    v4(240, 0, 0, 0, 4, "reserved"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96, "IPv4-mapped"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96, "IPv4-compatible"),
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, "NAT64"),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "NAT64"),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "discarded"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo"),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "for documentation"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "of protocols"),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4"),
    v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48, "of AS112"),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "for documentation"),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique local"),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
];
const GLOBAL_UNICAST: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// Why a host is not connected to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} is refused: {address} is {what}; if it is meant, add its network to [outgoing] allow")]
pub struct Refused {
    pub host: String,
    pub address: IpAddr,
    /// What kind of address it is.
    pub what: &'static str,
}

#[derive(Debug, Clone, Default)]
pub struct Guard {
    allow: Vec<IpNet>,
}

impl Guard {
    pub fn new(allow: &[IpNet]) -> Self {
        Self { allow: allow.to_vec() }
    }

    /// What is wrong with that address; None: it may be connected to.
    pub fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        if self.allow.iter().any(|network| network.contains(&address)) {
            return None;
        }
        let named = REFUSED.iter().find(|(network, _)| network.contains(&address)).map(|(_, what)| *what);
        let is_outside = matches!(address, IpAddr::V6(address) if !GLOBAL_UNICAST.contains(&address));
        named.or(is_outside.then_some("not of the public internet"))
    }

    pub(crate) fn check(&self, host: &str, address: IpAddr) -> Result<(), Refused> {
        match self.refusal(address) {
            None => Ok(()),
            Some(what) => Err(Refused { host: host.to_owned(), address, what }),
        }
    }

    /// Those of them that may be connected to; the first refusal if none may.
    fn checked(&self, host: &str, found: impl Iterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, Refused> {
        let (mut good, mut refused) = (Vec::new(), None);
        for address in found {
            match self.check(host, address.ip()) {
                Ok(()) => good.push(address),
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        match refused {
            Some(why) if good.is_empty() => Err(why),
            _ => Ok(good),
        }
    }
}

/// Resolves by the system, and gives the client only what was checked. An address in a URL does not come by here: the
/// client checks it before it asks.
#[derive(Debug, Clone)]
pub(crate) struct Checked(pub(crate) Arc<Guard>);

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = Arc::clone(&self.0);
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let addresses: Addrs = Box::new(guard.checked(name.as_str(), found.into_iter())?.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(guard: &Guard, address: &str) -> Option<&'static str> {
        guard.refusal(address.parse().unwrap())
    }

    #[test]
    fn each_kind_of_address_that_is_not_public_is_refused_by_its_name() {
        let rows = [
            ("0.0.0.0", "this network"),
            ("10.0.0.1", "private"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("100.64.0.1", "shared by carriers (CGNAT)"),
            ("100.127.255.255", "shared by carriers (CGNAT)"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("169.254.169.254", "link-local"),
            ("192.0.0.170", "of protocols"),
            ("192.0.2.1", "for documentation"),
            ("198.51.100.1", "for documentation"),
            ("203.0.113.1", "for documentation"),
            ("192.88.99.1", "of 6to4 relays"),
            ("198.19.0.1", "for benchmarks"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::ffff:10.0.0.1", "IPv4-mapped"),
            ("::ffff:8.8.8.8", "IPv4-mapped"),
            ("::10.0.0.1", "IPv4-compatible"),
            ("64:ff9b::10.0.0.1", "NAT64"),
            ("64:ff9b:1::1", "NAT64"),
            ("100::1", "discarded"),
            ("2001::1", "Teredo"),
            ("2001:db8::1", "for documentation"),
            ("3fff::1", "for documentation"),
            ("2001:2::1", "of protocols"),
            ("2001:20::1", "of protocols"),
            ("2002:a00:1::", "6to4"),
            ("fc00::1", "unique local"),
            ("fd12:3456::1", "unique local"),
            ("fe80::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
            ("5f00::1", "not of the public internet"),
            ("4000::1", "not of the public internet"),
            ("::2:0:0:1", "not of the public internet"),
        ];
        let guard = Guard::default();
        for (address, what) in rows {
            assert_eq!(refusal(&guard, address), Some(what), "{address}");
        }
    }

    #[test]
    fn what_is_next_to_a_refused_range_is_public() {
        let guard = Guard::default();
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "2003::1",
            "2001:4860:4860::8888",
        ] {
            assert_eq!(refusal(&guard, address), None, "{address}");
        }
    }

    #[test]
    fn what_is_allowed_is_exactly_that() {
        let guard = Guard::new(&["10.1.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()]);
        assert_eq!(refusal(&guard, "10.1.2.3"), None);
        assert_eq!(refusal(&guard, "10.2.0.1"), Some("private"));
        assert_eq!(refusal(&guard, "::1"), None);
        assert_eq!(refusal(&guard, "::ffff:10.1.2.3"), Some("IPv4-mapped"), "it is not the same as what is in it");
    }

    #[test]
    fn of_a_name_with_good_and_bad_addresses_only_the_good_ones_are_used() {
        let guard = Guard::default();
        let at = |text: &str| SocketAddr::new(text.parse().unwrap(), 0);
        let good = guard.checked("x", [at("10.0.0.1"), at("1.1.1.1"), at("::1")].into_iter()).unwrap();
        assert_eq!(good, [at("1.1.1.1")]);
        let refused = guard.checked("x", [at("10.0.0.1"), at("::1")].into_iter()).unwrap_err();
        assert_eq!((refused.what, refused.to_string().contains("[outgoing] allow")), ("private", true));
    }
}
