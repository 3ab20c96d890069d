//! The client session knows, at every instant, what became of the message in flight.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

use postrider_common::OutcomeKind::{Accepted, Deferred, NotWritten, Rejected, Unknown};
use postrider_mail::Verdict;
use postrider_mail::smtp::client::{Event, Login, Lost, Method, Outgoing, Phase, SendError, Session};
use std::time::Duration;

const MESSAGE: &str = "Subject: x\r\n\r\n.dot\r\n";
const PIPELINED: &str = "250-mx\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n";

fn outgoing() -> Outgoing {
    Outgoing {
        mail_from: "news@acme.example".into(),
        rcpt_to: "ada@example.com".into(),
        message: MESSAGE.as_bytes().to_vec(),
    }
}

/// Everything that is to be written now, as text.
fn written(session: &mut Session) -> String {
    let mut text = String::new();
    while let Some(write) = session.take_output() {
        text.push_str(std::str::from_utf8(&write.bytes).unwrap());
    }
    text
}

fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.event()).collect()
}

/// The one verdict among the events.
fn verdict(session: &mut Session) -> Verdict {
    let mut verdicts = events(session).into_iter().filter_map(|event| match event {
        Event::Done(verdict) => Some(verdict),
        Event::StartTls | Event::Ready | Event::Closed { .. } => None,
    });
    let verdict = verdicts.next().expect("a verdict");
    assert_eq!(verdicts.next(), None, "two verdicts");
    verdict
}

fn ready(ehlo: &str) -> Session {
    let mut session = Session::new("client.example");
    session.receive(b"220 mx\r\n");
    assert_eq!(written(&mut session), "EHLO client.example\r\n");
    session.receive(ehlo.as_bytes());
    assert_eq!(events(&mut session), [Event::Ready]);
    session
}

/// The steps of one transaction in a session without pipelining: what was written so far, and what to feed
/// next. A step that is `""` takes the output only.
const STEPS: [(Phase, &str); 7] = [
    (Phase::Greeting, "220 mx\r\n"),
    (Phase::Ehlo, "250 mx\r\n"),
    (Phase::Mail, "250 ok\r\n"),
    (Phase::Rcpt, "250 ok\r\n"),
    (Phase::Data, "354 go\r\n"),
    (Phase::Content, ""),
    (Phase::FinalDot, "250 2.0.0 ok\r\n"),
];

/// A session that was given a message at once and stands before step `step`.
fn at_step(step: usize) -> Session {
    let mut session = Session::new("client.example");
    session.send(outgoing()).unwrap();
    for (phase, reply) in &STEPS[..step] {
        assert_eq!(session.phase(), *phase);
        if *phase == Phase::Content {
            assert!(session.take_output().unwrap().carries_final_dot);
        } else {
            while session.phase() != Phase::Content && session.take_output().is_some() {}
        }
        session.receive(reply.as_bytes());
    }
    session
}

#[test]
fn a_connection_lost_at_any_point_gives_the_right_verdict() {
    for (step, (phase, _)) in STEPS.into_iter().enumerate() {
        for (lost, code) in
            [(Lost::Connect, "connect"), (Lost::Closed, "lost"), (Lost::Timeout, "timeout"), (Lost::WriteCut, "lost")]
        {
            let mut session = at_step(step);
            assert_eq!(session.phase(), phase);
            let in_doubt = phase == Phase::FinalDot;
            assert_eq!(session.dot_may_be_written(), in_doubt, "{phase:?}");
            session.connection_lost(lost);
            let kind = if in_doubt && lost != Lost::WriteCut { Unknown } else { Deferred };
            let got = verdict(&mut session);
            assert_eq!((got.kind, got.code.as_str()), (kind, code), "{phase:?} {lost:?}");
            assert_eq!(session.phase(), Phase::Closed);
            assert_eq!(session.send(outgoing()), Err(SendError::Closed));
            session.connection_lost(Lost::Closed);
            session.receive(b"250 late\r\n");
            assert_eq!(events(&mut session), [], "nothing follows");
        }
    }
}

