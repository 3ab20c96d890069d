//! How a session proves who it is (RFC 4954).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// RFC 4616.
    Plain,
    /// Of old servers: never a standard.
    Login,
    /// A bearer token in the place of a password: Google's and Microsoft's.
    XOAuth2,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::XOAuth2 => "XOAUTH2",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is none of \"plain\", \"login\" and \"xoauth2\"")]
pub struct InvalidMethod;

impl FromStr for Method {
    type Err = InvalidMethod;

    fn from_str(text: &str) -> Result<Self, InvalidMethod> {
        let all = [Self::Plain, Self::Login, Self::XOAuth2];
        all.into_iter().find(|method| method.as_str().eq_ignore_ascii_case(text)).ok_or(InvalidMethod)
    }
}

/// Whose account, and the secret of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub secret: String,
    /// None: the best of PLAIN and LOGIN that the server offers.
    pub method: Option<Method>,
}

/// Shows no secret.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).field("method", &self.method).finish_non_exhaustive()
    }
}

impl Login {
    /// The AUTH line, and what answers each 334 after it. None: the server offers no such method.
    pub(super) fn lines(&self, offered: &[String]) -> Option<VecDeque<String>> {
        let is_offered = |method: &Method| offered.iter().any(|one| one == method.as_str());
        let method = match self.method {
            Some(method) => Some(method).filter(is_offered),
            None => [Method::Plain, Method::Login].into_iter().find(is_offered),
        };
        let (user, secret) = (&self.user, &self.secret);
        let lines = match method? {
            Method::Plain => vec![format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{user}\0{secret}")))],
            Method::Login => vec!["AUTH LOGIN".to_owned(), STANDARD.encode(user), STANDARD.encode(secret)],
            // A refusal comes as a 334 with the reason, which an empty line answers.
            Method::XOAuth2 => {
                let bearer = format!("user={user}\u{1}auth=Bearer {secret}\u{1}\u{1}");
                vec![format!("AUTH XOAUTH2 {}", STANDARD.encode(bearer)), String::new()]
            }
        };
        Some(lines.into())
    }
}
