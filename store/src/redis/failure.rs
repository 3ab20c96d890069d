//! What an error of the client library means and what to do about it. Pure.

use super::permissions;
use crate::error::{StoreError, UNCOMPARED_MEND};
use redis::{ErrorKind, RedisError};

/// What to do after an error.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The server lost the scripts: load them and repeat.
    Reload,
    /// The connection is of no use any more: make a new one and repeat. The call may have happened.
    Reconnect(String),
    /// The slot is on another node of the cluster. `asking`: it is being moved there, and only this call is meant.
    Elsewhere { there: String, asking: bool },
    /// The server refuses for now: wait and repeat. `reconnect`: another server may be behind the name by then.
    Wait { message: String, mend: &'static str, reconnect: bool },
    /// Repeating does not help.
    Fatal(StoreError),
}

const FAILOVER: &str = "wait for the failover to end, or point the store URL at the primary";

/// What TLS says when the two sides do not trust each other. Trying again would not help.
const DISTRUST: [(&str, &str); 3] = [
    (
        "invalid peer certificate",
        "give the file of who signed it as [store] tls_ca, and a host name or address that the certificate is for",
    ),
    ("CertificateRequired", "the server asks for a certificate of ours: give [store] tls_certificate and tls_key"),
    (
        "received fatal alert",
        "the server refuses our certificate: see its log, and [store] tls_certificate and tls_key",
    ),
];

pub(super) fn classify(error: &RedisError) -> Failure {
    let told = error.to_string();
    if let Some((_, mend)) = DISTRUST.iter().find(|(words, _)| error.is_io_error() && told.contains(words)) {
        return Failure::Fatal(StoreError::Unsafe { message: told, mend: (*mend).to_owned() });
    }
    if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() || error.is_connection_refusal() {
        return Failure::Reconnect(error.to_string());
    }
    // An aborted transaction names the commands that were refused: the first of them is the reason.
    if let Some(first) = error.clone().into_server_errors().and_then(|errors| errors.first().cloned()) {
        return by_code(first.1.code(), first.1.details().unwrap_or_default());
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => by_code("WRONGPASS", error.detail().unwrap_or_default()),
        ErrorKind::InvalidClientConfig => Failure::Fatal(StoreError::Url(error.to_string())),
        _ => match error.code() {
            Some(code) => by_code(code, error.detail().unwrap_or_default()),
            None => Failure::Fatal(StoreError::Corrupt(error.to_string())),
        },
    }
}

fn by_code(code: &str, detail: &str) -> Failure {
    let message = || if detail.is_empty() { code.to_owned() } else { format!("{code} {detail}") };
    let wait = |mend, reconnect| Failure::Wait { message: message(), mend, reconnect };
    match code {
        "NOSCRIPT" => Failure::Reload,
        "ERR" if detail.starts_with("Function not found") => Failure::Reload,
        "LOADING" => wait("wait until the server has read its file", false),
        "BUSY" => wait("a script of another program keeps the server busy: end it with SCRIPT KILL", false),
        "READONLY" | "MASTERDOWN" => wait(FAILOVER, true),
        "EXECABORT" => match detail.split_once("NOPERM ") {
            Some((_, refused)) => by_code("NOPERM", refused),
            None => wait("see the server's log for what it refused", false),
        },
        "UNCOMPARED" => wait(UNCOMPARED_MEND, false),
        "TRYAGAIN" | "CLUSTERDOWN" => wait("wait until the cluster is up", false),
        "OOM" => wait("raise maxmemory or wait until work has drained", false),
        "MISCONF" => wait("the server cannot write its file: see its log, and free space on its disk", false),
        "NOREPLICAS" => wait("too few replicas are in step: start them or lower min-replicas-to-write", false),
        "UNKILLABLE" => wait("a script of another program keeps the server busy", false),
        "NOAUTH" | "WRONGPASS" => Failure::Fatal(StoreError::Unsafe {
            message: message(),
            mend: "give user and password in the store URL: redis://user:password@host:port".into(),
        }),
        "NOPERM" => Failure::Fatal(permissions::missing(message(), detail)),
        "MOVED" | "ASK" => Failure::Elsewhere {
            there: detail.split_ascii_whitespace().nth(1).unwrap_or_default().to_owned(),
            asking: code == "ASK",
        },
        "UNBLOCKED" => wait(FAILOVER, true),
        _ => Failure::Fatal(StoreError::Corrupt(message())),
    }
}

/// A failure that remains when the time of a call is over. `maybe`: an earlier try may have happened.
pub(super) fn into_error(failure: Failure, maybe: bool) -> StoreError {
    match failure {
        Failure::Reload => StoreError::Unavailable("the server keeps forgetting the scripts".into()),
        Failure::Reconnect(message) => StoreError::Unavailable(message),
        Failure::Elsewhere { .. } if maybe => StoreError::Unavailable("the slot keeps moving".into()),
        Failure::Elsewhere { there, .. } => StoreError::Refusing {
            message: format!("the slot keeps moving, at last to {there}"),
            mend: "wait until the nodes of the cluster agree, or mend it with redis-cli --cluster fix",
        },
        Failure::Wait { message, .. } if maybe => StoreError::Unavailable(message),
        Failure::Wait { message, mend, .. } => StoreError::Refusing { message, mend },
        Failure::Fatal(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_a_server_has_its_answer() {
        for code in ["LOADING", "BUSY", "UNCOMPARED", "READONLY", "OOM", "MISCONF", "NOREPLICAS", "CLUSTERDOWN"] {
            assert!(matches!(by_code(code, "x"), Failure::Wait { .. }), "{code}");
            let error = into_error(by_code(code, "x"), false);
            assert!(error.is_retryable() && !error.may_have_happened(), "{code}");
            assert!(into_error(by_code(code, "x"), true).may_have_happened(), "{code}");
        }
        assert!(matches!(by_code("NOSCRIPT", ""), Failure::Reload));
        assert!(matches!(by_code("ERR", "Function not found"), Failure::Reload));
        assert!(matches!(by_code("ERR", "unknown command"), Failure::Fatal(StoreError::Corrupt(_))));
        for code in ["MOVED", "ASK"] {
            let failure = by_code(code, "3999 127.0.0.1:6381");
            let Failure::Elsewhere { there, asking } = &failure else { panic!("{failure:?}") };
            assert_eq!((there.as_str(), *asking), ("127.0.0.1:6381", code == "ASK"));
            assert!(into_error(failure.clone(), true).may_have_happened());
            assert!(into_error(failure, false).is_retryable());
        }
        for code in ["NOAUTH", "NOPERM"] {
            assert!(matches!(by_code(code, ""), Failure::Fatal(StoreError::Unsafe { .. })), "{code}");
        }
        assert!(matches!(by_code("CORRUPT", "the run"), Failure::Fatal(StoreError::Corrupt(_))));
        assert!(matches!(by_code("WRONGTYPE", ""), Failure::Fatal(StoreError::Corrupt(_))));
    }
}