#[test]
fn a_reply_at_any_point_gives_the_right_verdict() {
    // By phase: the kind after 421, 451, 503, 550 and after garbage.
    let rows = [
        (Phase::Greeting, [Deferred, Deferred, Deferred, Deferred, Deferred]),
        (Phase::Mail, [Deferred, Deferred, Deferred, Deferred, Deferred]),
        (Phase::Rcpt, [Deferred, Deferred, Deferred, Rejected, Deferred]),
        (Phase::Data, [Deferred, Deferred, Deferred, Rejected, Deferred]),
        (Phase::Content, [Deferred, Deferred, Deferred, Deferred, Deferred]),
        (Phase::FinalDot, [Deferred, Deferred, Deferred, Rejected, Unknown]),
    ];
    for (phase, kinds) in rows {
        let step = STEPS.iter().position(|(name, _)| *name == phase).unwrap();
        let replies = ["421 4.3.2 bye\r\n", "451 x\r\n", "503 x\r\n", "550 5.1.1 x\r\n", "hello\r\n"];
        for (reply, kind) in replies.into_iter().zip(kinds) {
            let mut session = at_step(step);
            if phase != Phase::Content {
                written(&mut session);
            }
            session.receive(reply.as_bytes());
            assert_eq!(verdict(&mut session).kind, kind, "{phase:?} {reply:?}");
        }
    }
}

#[test]
fn an_accepted_message_and_the_next_one_on_the_same_connection() {
    for ehlo in ["250 mx\r\n", PIPELINED] {
        let mut session = ready(ehlo);
        for _ in 0..3 {
            session.send(outgoing()).unwrap();
            assert_eq!(session.send(outgoing()), Err(SendError::Busy));
            if ehlo == PIPELINED {
                let lines = "MAIL FROM:<news@acme.example> SIZE=20\r\nRCPT TO:<ada@example.com>\r\nDATA\r\n";
                assert_eq!(written(&mut session), lines);
                session.receive(b"250 ok\r\n250 ok\r\n354 go\r\n");
            } else {
                assert_eq!(written(&mut session), "MAIL FROM:<news@acme.example>\r\n");
                session.receive(b"250 ok\r\n");
                assert_eq!(written(&mut session), "RCPT TO:<ada@example.com>\r\n");
                session.receive(b"250 ok\r\n");
                assert_eq!(written(&mut session), "DATA\r\n");
                session.receive(b"354 go\r\n");
            }
            assert!(!session.dot_may_be_written());
            let write = session.take_output().unwrap();
            assert!(write.carries_final_dot && session.dot_may_be_written());
            assert_eq!(write.bytes, b"Subject: x\r\n\r\n..dot\r\n.\r\n");
            session.receive(b"250 2.0.0 queued\r\n");
            let got = events(&mut session);
            assert!(matches!(&got[..], [Event::Done(verdict), Event::Ready] if verdict.kind == Accepted), "{got:?}");
            assert!(!session.dot_may_be_written());
        }
        assert_eq!(session.messages(), 3);
        session.quit();
        assert_eq!(written(&mut session), "QUIT\r\n");
        session.receive(b"221 bye\r\n");
        assert_eq!(events(&mut session), [Event::Closed { code: "221".into(), detail: "bye".into() }]);
    }
}

#[test]
fn a_refused_recipient_is_reset_and_the_connection_used_again() {
    let mut session = ready("250 mx\r\n");
    session.send(outgoing()).unwrap();
    written(&mut session);
    session.receive(b"250 ok\r\n");
    written(&mut session);
    session.receive(b"550 5.1.1 no such user\r\n");
    assert_eq!(written(&mut session), "RSET\r\n");
    let got = verdict(&mut session);
    assert_eq!((got.kind, got.code.as_str(), got.detail.as_str()), (Rejected, "550 5.1.1", "no such user"));
    // The next message may be given before the answer to RSET.
    session.send(outgoing()).unwrap();
    assert_eq!(written(&mut session), "");
    session.receive(b"250 ok\r\n");
    assert_eq!(written(&mut session), "MAIL FROM:<news@acme.example>\r\n");
}

