//! Runs the `onelog` program: once to its end, or as a server that is stopped with the test.

use std::io::{BufRead, BufReader, Read, Write};
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
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ONELOG_") {
            command.env_remove(name);
        }
    }
    command
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
    /// The line it printed when it was ready.
    pub ready: String,
    pub url: String,
}

impl Server {
    /// On a free port.
    pub fn on(data: &Path) -> Self {
        let mut command = onelog();
        command.args(["serve", "--http", "127.0.0.1:0", "--data"]).arg(data);
        Self::spawn(command)
    }

    /// Starts and waits for the ready line, however long that takes.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        stdout.read_line(&mut ready).unwrap();
        let Some(http) = ready.split(' ').find_map(|word| word.strip_prefix("http=")) else {
            let ended = child.wait_with_output().unwrap();
            panic!("not ready: {ready}{}", String::from_utf8_lossy(&ended.stderr));
        };
        let url = format!("http://{http}");
        Self { child: Some(child), stdout, ready: ready.trim_end().to_owned(), url }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
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

    /// SIGTERM, and how it ended. What is left on stdout is what came after the ready line.
    pub fn stop(mut self) -> Ended {
        let mut child = self.child.take().unwrap();
        assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
        let (mut out, mut err) = (String::new(), String::new());
        self.stdout.read_to_string(&mut out).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let ended = Ended { code: child.wait().unwrap().code().unwrap_or(-1), out, err };
        assert_eq!(ended.code, 0, "SIGTERM should end it with 0: {}", ended.err);
        ended
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Dead already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
