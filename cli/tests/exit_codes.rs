//! The binary's promises to scripts: exit codes, one message, and JSON that can be read.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// A folder with good and bad files; nothing of the machine's own environment.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Self { folder };
        place.write("recipients.csv", "email,name\nada@example.com,Ada\nnobody,No\nbo@example.com,Bo\n");
        place.write("good.toml", GOOD);
        place
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).expect("written");
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("POSTRIDER") {
                command.env_remove(name);
            }
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    /// Exit code and stderr.
    fn fails(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.run(arguments);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {:?}\n{stderr}", output.status);
        String::from_utf8(output.stdout).expect("text")
    }
}

const GOOD: &str = r#"
name = "digest"
from = "Acme <digest@acme.example>"
[audience]
csv = "recipients.csv"
address = "email"
[template]
subject = "Hi {{ name }}"
text_inline = "Hello {{ name }}"
"#;

/// A process that ends with the test.
struct Running {
    child: Child,
}

impl Running {
    /// Starts it and waits for the line that begins with `mark` on stdout.
    fn start(mut command: Command, mark: &str) -> (Self, String) {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let line = lines.into_iter().find(|line| line.starts_with(mark));
        (Self { child }, line.expect("it gets ready"))
    }

    fn terminate(mut self) -> Option<i32> {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    let place = Place::new();
    place.write("typo.toml", "[lease]\ntll = \"1s\"\n");
    place.write("dkim.toml", "[[dkim]]\ndomain = \"a.example\"\n");
    let key = "[[dkim]]\ndomain = \"a.example\"\nselector = \"mail\"\nkey = \"none.pem\"\n";
    place.write("key.toml", key);
    place.write("broken.toml", &GOOD.replace("Hello {{ name }}", "Hello {{ name"));
    place.write("column.toml", &GOOD.replace("address = \"email\"", "address = \"mail\""));
    place.write("ca.toml", "[store]\nurl = \"rediss://me:secret@127.0.0.1\"\ntls_ca = \"none.pem\"\n");
    place.write("big.toml", "[master]\naudience_bytes_max = 10\n");
    let rows: &[(&[&str], &str)] = &[
        (&["nonsense"], "unrecognized subcommand"),
        (&["campaign", "run"], "required"),
        (&["run", "list", "--output", "yaml"], "invalid value"),
        (&["--config", "none.toml", "config", "check"], "cannot read the configuration none.toml"),
        (&["--config", "typo.toml", "run", "list"], "typo.toml:2: there is no key lease.tll; the nearest is lease.ttl"),
        (&["--config", "dkim.toml", "master"], "dkim.selector is missing"),
        (
            &["--config", "key.toml", "worker", "--relay", "smtp://h"],
            "key.toml:1: dkim.a.example/mail.key: cannot read none.pem",
        ),
        (&["--config", "key.toml", "dkim", "records"], "cannot read none.pem"),
        (&["--token", "secret", "run", "list"], "--token is refused"),
        (&["master", "--grpc-listen", "0.0.0.0:0"], "listening on 0.0.0.0:0 is refused"),
        (&["master", "--http-listen", "[::]:0"], "listening on [::]:0 is refused"),
        (&["master", "--store", "redis+sentinel://me:secret@127.0.0.1"], "the name of the service is missing"),
        (&["--config", "ca.toml", "master"], "tls_ca: cannot read none.pem"),
        (&["master", "--store", "mysql://x"], "store.url"),
        (&["worker"], "there is no relay to send to"),
        (&["worker", "--relay", "smtp://me:hunter2@h"], "a user or a password in the URL is refused"),
        (&["worker", "--relay", "smtp://h", "--slots", "0"], "worker.slots"),
        (&["--master", "https://h", "run", "list"], "https:// is refused"),
        (&["sink", "--listen", "0.0.0.0:0"], "--insecure"),
        (&["sink", "--fail", "nonsense"], "is not a rule"),
        (&["campaign", "apply", "none.toml"], "cannot read none.toml"),
        (&["campaign", "apply", "broken.toml"], "broken.toml: template.text line 1"),
        (&["campaign", "apply", "column.toml"], "has no column 'mail'"),
        (&["--config", "big.toml", "campaign", "apply", "good.toml"], "more than audience_bytes_max (10)"),
        (&["campaign", "run", "digest", "--audience", "none.csv"], "none.csv: No such file"),
        (&["send", "--template", "good.toml", "--to", "nobody"], "--to 'nobody': not a mail address"),
        (&["send", "--to", "a@b.example"], "required"),
        (&["send", "--template", "good.toml", "--to", "a@b.example", "--set", "x"], "KEY=VALUE"),
        (&["send", "--template", "good.toml", "--to", "a@b.example", "--lane", "A"], "--lane: 'A' is not a lane name"),
        (&["demo", "--recipients", "3"], "is not in 200..=1000000"),
    ];
    for (arguments, expected) in rows {
        let (code, stderr) = place.fails(arguments);
        assert_eq!(code, Some(2), "{arguments:?}\n{stderr}");
        assert!(stderr.contains(expected), "{arguments:?}\n{stderr}");
        assert!(!stderr.contains("secret") && !stderr.contains("panicked"), "{arguments:?}\n{stderr}");
    }
}

#[test]
fn what_cannot_be_reached_ends_with_1() {
    let place = Place::new();
    // A port that was free a moment ago: nobody listens there.
    let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let masters = format!("http://{},http://{}", free(), free());
    let calls: [&[&str]; 4] = [
        &["run", "list"],
        &["campaign", "apply", "good.toml"],
        &["workers", "list"],
        &["send", "--template", "good.toml", "--to", "a@b.example"],
    ];
    for call in calls {
        let (code, stderr) = place.fails(&[&["--connect-timeout", "300ms", "--master", &masters], call].concat());
        assert_eq!(code, Some(1), "{call:?}\n{stderr}");
        assert!(stderr.starts_with("error: cannot reach a master at http://127.0.0.1:"), "{stderr}");
        assert!(stderr.contains("is it running? (postrider master)"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    let (code, stderr) = place.fails(&["run", "show", "run_nonsense"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no such run"), "{stderr}");
}

#[test]
fn looking_at_the_configuration_works_without_a_master() {
    let place = Place::new();
    place.write("postrider.toml", "[worker]\njournal = \"./j\"\nslots = 9\n[lease]\nttl = \"5s\"\n");
    let text = place.ok(&["config", "check"]);
    assert!(text.starts_with("ok: postrider.toml\n"), "{text}");
    assert!(!text.contains("journal"), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&place.ok(&["config", "show", "--output", "json"])).expect("json");
    assert_eq!(json["lease"]["ttl"]["value"], "5s");
    assert_eq!(json["lease"]["ttl"]["origin"], "file");
    assert_eq!(json["lease"]["window"]["origin"], "default");
    assert!(place.ok(&["version"]).starts_with("postrider "));
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.ok(&["completions", shell]).contains("postrider"), "{shell}");
    }
    assert_eq!(place.run(&["--help"]).status.code(), Some(0));
}

#[test]
fn a_run_goes_through_the_command_line() {
    let place = Place::new();
    let (sink, line) = Running::start(place.command(&["sink", "--listen", "127.0.0.1:0"]), "listening on ");
    let relay = format!("smtp://{}", line.trim_start_matches("listening on ").trim());
    let master = ["--store", "embedded:", "master", "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let (master, line) = Running::start(place.command(&master), "ready grpc=");
    let address = line.trim_start_matches("ready grpc=").split(' ').next().expect("an address");
    assert!(line.contains(" http=127.0.0.1:"), "{line}");
    let url = format!("http://{address}");
    let call = |arguments: &[&str]| place.ok(&[&["--master", url.as_str()], arguments].concat());
    let fails = |arguments: &[&str]| place.fails(&[&["--master", url.as_str()], arguments].concat());

    assert_eq!(fails(&["campaign", "run", "digest"]).0, Some(1), "there is no such campaign yet");
    let none = fails(&["run", "show", "run_000000000000000000000000"]);
    assert_eq!(none.0, Some(1), "{none:?}");
    assert!(none.1.contains("run_000000000000000000000000"), "{none:?}");
    assert_eq!(fails(&["lane", "pause", "none"]).0, Some(1));

    assert!(call(&["campaign", "apply", "good.toml"]).contains("applied (version 1)"));
    let again: serde_json::Value =
        serde_json::from_str(&call(&["campaign", "apply", "good.toml", "--output", "json"])).expect("json");
    assert_eq!((&again["version"], &again["changed"]), (&1.into(), &false.into()));

    // The same key twice is the same run; the id alone is what a script reads.
    let first = call(&["campaign", "run", "digest", "--idempotency-key", "k"]);
    assert_eq!(first, call(&["campaign", "run", "digest", "--idempotency-key", "k"]));
    let run = first.trim().to_owned();
    assert!(run.starts_with("run_") && first.lines().count() == 1, "{first}");

    let worker = place.command(&["--master", &url, "worker", "--relay", &relay, "--name", "w"]);
    let worker = Running { child: { worker }.stderr(Stdio::null()).spawn().expect("it starts") };
    let watched = call(&["run", "watch", &run, "--output", "json"]);
    let last: serde_json::Value = serde_json::from_str(watched.lines().last().expect("a line")).expect("json");
    assert_eq!(last["state"], "finished");
    let recipients = &last["recipients"];
    assert_eq!((&recipients["total"], &recipients["accepted"]), (&2.into(), &2.into()), "{last}");
    assert_eq!(last["bad_rows"], 1);

    let lines = call(&["run", "recipients", &run, "--output", "json"]);
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line["state"] == "accepted" && line["unknown_reason"].is_null()), "{lines:?}");
    let found: serde_json::Value =
        serde_json::from_str(&call(&["run", "find", "ADA@example.com", "--output", "json"])).expect("one line");
    assert_eq!((&found["run"], &found["campaign"]), (&run.as_str().into(), &"digest".into()));
    assert_eq!((&found["key"], &found["state"]), (&"ada@example.com".into(), &"accepted".into()));
    assert!(call(&["run", "find", "nobody@example.com"]).contains("nobody with that address in 1 runs"));
    assert_eq!(fails(&["run", "find", "nobody"]).0, Some(2), "no address");
    assert!(call(&["run", "failures", &run]).contains("bad row 2: not a mail address"));
    assert!(call(&["run", "list"]).contains(&run));
    assert!(call(&["workers", "list"]).contains('w'));

    // A cancelled run fails a wait, and says so.
    call(&["lane", "pause", "bulk"]);
    let stopped = call(&["campaign", "run", "digest"]).trim().to_owned();
    call(&["run", "cancel", &stopped]);
    let waited = place.run(&["--master", &url, "run", "watch", &stopped]);
    assert_eq!(waited.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&waited.stdout).contains("cancelled"), "{waited:?}");
    call(&["lane", "resume", "bulk"]);

    let sent = call(&["send", "--template", "good.toml", "--to", "cy@example.com", "--set", "name=Cy", "--wait"]);
    assert!(sent.contains("1 = 1 accepted"), "{sent}");
    let failing = fails(&["send", "--template", "good.toml", "--to", "cy@example.com", "--lane", "none"]);
    assert_ne!(failing.0, Some(0), "a lane that does not exist: {failing:?}");

    assert_eq!(worker.terminate(), Some(0), "a worker drains");
    assert_eq!(master.terminate(), Some(0), "a master stops");
    assert_eq!(sink.terminate(), Some(0), "a sink stops");
}

#[test]
fn the_demo_kills_a_worker_and_is_satisfied() {
    let place = Place::new();
    let output = place.run(&["demo", "--recipients", "2000", "--seed", "7", "--output", "json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}\n{stderr}", output.status);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
    assert_eq!(report["run"]["state"], "finished");
    assert_eq!(report["verdict"]["lost"], 0);
    assert!(report["in_intent_at_kill"].as_u64().expect("a number") >= 32, "{report}");
    assert!(report["run"]["leases_expired"].as_u64().expect("a number") >= 1, "{report}");
}
