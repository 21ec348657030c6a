//! A process that may have 64 files open, and more connections than that: whoever is in is served, the log goes on, and when
//! they leave the next ones come in.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::client::connect;
use crate::history::{RULES, What};
use crate::machine::scratch;
use crate::recorder::{Recorder, Seat};
use crate::support::{Server, serve, without_settings};
use crate::work::{SMALL, Work, finish, set_up};

const FILES: u64 = 64;
const CONNECTIONS: usize = 200;
/// Enough to fill segments and to need checkpoints.
const STEPS: usize = 150;

#[test]
fn with_64_files_and_200_connections_the_log_goes_on_and_newcomers_wait() {
    let data = scratch();
    let recorder = Recorder::new();
    let server = Server::spawn(limited(data.path()));
    recorder.happened(What::Open);
    let mut work = Work::new(Seat::at(&recorder, server.address()), "inside", 3);
    set_up(&mut work.seat.api).unwrap();
    let crowd: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect(server.address()).unwrap()).collect();

    let refusals = work.go_on(STEPS);
    assert_eq!(refusals, Vec::<String>::new(), "{}", server.said());
    let health = work.seat.api.send("GET", "/health", b"");
    assert_eq!(health.status, 200, "{}", health.text());
    assert!(work.seat.api.metric("process_open_fds") < FILES as f64);
    assert!(work.seat.api.metric("onelog_log_segments") > 1.0, "the log never needed another file");

    drop(crowd);
    let mut newcomer = Work::new(Seat::at(&recorder, server.address()), "newcomer", 4);
    assert_eq!(newcomer.go_on(20), Vec::<String>::new());
    server.stop();
    finish(&recorder, data.path(), RULES, "64 files");
}

fn limited(data: &Path) -> Command {
    let mut shell = Command::new("sh");
    without_settings(&mut shell);
    shell.args(["-c", &format!("ulimit -n {FILES} && exec \"$@\""), "sh", env!("CARGO_BIN_EXE_onelog")]);
    serve(shell, data, SMALL)
}
