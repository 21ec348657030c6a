//! Ends of a busy process, and a second one that wants its directory.

use std::sync::Arc;

use crate::history::{RULES, What};
use crate::machine::scratch;
use crate::recorder::{Recorder, Seat};
use crate::support::{Server, onelog, run, serve};
use crate::work::{SMALL, Work, finish, set_up};

const WORKERS: u64 = 4;
/// Answers a worker waits for before the signal.
const WARM_UP: usize = 20;

#[test]
fn sigterm_twice_while_busy_loses_nothing() {
    let data = scratch();
    let recorder = Recorder::new();
    let (server, workers) = busy(&recorder, &data);
    server.signal("TERM");
    server.try_signal("TERM");
    let ended = server.end();
    // The second may come too late to cut anything short.
    assert!(matches!(ended.code, 0 | 1) && !ended.err.contains("panicked"), "{ended:?}");
    recorder.happened(What::Crash);
    for worker in workers {
        let refusals = worker.join().unwrap();
        assert!(refusals.iter().all(|code| code == "closing"), "{refusals:?}");
    }
    finish(&recorder, data.path(), RULES, "SIGTERM twice");
}

#[test]
fn a_second_process_is_told_who_holds_the_directory_and_harms_nothing() {
    let data = scratch();
    let recorder = Recorder::new();
    let (server, workers) = busy(&recorder, &data);
    let serving = Server::try_spawn(serve(onelog(), data.path(), SMALL)).err().expect("two processes serve one directory");
    for second in [serving, run(&["check", data.path().to_str().unwrap()])] {
        assert_eq!(second.code, 1, "{second:?}");
        assert!(second.err.contains(&server.pid().to_string()), "{second:?}");
    }
    server.kill();
    recorder.happened(What::Crash);
    for worker in workers {
        assert_eq!(worker.join().unwrap(), Vec::<String>::new());
    }
    finish(&recorder, data.path(), RULES, "a second process");
}

/// A server that several clients keep busy until it is gone.
fn busy(recorder: &Arc<Recorder>, data: &tempfile::TempDir) -> (Server, Vec<std::thread::JoinHandle<Vec<String>>>) {
    let server = Server::with(data.path(), SMALL);
    recorder.happened(What::Open);
    set_up(&mut Seat::at(recorder, server.address()).api).unwrap();
    let (tell, warm) = std::sync::mpsc::channel();
    let start = |number: u64| {
        let mut work = Work::new(Seat::at(recorder, server.address()), &format!("worker{number}"), number);
        work.alone = false;
        let tell = tell.clone();
        std::thread::spawn(move || {
            let mut refusals = work.go_on(WARM_UP);
            let _ = tell.send(());
            refusals.extend(work.go_on(usize::MAX));
            refusals
        })
    };
    let workers = (0..WORKERS).map(start).collect();
    for _ in 0..WORKERS {
        warm.recv().unwrap();
    }
    (server, workers)
}
