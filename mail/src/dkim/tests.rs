use super::*;
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};

fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der)).into_bytes()
}

fn rsa(size: KeySize) -> Vec<u8> {
    let pair = RsaKeyPair::generate(size).unwrap();
    let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    pem("PRIVATE KEY", der.as_ref())
}

fn ed25519() -> Vec<u8> {
    pem("PRIVATE KEY", Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap().as_ref())
}

const MESSAGE: &str = "Date: Fri, 20 Nov 2026 08:00:00 +0000\r\nFrom: Acme <digest@acme.example>\r\nTo: ada@example.com\r\n\
     Subject: Hello\r\nMessage-ID: <1@acme.example>\r\nList-Unsubscribe: <https://acme.example/u>,\r\n \
     <mailto:u@acme.example>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nX-Other: x\r\nMIME-Version: 1.0\r\n\
     Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nHello  =20\r\n\r\n";

fn signed(signers: &Signers, domain: &str) -> String {
    let mut message = MESSAGE.as_bytes().to_vec();
    signers.sign(&mut message, domain, 1_795_161_600).unwrap();
    String::from_utf8(message).unwrap()
}

/// The tags of a signature, without white space.
fn tag(field: &str, name: &str) -> String {
    let plain: String = field.chars().filter(|c| !c.is_whitespace()).collect();
    let start = format!("{name}=");
    let tags = plain.trim_start_matches("DKIM-Signature:").split(';').find_map(|tag| tag.strip_prefix(&start));
    tags.unwrap_or_else(|| panic!("no {name} in {field}")).to_owned()
}