#[test]
fn a_pipelined_refusal_sends_a_lone_dot_when_the_server_waits_for_content() {
    let mut session = ready(PIPELINED);
    session.send(outgoing()).unwrap();
    written(&mut session);
    session.receive(b"250 ok\r\n550 5.1.1 no\r\n");
    assert_eq!(verdict(&mut session).kind, Rejected);
    session.receive(b"354 go\r\n");
    let write = session.take_output().unwrap();
    assert_eq!((write.bytes.as_slice(), write.carries_final_dot), (&b".\r\n"[..], false));
    session.receive(b"250 accepted an empty message\r\n");
    assert_eq!(events(&mut session), [Event::Ready], "it accepted nothing of ours");

    session.send(outgoing()).unwrap();
    written(&mut session);
    session.receive(b"250 ok\r\n450 4.2.0 later\r\n503 no recipients\r\n");
    assert_eq!(verdict(&mut session).kind, Deferred);
    assert_eq!(written(&mut session), "RSET\r\n");
    session.receive(b"250 ok\r\n");

    session.send(outgoing()).unwrap();
    written(&mut session);
    session.receive(b"550 5.7.1 sender refused\r\n503 x\r\n503 x\r\n");
    assert_eq!(verdict(&mut session).kind, Deferred, "it is not the recipient's fault");
    assert_eq!(written(&mut session), "", "there is nothing to reset");
    assert_eq!(session.phase(), Phase::Idle);
}

#[test]
fn a_refused_final_dot_hands_the_message_back() {
    let step = STEPS.iter().position(|(phase, _)| *phase == Phase::FinalDot).unwrap();
    let mut session = at_step(step);
    session.refuse_final_dot();
    let got = events(&mut session);
    let [Event::Done(verdict), Event::Closed { .. }] = &got[..] else { panic!("{got:?}") };
    assert_eq!((verdict.kind, verdict.code.as_str()), (NotWritten, "lease"));
    session.connection_lost(Lost::Closed);
    assert_eq!(events(&mut session), []);
    // There is nothing to refuse before.
    let mut session = at_step(step - 1);
    session.refuse_final_dot();
    assert_eq!(events(&mut session), []);
}

#[test]
fn phases_have_their_timeouts_and_are_counted() {
    let mut counter = None;
    let expected = [300, 300, 300, 300, 120, 180, 600];
    for (step, seconds) in expected.into_iter().enumerate() {
        let session = at_step(step);
        assert_eq!(session.timeout(), Duration::from_secs(seconds), "{:?}", session.phase());
        assert!(counter < Some(session.phase_counter()), "{:?}", session.phase());
        counter = Some(session.phase_counter());
    }
}

#[test]
fn helo_when_ehlo_is_refused_and_nothing_is_offered_then() {
    let mut session = Session::new("client.example");
    session.receive(b"220-welcome\r\n220 mx\r\n");
    written(&mut session);
    session.receive(b"502 what\r\n");
    assert_eq!(written(&mut session), "HELO client.example\r\n");
    session.receive(b"250-mx\r\n250 PIPELINING\r\n");
    assert_eq!(events(&mut session), [Event::Ready]);
    session.send(outgoing()).unwrap();
    assert_eq!(written(&mut session), "MAIL FROM:<news@acme.example>\r\n");
}

#[test]
fn parameters_only_as_offered_and_needed() {
    let full = "250-mx\r\n250-8bitmime\r\n250-SMTPUTF8\r\n250 SIZE 100\r\n";
    let eight_bit = Outgoing { message: "Subject: x\r\n\r\né\r\n".into(), ..outgoing() };
    let utf8 = Outgoing { rcpt_to: "é@example.com".into(), message: "To: é\r\n\r\nx\r\n".into(), ..outgoing() };
    let large = Outgoing { message: "x".repeat(101).into(), ..outgoing() };
    let injected = Outgoing { rcpt_to: "a@b>\r\nRCPT TO:<c@d".into(), ..outgoing() };
    let smuggled = Outgoing { message: "a\r\n\r\nb\n.\nMAIL FROM:<x>\r\n".into(), ..outgoing() };
    let lines = [
        (full, outgoing(), Ok("MAIL FROM:<news@acme.example> SIZE=20\r\n")),
        (full, eight_bit.clone(), Ok("MAIL FROM:<news@acme.example> SIZE=18 BODY=8BITMIME\r\n")),
        (full, utf8.clone(), Ok("MAIL FROM:<news@acme.example> SIZE=13 BODY=8BITMIME SMTPUTF8\r\n")),
        (full, large, Err("size")),
        (full, injected, Err("message")),
        (full, smuggled, Err("message")),
        ("250 mx\r\n", eight_bit, Err("8bitmime")),
        ("250-mx\r\n250 8BITMIME\r\n", utf8, Err("smtputf8")),
        ("250 mx\r\n", Outgoing { mail_from: String::new(), ..outgoing() }, Ok("MAIL FROM:<>\r\n")),
    ];
    for (ehlo, outgoing, expected) in lines {
        let mut session = ready(ehlo);
        session.send(outgoing).unwrap();
        match expected {
            Ok(line) => assert_eq!(written(&mut session), line),
            Err(code) => {
                assert_eq!(written(&mut session), "");
                let got = events(&mut session);
                let [Event::Done(Verdict { kind: Rejected, code: got, .. }), Event::Ready] = &got[..] else {
                    panic!("{got:?}");
                };
                assert_eq!(got, code);
            }
        }
    }
}

