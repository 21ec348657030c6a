//! A disk that fails one sync: from then on nothing is acknowledged, however well later syncs go, and what was
//! acknowledged before is there after a restart.

use std::process::Command;

use crate::api::Api;
use crate::machine::{self, Need};
use crate::publishers::{Ledger, PARTITIONS, TOPIC, Told, send};
use crate::support::{Server, run, serve};

/// Requests made after the failure.
const LATER: usize = 20;

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_a_restart() {
    if !machine::has(&[Need::Strace]) {
        return;
    }
    // More syncs than one thread makes while it opens the directory.
    for failing in [12, 40] {
        let data = machine::scratch();
        let server = Server::on(data.path());
        Api::to(&server).create_topic(TOPIC, PARTITIONS);
        server.stop();

        let mut ledger = Ledger::default();
        // Counted per thread: the writer's comes first, it syncs for every publish here.
        let server = Server::spawn(serve(failing_at(failing), data.path(), &[]));
        let mut api = Api::to(&server);
        let refused = publish_until_refused(&mut api, &mut ledger, failing);
        for number in 0..LATER {
            let Told::Refused(_, status, code) = send(&mut api, vec![format!("later.{number}")]) else {
                panic!("acknowledged after the failure")
            };
            assert_eq!((status, code.as_str()), (503, "storage_failed"));
        }
        let health = api.send("GET", "/health", b"");
        assert_eq!((health.status, &health.json()["status"]), (503, &"failed".into()), "{}", health.text());
        assert_eq!(api.metric("onelog_storage_failed"), 1.0);
        server.kill();

        assert_eq!(run(&["check", data.path().to_str().unwrap()]).code, 0);
        let server = Server::on(data.path());
        let mut api = Api::to(&server);
        // Whether the record of the failed sync reached the disk nobody knew: asked again, it is stored once.
        ledger.enter(Told::Nothing(refused));
        ledger.verify(&mut api);
        for ids in ledger.take_unknown() {
            ledger.enter(send(&mut api, ids));
        }
        ledger.verify(&mut api);
        assert_eq!(run(&["check", data.path().to_str().unwrap()]).code, 1, "in use");
        server.stop();
    }
}

/// The ids of the request whose sync failed.
fn publish_until_refused(api: &mut Api, ledger: &mut Ledger, at_most: usize) -> Vec<String> {
    for number in 0..=at_most {
        match send(api, vec![format!("before.{number}")]) {
            Told::Refused(ids, status, code) => {
                assert_eq!((status, code.as_str()), (503, "storage_failed"));
                return ids;
            }
            ok => ledger.enter(ok),
        }
    }
    panic!("{at_most} syncs and none has failed");
}

/// A tracer that makes the given sync of each thread fail, once.
fn failing_at(sync: usize) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"]);
    strace.arg(format!("inject=fdatasync:error=EIO:when={sync}")).arg(env!("CARGO_BIN_EXE_onelog"));
    strace
}
