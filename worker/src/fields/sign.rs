//! Signatures by Standard Webhooks: HMAC-SHA256 over `ID.TIMESTAMP.BODY`, in base64, after `v1,`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use postrider_outgoing::SecretText;
use sha2::Sha256;

/// Begins a secret whose key is written in base64. Any other secret is the key itself.
const ENCODED: &str = "whsec_";

/// The value of the header `webhook-signature`. Errors: a secret that is none.
pub(super) fn sign(secret: &SecretText, id: &str, timestamp: i64, body: &[u8]) -> Result<String, String> {
    let key = match secret.reveal().strip_prefix(ENCODED) {
        Some(encoded) => STANDARD.decode(encoded.trim()).map_err(|_| "what follows whsec_ is not base64".to_owned())?,
        None => secret.reveal().as_bytes().to_vec(),
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|error| error.to_string())?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that the specification's own libraries are tested with.
    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        let secret = SecretText::plain("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let body = br#"{"test": 2432232314}"#;
        let signature = sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature.as_deref(), Ok("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn a_secret_in_words_is_the_key_itself() {
        let plain = sign(&SecretText::plain("hello"), "a", 1, b"{}").unwrap();
        assert_eq!(plain, sign(&SecretText::plain("whsec_aGVsbG8="), "a", 1, b"{}").unwrap());
        assert_ne!(plain, sign(&SecretText::plain("hello"), "a", 2, b"{}").unwrap());
        assert!(sign(&SecretText::plain("whsec_!"), "a", 1, b"{}").is_err());
    }
}