#[test]
fn a_message_that_waits_for_a_lost_connection_has_a_verdict() {
    let mut session = ready("250 mx\r\n");
    session.send(outgoing()).unwrap();
    written(&mut session);
    session.receive(b"250 ok\r\n");
    written(&mut session);
    session.receive(b"550 no\r\n");
    session.send(outgoing()).unwrap();
    session.connection_lost(Lost::Closed);
    let kinds: Vec<_> = events(&mut session)
        .into_iter()
        .filter_map(|event| if let Event::Done(verdict) = event { Some(verdict.kind) } else { None })
        .collect();
    assert_eq!(kinds, [Rejected, Deferred]);
}

#[test]
fn a_connection_that_died_idle_is_told_from_one_that_was_refused() {
    let mut session = ready(PIPELINED);
    session.send(outgoing()).unwrap();
    session.connection_lost(Lost::Closed);
    assert!(!session.is_stale(), "it never carried a message");
    let mut session = ready(PIPELINED);
    session.send(outgoing()).unwrap();
    written(&mut session);
    session.receive(b"250 ok\r\n250 ok\r\n354 go\r\n");
    written(&mut session);
    session.receive(b"250 ok\r\n");
    session.send(outgoing()).unwrap();
    session.connection_lost(Lost::Closed);
    assert!(session.is_stale());
}

#[test]
fn two_replies_to_one_command_are_not_an_acceptance() {
    let mut session = ready("250 mx\r\n");
    session.send(outgoing()).unwrap();
    written(&mut session);
    session.receive(b"250 ok\r\n250 ok\r\n");
    assert_eq!(verdict(&mut session).kind, Deferred);
    let step = STEPS.iter().position(|(phase, _)| *phase == Phase::Content).unwrap();
    let mut session = at_step(step);
    session.receive(b"250 accepted already\r\n");
    assert_eq!(verdict(&mut session).kind, Deferred, "the dot was not handed out");
}

const SECURE: &str = "250-mx\r\n250-AUTH LOGIN PLAIN XOAUTH2\r\n250 PIPELINING\r\n";

fn login(method: Option<Method>) -> Login {
    Login { user: "ada".into(), secret: "hunter2".into(), method }
}

/// Through STARTTLS, up to the second EHLO.
fn secured(login: Option<Login>) -> Session {
    let session = Session::new("client.example").with_starttls();
    let mut session = login.into_iter().fold(session, Session::with_login);
    session.receive(b"220 mx\r\n");
    assert_eq!(written(&mut session), "EHLO client.example\r\n");
    session.receive(b"250-mx\r\n250-AUTH PLAIN\r\n250 starttls\r\n");
    assert_eq!((written(&mut session).as_str(), session.phase()), ("STARTTLS\r\n", Phase::StartTls));
    session.receive(b"220 go on\r\n");
    assert_eq!((events(&mut session), session.phase()), (vec![Event::StartTls], Phase::StartTls));
    assert_eq!(written(&mut session), "", "nothing is said before the handshake");
    session.secured();
    assert_eq!(written(&mut session), "EHLO client.example\r\n", "what was said before is forgotten");
    session
}

