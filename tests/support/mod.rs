//! Runs the `onelog` program: once to its end, or as a server that is stopped with the test.
#![allow(dead_code, reason = "each test program uses its part of it")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// The program, with none of the caller's own settings.
pub fn onelog() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onelog"));
    without_settings(&mut command);
    command
}

/// Keeps the caller's own settings from a tool that runs the program.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ONELOG_") {
            command.env_remove(name);
        }
    }
}

pub fn data_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

pub fn run(arguments: &[&str]) -> Ended {
    run_with_input(arguments, "")
}

pub fn run_with_input(arguments: &[&str], input: &str) -> Ended {
    let mut command = onelog();
    command.args(arguments);
    finish(command, input)
}

fn finish(mut command: Command, input: &str) -> Ended {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A program that ends without reading its input is no failure of the test.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// A running `onelog serve`; killed when dropped.
pub struct Server {
    child: Option<Child>,
    stdout: BufReader<ChildStdout>,
    /// A file, so that a server that complains a lot is never held up by a test that does not listen.
    stderr: File,
    /// The line it printed when it was ready.
    pub ready: String,
    pub url: String,
}

impl Server {
    /// On a free port.
    pub fn on(data: &Path) -> Self {
        Self::with(data, &[])
    }

    /// On a free port, with more settings.
    pub fn with(data: &Path, arguments: &[&str]) -> Self {
        Self::spawn(serve(onelog(), data, arguments))
    }

    /// Starts and waits for the ready line, however long that takes.
    pub fn spawn(command: Command) -> Self {
        Self::try_spawn(command).unwrap_or_else(|refused| panic!("not ready: {refused:?}"))
    }

    /// Starts; `Err` is how it ended if it never got ready.
    pub fn try_spawn(mut command: Command) -> Result<Self, Ended> {
        let stderr = tempfile::tempfile().unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr.try_clone().unwrap());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self { child: Some(child), stdout, stderr, ready: String::new(), url: String::new() };
        server.stdout.read_line(&mut server.ready).unwrap();
        server.ready.truncate(server.ready.trim_end().len());
        match server.ready.split(' ').find_map(|word| word.strip_prefix("http=")) {
            Some(http) => server.url = format!("http://{http}"),
            None => return Err(server.end()),
        }
        Ok(server)
    }

    /// As the ready line tells it: the server's own, whoever started it.
    pub fn pid(&self) -> u32 {
        self.ready.split(' ').find_map(|word| word.strip_prefix("pid=")?.parse().ok()).unwrap()
    }

    /// `host:port`
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// A command of the program against this server.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = onelog();
        command.args(arguments).env("ONELOG_SERVER", &self.url);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with_input(arguments, "")
    }

    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Ended {
        finish(self.command(arguments), input)
    }

    /// Sends a signal by name, such as `TERM`. The shell's own `kill`: a small machine may have no other.
    pub fn signal(&self, name: &str) {
        let kill = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid())]).status().unwrap();
        assert!(kill.success());
    }

    /// The same for a server that may be gone already.
    pub fn try_signal(&self, name: &str) {
        let _ = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid())]).stderr(Stdio::null()).status();
    }

    /// SIGTERM, and how it ended. What is left on stdout is what came after the ready line.
    pub fn stop(self) -> Ended {
        self.signal("TERM");
        let ended = self.end();
        assert_eq!(ended.code, 0, "SIGTERM should end it with 0: {}", ended.err);
        ended
    }

    /// SIGKILL: what a crash of the process leaves is all that is left.
    pub fn kill(self) {
        self.signal("KILL");
        self.end();
    }

    /// What it logged so far.
    pub fn said(&self) -> String {
        let bytes = self.stderr.metadata().unwrap().len();
        let mut said = vec![0; usize::try_from(bytes).unwrap()];
        self.stderr.read_exact_at(&mut said, 0).unwrap();
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Waits until it has ended by itself.
    pub fn end(mut self) -> Ended {
        let mut child = self.child.take().unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        self.stdout.read_to_string(&mut out).unwrap();
        let code = child.wait().unwrap().code().unwrap_or(-1);
        self.stderr.rewind().unwrap();
        self.stderr.read_to_string(&mut err).unwrap();
        Ended { code, out, err }
    }
}

/// `serve` on a free port. `program` may be a tool that runs the program given as its last arguments.
pub fn serve(mut program: Command, data: &Path, arguments: &[&str]) -> Command {
    program.args(["serve", "--http", "127.0.0.1:0", "--data"]).arg(data).args(arguments);
    program
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if self.ready.contains(" pid=") && self.pid() != child.id() {
                // Started by a tool that would leave it running.
                let _ = Command::new("sh").args(["-c", &format!("kill -KILL {}", self.pid())]).stderr(Stdio::null()).status();
            }
            // Dead already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
