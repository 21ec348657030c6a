//! SIGSTOP: a process that stands still for longer than its leases last, while its clients wait.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::history::{Delivered, Lease, RULES, Settled, Told, Verb, What};
use crate::machine::scratch;
use crate::recorder::{Recorder, Seat};
use crate::support::Server;
use crate::work::{SMALL, VISIBILITY, Work, finish, finish_on, record, set_up};

const RECORDS: u64 = 8;
const ROUNDS: u64 = 3;

/// How long it stands still: `ONELOG_FAULT_STOP_SECONDS`, else a little longer than leases last.
fn stop_for() -> Duration {
    std::env::var("ONELOG_FAULT_STOP_SECONDS").map_or(3 * VISIBILITY, |seconds| Duration::from_secs(seconds.parse().unwrap()))
}

#[test]
fn leases_run_out_while_the_process_is_stopped_and_nobody_holds_one_twice() {
    let data = scratch();
    let recorder = Recorder::new();
    let server = Server::with(data.path(), SMALL);
    recorder.happened(What::Open);
    let mut first = Seat::at(&recorder, server.address());
    set_up(&mut first.api).unwrap();
    let batch: Vec<_> = (0..RECORDS).map(|number| record(format!("stop.{number}"), number, 10)).collect();
    first.publish(&batch).ok().unwrap();
    let held = first.receive(100, Duration::ZERO, VISIBILITY).ok().unwrap().clone();
    assert_eq!(held.len(), batch.len());

    let again = answered_after_a_stop(&server, &recorder, |seat| seat.receive(100, Duration::from_secs(5), Duration::from_secs(60)));
    let again = again.ok().unwrap_or_else(|| panic!("{again:?}: {}", server.said())).clone();
    assert!(!again.is_empty());
    assert!(again.iter().all(|delivered| delivered.attempt == 2), "{again:?}");
    // Whoever holds the newer lease is told so, whoever holds the older one too.
    assert_eq!(first.settle(Verb::Ack, &leases_of(&held, &again)), Told::Ok(vec![Settled::Refused("lease_stale".to_owned()); again.len()]));
    let newer: Vec<Lease> = again.iter().map(|delivered| delivered.lease).collect();
    assert_eq!(first.settle(Verb::Ack, &newer), Told::Ok(vec![Settled::Done; again.len()]));
    finish_on(&recorder, &server, RULES, "stopped once");
}

/// The leases on records that came again.
fn leases_of(held: &[Delivered], again: &[Delivered]) -> Vec<Lease> {
    let came = |lease: &Lease| again.iter().any(|delivered| delivered.lease.place == lease.place);
    held.iter().map(|delivered| delivered.lease).filter(came).collect()
}

/// Asks a stopped server; nobody is answered before it goes on.
fn answered_after_a_stop<T: Send + 'static>(
    server: &Server,
    recorder: &Arc<Recorder>,
    ask: impl FnOnce(&mut Seat) -> T + Send + 'static,
) -> T {
    let (tell, told) = mpsc::channel();
    let mut seat = Seat::at(recorder, server.address());
    server.signal("STOP");
    let asking = std::thread::spawn(move || drop(tell.send(ask(&mut seat))));
    assert!(matches!(told.recv_timeout(stop_for()), Err(RecvTimeoutError::Timeout)), "answered by a process that is stopped");
    server.signal("CONT");
    let answer = told.recv().unwrap();
    asking.join().unwrap();
    answer
}

#[test]
fn nothing_is_lost_or_done_twice_when_a_busy_process_is_stopped() {
    let data = scratch();
    let recorder = Recorder::new();
    let server = Server::with(data.path(), SMALL);
    recorder.happened(What::Open);
    set_up(&mut Seat::at(&recorder, server.address()).api).unwrap();
    let workers: Vec<_> = (0..3).map(|number| start_worker(&recorder, &server, number)).collect();
    for round in 0..ROUNDS {
        let sent = record(format!("round.{round}"), round, 10);
        let told = answered_after_a_stop(&server, &recorder, move |seat| seat.publish(&[sent]));
        assert!(told.ok().is_some(), "{told:?}");
    }
    server.kill();
    recorder.happened(What::Crash);
    for worker in workers {
        assert_eq!(worker.join().unwrap(), Vec::<String>::new());
    }
    finish(&recorder, data.path(), RULES, "stopped while busy");
}

/// Works until the server is gone; its refusals.
fn start_worker(recorder: &Arc<Recorder>, server: &Server, number: u64) -> std::thread::JoinHandle<Vec<String>> {
    let mut work = Work::new(Seat::at(recorder, server.address()), &format!("worker{number}"), number);
    work.alone = false;
    std::thread::spawn(move || work.go_on(usize::MAX))
}