#[test]
fn starttls_comes_before_everything() {
    let mut session = secured(None);
    session.receive(b"250 mx\r\n");
    assert_eq!(events(&mut session), [Event::Ready]);
    // A second call does nothing, nor one without STARTTLS.
    session.secured();
    assert_eq!(written(&mut session), "");
    for ehlo in ["250 mx\r\n", "250-mx\r\n250 AUTH PLAIN\r\n"] {
        let mut session = Session::new("client.example").with_starttls().with_login(login(None));
        session.receive(b"220 mx\r\n");
        assert_eq!(written(&mut session), "EHLO client.example\r\n");
        session.receive(ehlo.as_bytes());
        assert!(matches!(&events(&mut session)[..], [Event::Closed { code, .. }] if code == "starttls"), "{ehlo}");
        assert_eq!(written(&mut session), "");
    }
}

#[test]
fn what_comes_between_starttls_and_tls_is_no_part_of_it() {
    for (said, code) in [
        ("220 go on\r\n250 injected\r\n", "protocol"),
        ("220 go on\r\n2", "protocol"),
        ("454 4.7.0 not now\r\n", "454 4.7.0"),
        ("501 no\r\n", "501"),
        ("250 what\r\n", "250"),
    ] {
        let mut session = Session::new("client.example").with_starttls();
        session.receive(b"220 mx\r\n");
        written(&mut session);
        session.receive(b"250-mx\r\n250 STARTTLS\r\n");
        written(&mut session);
        session.receive(said.as_bytes());
        assert!(matches!(&events(&mut session)[..], [Event::Closed { code: found, .. }] if found == code), "{said}");
    }
}

#[test]
fn a_login_is_by_the_method_that_is_wanted_or_offered() {
    let plain = "AUTH PLAIN AGFkYQBodW50ZXIy\r\n";
    let bearer = "AUTH XOAUTH2 dXNlcj1hZGEBYXV0aD1CZWFyZXIgaHVudGVyMgEB\r\n";
    for (method, offered, first) in [
        (None, SECURE, plain),
        (None, "250-mx\r\n250 AUTH LOGIN\r\n", "AUTH LOGIN\r\n"),
        (Some(Method::Login), SECURE, "AUTH LOGIN\r\n"),
        (Some(Method::XOAuth2), SECURE, bearer),
    ] {
        let mut session = secured(Some(login(method)));
        session.receive(offered.as_bytes());
        assert_eq!((written(&mut session).as_str(), session.phase()), (first, Phase::Auth));
        if first == "AUTH LOGIN\r\n" {
            session.receive(b"334 VXNlcm5hbWU6\r\n");
            assert_eq!(written(&mut session), "YWRh\r\n");
            session.receive(b"334 UGFzc3dvcmQ6\r\n");
            assert_eq!(written(&mut session), "aHVudGVyMg==\r\n");
        }
        assert_eq!(events(&mut session), [], "not before the login");
        session.receive(b"235 2.7.0 welcome\r\n");
        assert_eq!(events(&mut session), [Event::Ready]);
    }
}

#[test]
fn a_login_that_fails_ends_the_session() {
    for (method, offered, said, code) in [
        (None, SECURE, "535 5.7.8 no\r\n", "535 5.7.8"),
        (None, SECURE, "334 more\r\n", "334"),
        (None, SECURE, "250 what\r\n", "250"),
        (Some(Method::XOAuth2), "250-mx\r\n250 AUTH PLAIN\r\n", "", "auth"),
        (None, "250 mx\r\n", "", "auth"),
        (None, "250-mx\r\n250 AUTH CRAM-MD5\r\n", "", "auth"),
    ] {
        let mut session = secured(Some(login(method)));
        session.receive(offered.as_bytes());
        written(&mut session);
        session.receive(said.as_bytes());
        let ended = events(&mut session);
        assert!(matches!(&ended[..], [Event::Closed { code: found, .. }] if found == code), "{said}: {ended:?}");
        assert!(!format!("{session:?} {ended:?}").contains("hunter2"), "no secret is shown");
    }
    // The reason of a refused token comes as a request for more.
    let mut session = secured(Some(login(Some(Method::XOAuth2))));
    session.receive(SECURE.as_bytes());
    written(&mut session);
    session.receive(b"334 eyJzdGF0dXMiOiI0MDAifQ==\r\n");
    assert_eq!(written(&mut session), "\r\n");
    session.receive(b"535 5.7.8 no\r\n");
    assert!(matches!(&events(&mut session)[..], [Event::Closed { code, .. }] if code == "535 5.7.8"));
}
