//! A connection that is reset after each byte of a session: what was asked happened whole or not at all, and who asks again
//! finds out which.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::client::{connect, read_answer};
use crate::history::{Lease, RULES, Sent, Told, Verb, What};
use crate::machine::scratch;
use crate::recorder::{
    Recorder, Seat, TOPIC, all, delivered, placed, publish_body, receive_body, settle_request, settled, told, verb_path,
};
use crate::support::Server;
use crate::work::{SMALL, finish, record, set_up};

const VISIBILITY: Duration = Duration::from_millis(100);

#[test]
fn a_session_reset_at_any_byte_leaves_nothing_half_done() {
    let data = scratch();
    let recorder = Recorder::new();
    let server = Server::with(data.path(), SMALL);
    recorder.happened(What::Open);
    set_up(&mut Seat::at(&recorder, server.address()).api).unwrap();
    let mut cut = 0;
    while reset_after(&recorder, &server, cut) {
        cut += 1;
    }
    eprintln!("reset at each of {cut} bytes");
    assert!(cut > 400, "a session of {cut} bytes");
    let health = Seat::at(&recorder, server.address()).api.send("GET", "/health", b"");
    assert_eq!(health.status, 200);
    server.kill();
    recorder.happened(What::Crash);
    finish(&recorder, data.path(), RULES, "reset at each byte");
}

/// A session that publishes, receives and acks, cut after `cut` bytes of what it sends. Whether it was cut.
fn reset_after(recorder: &Arc<Recorder>, server: &Server, cut: usize) -> bool {
    let mut wire = Wire { stream: BufReader::new(connect(server.address()).unwrap()), left: cut };
    let batch: Vec<Sent> = (0..2).map(|number| record(format!("cut{cut:04}.{number}"), 2 * cut as u64 + number, 5)).collect();

    let began = recorder.now();
    let publishing = wire.ask(&format!("/v1/topics/{TOPIC}/records"), &publish_body(&batch), |answer| all(&answer["records"], placed));
    recorder.note(began, What::Publish { batch, told: publishing.clone() });
    if publishing == Told::Nothing {
        wire.reset();
        return true;
    }
    let began = recorder.now();
    let receiving =
        wire.ask(&verb_path("receive"), &receive_body(4, Duration::ZERO, VISIBILITY), |answer| all(&answer["deliveries"], delivered));
    recorder.note(began, What::Receive { visibility: VISIBILITY, told: receiving.clone() });
    let Some(deliveries) = receiving.ok() else {
        wire.reset();
        return true;
    };
    // Always as long as this, so that each cut is at another byte.
    let mut leases: Vec<Lease> = deliveries.iter().map(|delivered| delivered.lease).collect();
    leases.truncate(1);
    if leases.is_empty() {
        return true;
    }
    let (path, body) = settle_request(Verb::Ack, &leases);
    let began = recorder.now();
    let settling = wire.ask(&path, &body, |answer| all(&answer["outcomes"], settled));
    recorder.note(began, What::Settle { verb: Verb::Ack, leases, told: settling.clone() });
    if settling == Told::Nothing {
        wire.reset();
        return true;
    }
    false
}

/// A connection that sends only so much.
struct Wire {
    stream: BufReader<TcpStream>,
    left: usize,
}

impl Wire {
    /// `Nothing` when the request, or the reading of its answer, falls behind the cut.
    fn ask<T>(&mut self, path: &str, body: &Value, good: impl Fn(&Value) -> T) -> Told<T> {
        let body = body.to_string();
        let request =
            format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let bytes = &request.as_bytes()[..request.len().min(self.left)];
        self.stream.get_mut().write_all(bytes).unwrap();
        self.left -= bytes.len();
        if self.left == 0 && bytes.len() == request.len() {
            // All of it was asked: it is done, and its answer is there.
            assert_eq!(self.stream.get_ref().peek(&mut [0]).unwrap(), 1);
        }
        // At the cut nothing more is read: the answer gets lost on its way.
        if self.left == 0 { Told::Nothing } else { told(read_answer(&mut self.stream), good) }
    }

    /// Not a polite end: what is on its way is thrown away.
    fn reset(self) {
        let stream = self.stream.into_inner();
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        drop(stream);
    }
}
