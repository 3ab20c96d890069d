//! What signing costs a worker, beside the signatures alone.

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine as _;
use postrider_mail::dkim::{Signer, Signers};
use std::hint::black_box;
use std::time::{Duration, Instant};

const SPAN: Duration = Duration::from_secs(2);
const DOMAIN: &str = "acme.example";
/// About what the header of a message is in its canonical form.
const DATA: [u8; 600] = [b'x'; 600];

/// `body_bytes`: of the message's body.
pub fn measure(body_bytes: usize) {
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let ed25519 = Ed25519KeyPair::generate().expect("a key");
    let rsa_der: Pkcs8V1Der<'_> = rsa.as_der().expect("a document");
    let ed25519_der = ed25519.to_pkcs8v1().expect("a document");
    let message = message(body_bytes);
    let signed = |keys: &[&[u8]]| {
        let signer = |(at, der): (usize, &&[u8])| Signer::new(DOMAIN, &format!("s{at}"), &pem(der)).expect("a signer");
        let signers = Signers::new(keys.iter().enumerate().map(signer).collect()).expect("signers");
        per_second(|| {
            let mut message = message.clone();
            signers.sign(&mut message, DOMAIN, 1_795_161_600).expect("signed");
            black_box(message);
        })
    };
    let raw_rsa = per_second(|| {
        let mut signature = [0; 256];
        rsa.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &DATA, &mut signature).expect("signed");
        black_box(signature);
    });
    let raw_ed25519 = per_second(|| {
        black_box(ed25519.sign(&DATA));
    });
    let (rsa_der, ed25519_der) = (rsa_der.as_ref(), ed25519_der.as_ref());
    let (with_rsa, with_ed25519) = (signed(&[rsa_der]), signed(&[ed25519_der]));
    let with_both = signed(&[rsa_der, ed25519_der]);
    println!("messages of {} bytes, one thread", message.len());
    println!("signatures alone, RSA-2048        {raw_rsa:10.0} a second");
    println!("messages signed, RSA-2048         {with_rsa:10.0} a second   {:.2} of that", with_rsa / raw_rsa);
    println!("signatures alone, Ed25519         {raw_ed25519:10.0} a second");
    println!(
        "messages signed, Ed25519          {with_ed25519:10.0} a second   {:.2} of that",
        with_ed25519 / raw_ed25519
    );
    println!("messages signed, both             {with_both:10.0} a second");
}

fn per_second(mut act: impl FnMut()) -> f64 {
    let (begun, mut number) = (Instant::now(), 0.0);
    while begun.elapsed() < SPAN {
        act();
        number += 1.0;
    }
    number / begun.elapsed().as_secs_f64()
}

fn pem(der: &[u8]) -> Vec<u8> {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n").into_bytes()
}

fn message(body_bytes: usize) -> Vec<u8> {
    let header = "Date: Fri, 20 Nov 2026 08:00:00 +0000\r\nFrom: Acme Digest <digest@acme.example>\r\nTo: ada@example.com\r\n\
        Subject: Your digest\r\nMessage-ID: <0123456789abcdef0123456789abcdef@acme.example>\r\n\
        X-Postrider-Ref: run_0123456789abcdef01234567.0123456789abcdef\r\nList-Id: <digest.acme.example>\r\n\
        MIME-Version: 1.0\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n";
    let line = "<p>Lines of a message, as quoted-printable has them, with a few words each=\r\n";
    let mut message = header.as_bytes().to_vec();
    message.extend(line.bytes().cycle().take(body_bytes.next_multiple_of(line.len())));
    message
}
