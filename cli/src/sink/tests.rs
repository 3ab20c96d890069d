use super::*;
use postrider_common::OutcomeKind;
use postrider_mail::smtp::client::{Event, Lost, Outgoing, Session};
use std::io;
use std::path::Path;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;

const BOUND: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    ledger: Ledger,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<Summary>>,
}

async fn start(latency: Duration, rules: &[&str], capture: Option<&Path>) -> Running {
    let config = SinkConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        latency,
        rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        capture: capture.map(Path::to_owned),
    };
    let ledger = Ledger::default();
    let (ready, address) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(serve(config, ledger.clone(), async { drop(stopped.await) }, ready));
    let address = tokio::time::timeout(BOUND, address).await.unwrap().unwrap();
    Running { address, ledger, stop, task }
}

impl Running {
    async fn stop(self) -> Summary {
        self.stop.send(()).unwrap();
        tokio::time::timeout(BOUND, self.task).await.unwrap().unwrap().unwrap()
    }
}

fn outgoing(address: &str, id: &str) -> Outgoing {
    Outgoing {
        mail_from: "news@acme.example".into(),
        rcpt_to: address.into(),
        message: format!(
            "Message-ID: <{id}@acme.example>\r\nSubject: one\r\n two\r\nX-Postrider-Ref: r.{id}\r\n\r\n.dot\r\n"
        )
        .into_bytes(),
    }
}

/// Sends messages one after the other over one connection; the outcomes until it ends.
async fn send(address: SocketAddr, messages: Vec<Outgoing>) -> Vec<(OutcomeKind, String)> {
    let work = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut session = Session::new("client.example");
        let mut messages = messages.into_iter();
        let mut outcomes = Vec::new();
        loop {
            while let Some(event) = session.event() {
                match event {
                    Event::StartTls => panic!("nobody asked for it"),
                    Event::Ready => match messages.next() {
                        Some(message) => session.send(message).unwrap(),
                        None => session.quit(),
                    },
                    Event::Done(verdict) => outcomes.push((verdict.kind, verdict.code)),
                    Event::Closed { .. } => return outcomes,
                }
            }
            while let Some(write) = session.take_output() {
                stream.write_all(&write.bytes).await.unwrap();
            }
            let mut buffer = [0; 100];
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => session.connection_lost(Lost::Closed),
                Ok(length) => session.receive(&buffer[..length]),
            }
        }
    };
    tokio::time::timeout(BOUND, work).await.unwrap()
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn rules_decide_and_the_ledger_knows() {
    use OutcomeKind::{Accepted, Deferred, Rejected, Unknown};
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("capture.ndjson");
    let rules = ["reject@*@bad.example", "defer@*@slow.example#1", "reject-data@*@spam.example", "drop@*@lost.example"];
    let sink = start(Duration::ZERO, &rules, Some(&capture)).await;
    let addresses = [
        "a@ok.example",
        "a@bad.example",
        "a@slow.example",
        "a@slow.example",
        "a@spam.example",
        "a@ok.example",
        "a@lost.example",
    ];
    let outcomes = send(sink.address, addresses.map(|address| outgoing(address, "1")).into()).await;
    let expected = [
        (Accepted, "250 2.0.0"),
        (Rejected, "550 5.1.1"),
        (Deferred, "450 4.2.1"),
        (Accepted, "250 2.0.0"),
        (Rejected, "554 5.0.0"),
        (Accepted, "250 2.0.0"),
        (Unknown, "lost"),
    ];
    assert_eq!(outcomes, expected.map(|(kind, code)| (kind, code.to_owned())));
    assert_eq!(sink.ledger.accepted(), 4);
    assert_eq!(sink.ledger.accepted_for("a@ok.example"), 2);
    let delivery = Delivery { address: "a@ok.example".into(), message_id: "<1@acme.example>".into() };
    assert_eq!(sink.ledger.duplicates(), [(delivery, 2)]);

    let summary = sink.stop().await;
    let Summary { accepted, distinct, rejected, lost, recipients_refused, replies_failed, .. } = summary;
    assert_eq!((accepted, distinct, rejected, lost, recipients_refused, replies_failed), (4, 3, 1, 1, 2, 0));
    let lines = lines(&capture);
    let decisions: Vec<_> = lines.iter().map(|line| line["decision"].as_str().unwrap()).collect();
    assert_eq!(decisions, ["accept", "accept", "reject", "accept", "lost"]);
    let first = &lines[0];
    assert_eq!(first["subject"], "one two");
    assert_eq!(first["reference"], "r.1");
    assert_eq!(first["mail_from"], "news@acme.example");
    assert_eq!((first["seq"].as_u64(), first["code"].as_u64()), (Some(1), Some(250)));
}

