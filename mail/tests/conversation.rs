//! The client and the server session talk to each other, over wires that cut bytes anywhere.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

use postrider_common::OutcomeKind;
use postrider_mail::smtp::client::{Event, Outgoing, Session};
use postrider_mail::smtp::server::{Action, Answer, Received, ServerSession};
use proptest::prelude::*;

/// What the server does with a recipient or message, by the address.
fn decide(address: &str) -> (Answer, Answer) {
    match address.split('@').next().unwrap() {
        "reject" => (Answer::Refuse("550 5.1.1 no".into()), Answer::Accept),
        "defer" => (Answer::Refuse("450 4.2.0 later".into()), Answer::Accept),
        "spam" => (Answer::Accept, Answer::Refuse("554 5.7.1 spam".into())),
        "busy" => (Answer::Accept, Answer::Refuse("451 4.3.0 busy".into())),
        _ => (Answer::Accept, Answer::Accept),
    }
}

struct Server {
    session: ServerSession,
    output: Vec<u8>,
    received: Vec<Received>,
    commands_refused: bool,
}

impl Server {
    fn new() -> Self {
        let mut server = Self {
            session: ServerSession::new("mx.example", 1_000_000),
            output: Vec::new(),
            received: Vec::new(),
            commands_refused: false,
        };
        let greeting = server.session.greeting();
        server.take(greeting);
        server
    }

