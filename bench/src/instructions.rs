//! Instructions that a process carries out outside of the kernel, as `perf stat` counts them. They do not depend, as time
//! does, on what else the machine is busy with.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Until `perf` has attached itself; it does not say when.
const ATTACH: Duration = Duration::from_millis(300);

pub struct Counter {
    perf: Child,
}

impl Counter {
    /// None: there is no `perf` here.
    pub fn start(pid: u32) -> Option<Self> {
        let mut command = Command::new("perf");
        command.args(["stat", "-x,", "-e", "instructions:u", "-p", &pid.to_string()]);
        let perf = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().ok()?;
        std::thread::sleep(ATTACH);
        Some(Self { perf })
    }

    /// None: `perf` could not count, for want of permission or of the counter.
    pub fn end(self) -> Option<f64> {
        let interrupted = Command::new("kill").args(["-INT", &self.perf.id().to_string()]).status();
        assert!(interrupted.is_ok_and(|status| status.success()), "failed to interrupt perf");
        let output = self.perf.wait_with_output().ok()?;
        let told = String::from_utf8_lossy(&output.stderr);
        told.lines().find(|line| line.contains("instructions"))?.split(',').next()?.parse().ok()
    }
}