#[tokio::test]
async fn a_client_that_leaves_before_the_reply_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("capture.ndjson");
    let sink = start(Duration::from_millis(300), &[], Some(&capture)).await;
    let mut stream = TcpStream::connect(sink.address).await.unwrap();
    let wire = "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@ok.example>\r\nDATA\r\nMessage-ID: <1@x>\r\n\r\n.\r\n";
    stream.write_all(wire.as_bytes()).await.unwrap();
    wait_until(|| sink.ledger.accepted() == 1).await;
    drop(stream);
    wait_until(|| sink.ledger.summary().replies_failed == 1).await;
    sink.stop().await;
    let lines = lines(&capture);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["decision"], "accept");
    assert_eq!(lines[1], serde_json::json!({"seq": 1, "reply": "failed"}));
}

#[tokio::test]
async fn a_reply_that_was_not_read_is_told_from_one_that_was() {
    let sink = start(Duration::ZERO, &[], None).await;
    let wire = |who: &str| format!("EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<{who}@ok.example>\r\nDATA\r\nA: b\r\n\r\n.\r\n");
    for who in ["reads", "leaves"] {
        let mut stream = TcpStream::connect(sink.address).await.unwrap();
        stream.write_all(wire(who).as_bytes()).await.unwrap();
        let mut seen = vec![0; 4096];
        // Only looked at until the reply to the final dot is there.
        wait_for_reply(&stream, &mut seen).await;
        if who == "reads" {
            let count = stream.read(&mut seen).await.unwrap();
            assert!(count > 0);
        }
        drop(stream);
    }
    wait_until(|| sink.ledger.summary().replies_failed == 1).await;
    let unread: Vec<String> = sink.ledger.unread().into_keys().map(|delivery| delivery.address).collect();
    assert_eq!(unread, ["leaves@ok.example"]);
    // And one that goes on is known to have read it.
    send(sink.address, vec![outgoing("on@ok.example", "1"), outgoing("on@ok.example", "2")]).await;
    assert_eq!(sink.stop().await.replies_failed, 1);
}

/// Greeting, EHLO, MAIL, RCPT, DATA and the final dot.
async fn wait_for_reply(stream: &TcpStream, seen: &mut [u8]) {
    let wait = async {
        loop {
            let count = stream.peek(seen).await.unwrap();
            let text = String::from_utf8_lossy(&seen[..count]);
            if text.lines().skip_while(|line| !line.starts_with("354")).count() > 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, wait).await.expect("the reply comes");
}

#[tokio::test]
async fn captured_lines_reach_the_file_while_the_sink_runs() {
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("capture.ndjson");
    let sink = start(Duration::ZERO, &[], Some(&capture)).await;
    send(sink.address, vec![outgoing("a@ok.example", "1")]).await;
    wait_until(|| lines(&capture).len() == 1).await;
    sink.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_are_counted_exactly() {
    let sink = start(Duration::from_millis(1), &[], None).await;
    let mut clients = JoinSet::new();
    for client in 0..50 {
        let messages = (0..20).map(|n| outgoing(&format!("u{client}@ok.example"), &format!("{client}-{n}"))).collect();
        clients.spawn(send(sink.address, messages));
    }
    while let Some(outcomes) = clients.join_next().await {
        let outcomes = outcomes.unwrap();
        assert!(outcomes.len() == 20 && outcomes.iter().all(|(kind, _)| *kind == OutcomeKind::Accepted));
    }
    let summary = sink.stop().await;
    assert_eq!((summary.connections, summary.accepted, summary.distinct), (50, 1000, 1000));
}

#[tokio::test]
async fn stopping_says_goodbye_to_idle_clients() {
    let sink = start(Duration::ZERO, &[], None).await;
    let mut stream = TcpStream::connect(sink.address).await.unwrap();
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).await.unwrap();
    sink.stop().await;
    let mut rest = String::new();
    let read = tokio::time::timeout(BOUND, stream.read_to_string(&mut rest)).await.unwrap();
    assert!(read.is_ok() || read.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
    assert!(rest.contains("421 4.3.2"), "{rest}");
}

#[tokio::test]
async fn an_address_that_others_can_reach_needs_a_word() {
    let args = SinkArgs {
        listen: "0.0.0.0:0".parse().unwrap(),
        latency_ms: 0,
        fail: Vec::new(),
        capture: None,
        insecure: false,
    };
    assert!(run(args).await.unwrap_err().to_string().contains("--insecure"));
}

async fn wait_until(done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, wait).await.expect("it never happened");
}