/// Verifies the first field of `message` against a published record, as RFC 6376 6.1.3 has it.
fn verifies(message: &str, record: &str) -> bool {
    let (fields, body) = canonical::split(message.as_bytes()).unwrap();
    let signature = std::str::from_utf8(fields[0].value).unwrap();
    let mut rest = fields[1..].to_vec();
    let mut data = Vec::new();
    for name in tag(signature, "h").split(':') {
        if let Some(at) = rest.iter().rposition(|field| field.name.eq_ignore_ascii_case(name)) {
            let field = rest.remove(at);
            canonical::relaxed_field(&mut data, field.name, field.value);
            data.extend_from_slice(b"\r\n");
        }
    }
    let (before, _) = signature.rsplit_once(" b=").unwrap();
    canonical::relaxed_field(&mut data, "DKIM-Signature", format!("{before} b=").as_bytes());
    let body_hash = STANDARD.encode(Sha256::digest(canonical::relaxed_body(body)));
    let public = STANDARD.decode(tag(record, "p")).unwrap();
    let (algorithm, data): (&'static dyn aws_lc_rs::signature::VerificationAlgorithm, _) =
        match tag(signature, "a").as_str() {
            "rsa-sha256" => (&RSA_PKCS1_2048_8192_SHA256, data),
            _ => (&ED25519, Sha256::digest(data).to_vec()),
        };
    let proof = STANDARD.decode(tag(signature, "b")).unwrap();
    UnparsedPublicKey::new(algorithm, public).verify(&data, &proof).is_ok() && tag(signature, "bh") == body_hash
}

#[test]
fn the_example_of_rfc_8463_is_signed_the_same() {
    let message = b"From: Joe SixPack <joe@football.example.com>\r\nTo: Suzie Q <suzie@shopping.example.net>\r\n\
        Subject: Is dinner ready?\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
        Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\n\
        Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
    let field = " v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n \
        q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n subject : date : message-id : from : subject : date;\r\n \
        bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=";
    let (fields, body) = canonical::split(message).unwrap();
    let mut data = Vec::new();
    for field in &fields {
        let order = ["From", "To", "Subject", "Date", "Message-ID"];
        assert!(order.contains(&field.name));
        canonical::relaxed_field(&mut data, field.name, field.value);
        data.extend_from_slice(b"\r\n");
    }
    canonical::relaxed_field(&mut data, "DKIM-Signature", field.as_bytes());
    assert_eq!(
        STANDARD.encode(Sha256::digest(canonical::relaxed_body(body))),
        "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="
    );
    // PKCS#8 of the seed in appendix A.2.
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend(STANDARD.decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=").unwrap());
    let key = PrivateKey::of_pem(&pem("PRIVATE KEY", &der)).unwrap();
    assert_eq!(key.record(), "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    assert_eq!(
        STANDARD.encode(key.sign(&data).unwrap()),
        "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
    );
}

#[test]
fn each_key_of_the_domain_signs_and_any_change_shows() {
    let signers = vec![
        Signer::new("acme.example", "r1", &rsa(KeySize::Rsa2048)).unwrap(),
        Signer::new("ACME.example.", "e1", &ed25519()).unwrap(),
        Signer::new("other.example", "e1", &ed25519()).unwrap(),
    ];
    let signers = Signers::new(signers).unwrap();
    let message = signed(&signers, "acme.example");
    assert_eq!(message, signed(&signers, "acme.example"), "the same message, the same signature");
    assert!(message.ends_with(MESSAGE), "{message}");
    let second = message.match_indices("DKIM-Signature:").nth(1).unwrap().0;
    let records: Vec<_> = signers.iter().map(|signer| signer.record()).collect();
    assert_eq!(records[1].0, "e1._domainkey.acme.example");
    for (begins, (name, record)) in [(0, &records[0]), (second, &records[1])] {
        let message = format!("{}{MESSAGE}", &message[begins..message.len() - MESSAGE.len()]);
        assert!(verifies(&message, record), "{name}\n{message}");
        assert!(message.lines().all(|line| line.len() <= 78), "{message}");
        // Fields that are covered cannot be changed, taken away or added once more.
        for (from, to) in [
            ("Hello\r\n", "Hallo\r\n"),
            ("Hello  =20", "Hello =21"),
            ("To: ada@", "To: eve@"),
            ("https://acme", "https://evil"),
            ("One-Click", "Other"),
            ("List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", ""),
            ("X-Other: x", "Subject: x"),
            ("X-Other: x", "From: eve@example.com"),
            ("X-Other: x", "Reply-To: eve@example.com"),
            ("X-Other: x", "List-Unsubscribe: <https://evil.example>"),
            ("t=1795161600", "t=1795161601"),
        ] {
            let changed = message.replace(from, to);
            assert_ne!(changed, message);
            assert!(!verifies(&changed, record), "{from} to {to}");
        }
        assert!(
            verifies(&message.replace("X-Other: x\r\n", "X-Other: y\r\nReceived: z\r\n"), record),
            "these may change"
        );
        assert!(verifies(&message.replace("Subject: Hello", "subject:   Hello "), record), "relaxed");
    }
}

#[test]
fn a_domain_without_keys_takes_those_above_it() {
    let signers = vec![
        Signer::new("acme.example", "a", &ed25519()).unwrap(),
        Signer::new("news.acme.example", "b", &ed25519()).unwrap(),
        Signer::new("bücher.example", "c", &ed25519()).unwrap(),
    ];
    let signers = Signers::new(signers).unwrap();
    for (domain, expected) in [
        ("acme.example", Some("acme.example")),
        ("mail.acme.example", Some("acme.example")),
        ("news.acme.example", Some("news.acme.example")),
        ("a.news.acme.example", Some("news.acme.example")),
        ("BÜCHER.example", Some("xn--bcher-kva.example")),
        ("notacme.example", None),
        ("example", None),
        ("", None),
    ] {
        let message = signed(&signers, domain);
        let found =
            message.starts_with("DKIM-Signature:").then(|| tag(message.split("\r\nDate:").next().unwrap(), "d"));
        assert_eq!(found.as_deref(), expected, "{domain}");
    }
}

#[test]
fn keys_that_cannot_sign_say_why() {
    let ed = ed25519();
    for (domain, selector, pem, part) in [
        ("acme", "a", &ed, "domain 'acme'"),
        ("acme .example", "a", &ed, "domain 'acme .example'"),
        ("", "a", &ed, "domain ''"),
        ("acme.example", "", &ed, "selector ''"),
        ("acme.example", "a;b", &ed, "selector 'a;b'"),
        ("acme.example", "a", &b"secret".to_vec(), "no private key in PEM"),
        ("acme.example", "a", &pem("PRIVATE KEY", b"secret"), "neither an RSA nor an Ed25519"),
        ("acme.example", "a", &pem("EC PRIVATE KEY", b"secret"), "neither an RSA nor an Ed25519"),
    ] {
        let why = Signer::new(domain, selector, pem).expect_err(part).to_string();
        assert!(why.contains(part) && !why.contains("secret"), "{why}");
    }
    let one = || Signer::new("acme.example", "a", &ed).unwrap();
    let twice = Signers::new(vec![one(), one()]).expect_err("twice").to_string();
    assert!(twice.contains("two ed25519-sha256 keys for acme.example"), "{twice}");
    assert!(!format!("{:?}", one()).contains("nWGx"), "nothing of the key is shown");
}

#[test]
fn what_is_no_message_is_not_signed() {
    let signers = Signers::new(vec![Signer::new("acme.example", "a", &ed25519()).unwrap()]).unwrap();
    for text in ["", "Subject: x", "no colon\r\n\r\nbody"] {
        let mut message = text.as_bytes().to_vec();
        assert_eq!(signers.sign(&mut message, "acme.example", 0), Err(Unsigned));
        assert_eq!(message, text.as_bytes());
    }
    let mut message = b"Subject: x".to_vec();
    assert_eq!(Signers::default().sign(&mut message, "acme.example", 0), Ok(()), "nobody signs");
}