    fn take(&mut self, action: Action) {
        match action {
            Action::Write(bytes) => {
                self.commands_refused |= bytes.starts_with(b"50");
                self.output.extend(bytes);
            }
            Action::Recipient { rcpt_to, .. } => {
                let action = self.session.answer(decide(&rcpt_to).0);
                self.take(action);
            }
            Action::Message(message) => {
                let answer = decide(&message.rcpt_to[0]).1;
                if answer == Answer::Accept {
                    self.received.push(message);
                }
                let action = self.session.answer(answer);
                self.take(action);
            }
            Action::Close => {}
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.session.receive(bytes);
        while let Some(action) = self.session.next_action() {
            self.take(action);
        }
    }
}

/// Carries all messages over one connection, bytes cut by `cuts`; the outcomes in order.
fn converse(messages: &[Outgoing], cuts: &[usize], pipelining: bool) -> (Vec<OutcomeKind>, Vec<Received>) {
    let mut client = Session::new("client.example");
    let mut server = Server::new();
    let mut cuts = cuts.iter().copied().cycle();
    let mut next = messages.iter();
    let mut outcomes = Vec::new();
    for _ in 0..1_000_000 {
        match client.event() {
            Some(Event::Ready) => match next.next() {
                Some(message) => client.send(message.clone()).unwrap(),
                None => client.quit(),
            },
            Some(Event::Done(verdict)) => outcomes.push(verdict.kind),
            Some(Event::StartTls) => panic!("nobody asked for it"),
            Some(Event::Closed { code, .. }) => {
                assert_eq!(code, "221 2.0.0");
                assert!(!server.commands_refused, "the client sent a wrong command");
                return (outcomes, server.received);
            }
            None => {}
        }
        while let Some(write) = client.take_output() {
            let mut rest = write.bytes.as_slice();
            while !rest.is_empty() {
                let (chunk, tail) = rest.split_at(cuts.next().unwrap().clamp(1, rest.len()));
                server.receive(chunk);
                rest = tail;
            }
        }
        let mut output = std::mem::take(&mut server.output);
        if !pipelining && let Some(at) = output.windows(10).position(|window| window == b"PIPELINING") {
            output[at..at + 10].copy_from_slice(b"X-NOTHING.");
        }
        let mut rest = output.as_slice();
        while !rest.is_empty() {
            let (chunk, tail) = rest.split_at(cuts.next().unwrap().clamp(1, rest.len()));
            client.receive(chunk);
            rest = tail;
        }
    }
    panic!("the conversation never ends");
}

fn message() -> impl Strategy<Value = Outgoing> {
    let line =
        prop_oneof![Just(".".to_owned()), Just("..".to_owned()), Just(String::new()), "[ -~é]{0,40}", "\\.[ -~]{0,10}"];
    let lines = prop::collection::vec(line, 0..8);
    let to = prop_oneof![Just("ok"), Just("reject"), Just("defer"), Just("spam"), Just("busy")];
    (to, lines).prop_map(|(to, lines)| {
        let body: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        Outgoing {
            mail_from: "news@acme.example".into(),
            rcpt_to: format!("{to}@example.com"),
            message: format!("Subject: x\r\n\r\n{body}").into_bytes(),
        }
    })
}

proptest! {
    #[test]
    fn every_message_arrives_as_it_was_or_is_refused_as_it_should(
        messages in prop::collection::vec(message(), 1..6),
        cuts in prop::collection::vec(1usize..60, 1..20),
        pipelining: bool,
    ) {
        let (outcomes, received) = converse(&messages, &cuts, pipelining);
        let expected: Vec<_> = messages
            .iter()
            .map(|message| match message.rcpt_to.split('@').next().unwrap() {
                "reject" | "spam" => OutcomeKind::Rejected,
                "defer" | "busy" => OutcomeKind::Deferred,
                _ => OutcomeKind::Accepted,
            })
            .collect();
        prop_assert_eq!(outcomes, expected);
        let sent: Vec<_> = messages.into_iter().filter(|message| message.rcpt_to.starts_with("ok")).collect();
        prop_assert_eq!(received.len(), sent.len());
        for (received, sent) in received.iter().zip(sent) {
            prop_assert_eq!(&received.content, &sent.message);
            prop_assert_eq!(&received.mail_from, &sent.mail_from);
            prop_assert_eq!(&received.rcpt_to, &[sent.rcpt_to]);
        }
    }

    #[test]
    fn neither_end_panics_on_anything(bytes: Vec<u8>, cut in 1usize..50) {
        let mut client = Session::new("client.example");
        client.send(Outgoing { mail_from: String::new(), rcpt_to: "a@b.example".into(), message: Vec::new() }).unwrap();
        let mut server = Server::new();
        for chunk in bytes.chunks(cut) {
            client.receive(chunk);
            while client.take_output().is_some() {}
            server.receive(chunk);
        }
        prop_assert!(server.received.is_empty());
    }

    #[test]
    fn a_wild_server_gets_one_verdict_and_no_acceptance_before_the_dot(
        replies in prop::collection::vec((prop_oneof![Just(220u16), Just(250), Just(354), Just(421), Just(450), Just(503), Just(550)], 1usize..3), 0..12),
        pipelining: bool,
    ) {
        let mut client = Session::new("client.example");
        client.send(Outgoing { mail_from: String::new(), rcpt_to: "a@b.example".into(), message: b"x\r\n".to_vec() }).unwrap();
        let mut verdicts = Vec::new();
        let (mut dot_taken, mut closed) = (false, 0);
        for (code, times) in replies {
            while let Some(write) = client.take_output() {
                dot_taken |= write.carries_final_dot;
            }
            let reply = if pipelining { format!("{code}-x\r\n{code} PIPELINING\r\n") } else { format!("{code} x\r\n") };
            client.receive(reply.repeat(times).as_bytes());
            while let Some(event) = client.event() {
                match event {
                    Event::Done(verdict) => {
                        prop_assert!(dot_taken || verdict.kind != OutcomeKind::Accepted);
                        prop_assert!(dot_taken || verdict.kind != OutcomeKind::Unknown);
                        verdicts.push(verdict);
                    }
                    Event::Closed { .. } => closed += 1,
                    Event::Ready | Event::StartTls => {}
                }
            }
        }
        client.connection_lost(postrider_mail::smtp::client::Lost::Closed);
        while let Some(event) = client.event() {
            match event {
                Event::Done(verdict) => verdicts.push(verdict),
                Event::Closed { .. } => closed += 1,
                Event::Ready | Event::StartTls => {}
            }
        }
        prop_assert_eq!(verdicts.len(), 1);
        prop_assert_eq!(closed, 1);
    }
}
