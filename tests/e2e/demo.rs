//! The README's command, smaller: nothing installed, a worker killed, and a report that says so.

use postrider_tests::binary;
use postrider_tests::process::Process;
use std::process::Command;
use std::time::Duration;

#[test]
fn the_demo_proves_itself() {
    let dir = tempfile::Builder::new().prefix("postrider-e2e-").tempdir().expect("a temporary folder");
    let mut command = Command::new(binary::postrider());
    command.current_dir(dir.path()).args(["--no-color", "demo", "--recipients", "2000"]);
    let mut demo = Process::start("demo", &mut command, dir.path());
    let status = demo.wait_exit(Duration::from_secs(120));
    println!("SCENARIO demo: exit {:?}", status.code());
    assert_eq!(status.code(), Some(0), "{}", demo.tail());
}
