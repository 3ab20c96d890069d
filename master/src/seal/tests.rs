use super::*;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

fn key_file(lines: &[&str], mode: u32) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(lines.join("\n").as_bytes()).expect("writes");
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).expect("a mode");
    file
}

fn line(id: &str) -> String {
    new_line(&id.parse().expect("a name")).expect("this build seals")
}

fn vault(lines: &[&str]) -> Vault {
    Vault::read(key_file(lines, 0o600).path()).expect("reads")
}

#[test]
fn what_is_sealed_opens_only_as_itself_and_whole() {
    let key = line("a");
    let vault = vault(&[&key]);
    let run = RunId::derive("t", "r");
    let (one, two) = (BatchId { run: run.clone(), sequence: 1 }, BatchId { run: run.clone(), sequence: 2 });
    let sealed = vault.seal(What::Batch(&one), b"ada@example.com".to_vec()).expect("seals");
    assert!(!sealed.windows(3).any(|bytes| bytes == b"ada"));
    assert_ne!(
        sealed,
        vault.seal(What::Batch(&one), b"ada@example.com".to_vec()).expect("seals"),
        "a nonce of its own"
    );
    assert_eq!(vault.open(What::Batch(&one), sealed.clone()).expect("opens"), b"ada@example.com");
    for other in [What::Batch(&two), What::Open(&run), What::Reply(&one, 1), What::Segment("x")] {
        let error = vault.open(other, sealed.clone()).expect_err("it is another thing");
        assert!(matches!(error, SealError::Damaged { .. }) && !error.is_about_keys(), "{error}");
    }
    for at in 0..sealed.len() {
        let mut flipped = sealed.clone();
        flipped[at] ^= 1;
        // A bit of the header may make it another key's, or unsealed bytes that nobody can decode.
        let opened = vault.open(What::Batch(&one), flipped);
        assert!(opened.is_err() || opened.is_ok_and(|bytes| bytes.starts_with(b"PRS") || bytes != b"ada@example.com"));
    }
    for length in 24..sealed.len() {
        assert!(vault.open(What::Batch(&one), sealed[..length].to_vec()).is_err(), "cut at {length}");
    }
}

#[test]
fn keys_turn_over_and_missing_ones_are_named() {
    let (old, new, again) = (line("old"), line("new"), line("old"));
    let what = What::Segment("s");
    let sealed = vault(&[&old]).seal(what, b"x".to_vec()).expect("seals");
    let turned = vault(&[&new, &old]);
    assert_eq!(turned.open(what, sealed.clone()).expect("an old key opens"), b"x");
    let (header, _) = Header::read(&turned.seal(what, Vec::new()).expect("seals")).expect("a header");
    assert_eq!(header.key.as_str(), "new", "the first one seals");
    assert!(turned.is_current(Some(&header)) && !turned.is_current(None));

    let missing = vault(&[&new]).open(what, sealed.clone()).expect_err("missing");
    assert!(missing.is_about_keys());
    let text = missing.to_string();
    assert!(text.contains("'old'") && text.contains("key_file") && text.contains("every master"), "{text}");
    let differs = vault(&[&again]).open(what, sealed.clone()).expect_err("another one of the name");
    assert!(matches!(differs, SealError::KeyDiffers { .. }) && differs.is_about_keys(), "{differs}");
    assert!(matches!(Vault::default().open(what, sealed), Err(SealError::KeyMissing { .. })));
    // From before there was a key.
    assert_eq!(turned.open(what, b"plain".to_vec()).expect("as it is"), b"plain");
    assert_eq!(Vault::default().seal(what, b"plain".to_vec()).expect("as it is"), b"plain");
}

#[test]
fn texts_stay_texts() {
    let key = line("a");
    let vault = vault(&[&key]);
    let batch = BatchId { run: RunId::derive("t", "r"), sequence: 1 };
    let reply = What::Reply(&batch, 7);
    let sealed = vault.seal_text(reply, "550 <ada@example.com> is unknown".into()).expect("seals");
    assert!(sealed.is_ascii() && !sealed.contains("ada") && !sealed.contains('|'), "{sealed}");
    assert_eq!(vault.open_text(reply, sealed.clone()), "550 <ada@example.com> is unknown");
    assert!(vault.open_text(What::Reply(&batch, 8), sealed.clone()).contains("failed to open the reply"));
    assert!(Vault::default().open_text(reply, sealed).contains("the key 'a'"));
    assert_eq!(vault.seal_text(reply, String::new()).expect("nothing to seal"), "");
    for plain in ["ok", "~", "~ok", "~UFJT"] {
        assert_eq!(vault.open_text(reply, plain.into()), plain);
    }
}

#[test]
fn a_key_file_is_private_and_says_what_is_wrong_without_its_secrets() {
    let good = line("a");
    let secret = good.split(' ').nth(1).expect("a key").to_owned();
    assert!(Vault::read(key_file(&["# ours", "", &good], 0o400).path()).is_ok_and(|vault| vault.seals()));
    for mode in [0o640, 0o604, 0o660] {
        let error = Vault::read(key_file(&[&good], mode).path()).expect_err("refused").to_string();
        assert!(error.contains("chmod 600") && error.contains(&format!("{mode:o}")), "{error}");
    }
    let short = format!("a {}", &secret[..secret.len() - 4]);
    let (swapped, three) = (format!("{secret} a"), format!("{good} x"));
    let rows: [(&[&str], &str); 6] = [
        (&[], "it has no key"),
        (&["# none"], "it has no key"),
        (&[&good, &good], "the key 'a' is there twice"),
        (&[&short], "line 1: the key has"),
        (&["# c", &swapped], "line 2: a name has 1 to 32"),
        (&[&three], "line 1 is not a name and a key"),
    ];
    for (lines, part) in rows {
        let error = Vault::read(key_file(lines, 0o600).path()).expect_err("refused").to_string();
        assert!(error.contains(part) && error.contains("config keygen") && !error.contains(&secret[..20]), "{error}");
    }
    let error = Vault::read(Path::new("/nowhere/keys")).expect_err("refused").to_string();
    assert!(error.contains("read the key file /nowhere/keys") && error.contains("[encryption] key_file"), "{error}");
}
