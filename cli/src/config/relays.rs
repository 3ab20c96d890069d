//! `[[relay]]`: where workers send to, and how they prove who they are there.

use super::RelayConfig;
use super::read::{Reader, to_u32};
use super::settings::Element;
use super::urls::{Place, parse_relay};
use crate::toml_text::Value;
use postrider_common::ids::RelayName;
use postrider_common::relay::{CONNECTIONS_TOTAL_MAX, RELAYS_LIMITED_MAX, RelayLimit};
use postrider_worker::{LoginConfig, Security};
use std::net::IpAddr;

/// Connections to one relay when the configuration does not say.
const CONNECTIONS: u32 = 32;

impl Reader<'_> {
    pub(super) fn relays(&mut self) -> Vec<RelayConfig> {
        let elements = self.settings.elements("relay").to_vec();
        let relays: Vec<RelayConfig> = elements.iter().filter_map(|element| self.relay(element)).collect();
        let count = relays.iter().filter(|relay| !relay.limit.is_none()).count();
        if count > RELAYS_LIMITED_MAX {
            let why = format!("{count} have a rate or connections_total and at most {RELAYS_LIMITED_MAX} may");
            self.problems.push(format!("relay: {why}; give relays with one limit one name and address"));
        }
        relays
    }

    fn relay(&mut self, element: &Element) -> Option<RelayConfig> {
        let path = format!("relay.{}", element.name);
        let url_path = format!("{path}.url");
        let lanes = self.lane_list(&element.keys, &format!("{path}.lanes"));
        let connections = match element.keys.get("connections") {
            Some(setting) => self.whole_of(setting, &format!("{path}.connections"), 1..=1000),
            None => Some(i64::from(CONNECTIONS)),
        };
        let limit = self.relay_limit(element);
        let Some(setting) = element.keys.get("url") else {
            self.problems.push(format!("{}: {url_path} is missing: such as smtp://127.0.0.1:2525", element.origin));
            return None;
        };
        let Value::Text(url) = &setting.value else { return None };
        let place = parse_relay(url.trim()).map_err(|why| self.wrong(setting, &url_path, why)).ok();
        let Place { host, port, is_tls } = place?;
        let security = self.security(element, &path, is_tls)?;
        let login = self.login(element, &path, security == Security::None && !is_loopback(&host));
        let authorities = text_of(element, "tls_ca").map(Into::into);
        let (name, connections) = (element.name.clone(), to_u32(connections?));
        Some(RelayConfig { name, host, port, security, authorities, login: login?, lanes, connections, limit })
    }

    /// What holds for it over all workers.
    fn relay_limit(&mut self, element: &Element) -> RelayLimit {
        let path = |key: &str| format!("relay.{}.{key}", element.name);
        let connections = element.keys.get("connections_total").and_then(|setting| {
            self.whole_of(setting, &path("connections_total"), 1..=i64::from(CONNECTIONS_TOTAL_MAX)).map(to_u32)
        });
        let limit = RelayLimit { pace: self.limit(element, "relay").pace, connections };
        if !limit.is_none()
            && let Err(why) = element.name.parse::<RelayName>()
        {
            let why = format!("relay.name: {why}; it is how workers know that they share a relay");
            self.problems.push(format!("{}: {why}", element.origin));
        }
        limit
    }

    /// None: it was complained about.
    fn security(&mut self, element: &Element, path: &str, is_tls: bool) -> Option<Security> {
        let given = text_of(element, "tls");
        match (given.as_deref(), is_tls) {
            (None, true) => Some(Security::Tls),
            (None | Some("none"), false) => Some(Security::None),
            (Some("starttls"), false) => Some(Security::StartTls),
            (Some(_), true) => {
                self.complain(element, &format!("{path}.tls: smtps:// is TLS from the first byte on: leave tls out"))
            }
            (Some(other), false) => self.complain(
                element,
                &format!(
                    "{path}.tls: '{other}' is neither \"starttls\" nor \"none\"; TLS from the first byte on is smtps://"
                ),
            ),
        }
    }

    /// `in_the_clear`: the secret would be seen by others. None: it was complained about.
    fn login(&mut self, element: &Element, path: &str, in_the_clear: bool) -> Option<Option<LoginConfig>> {
        let method = text_of(element, "auth").map(|text| text.parse().map_err(|why| format!("{path}.auth: {why}")));
        let method = match method.transpose() {
            Ok(method) => method,
            Err(why) => return self.complain(element, &why),
        };
        match (text_of(element, "username"), text_of(element, "password")) {
            (None, None) if method.is_some() => {
                self.complain(element, &format!("{path}.auth needs username and password"))
            }
            (None, None) => Some(None),
            (Some(_), Some(_)) if in_the_clear => self.complain(
                element,
                &format!("{path}.password is refused without TLS: write tls = \"starttls\", or smtps:// in the URL"),
            ),
            (Some(user), Some(secret)) => Some(Some(LoginConfig { user, secret: secret.as_str().into(), method })),
            (Some(_), None) => self.complain(
                element,
                &format!("{path}.password is missing: write \"env:NAME\", or the path of a file that holds it"),
            ),
            (None, Some(_)) => self.complain(element, &format!("{path}.username is missing: whose password is it?")),
        }
    }

    fn complain<T>(&mut self, element: &Element, why: &str) -> Option<T> {
        self.problems.push(format!("{}: {why}", element.origin));
        None
    }
}

/// A text that is not empty.
fn text_of(element: &Element, key: &str) -> Option<String> {
    match element.keys.get(key).map(|setting| &setting.value) {
        Some(Value::Text(text)) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        _ => None,
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
