//! The broker against a plain model of it: random operations, clock jumps, power cuts, kills, retention and checkpoints.
//!
//! `ops` throws operations, `rig` runs them on the real broker over a simulated disk, `world` and `queue` say what should come of
//! them, `machine` compares after each. The promises are functions in `promises`, or named where a call is judged (P2 and P7 to
//! P14 in `queue` and `groups`, P14, P16 and P26 in `world`). A failing sequence is made small, and its seed kept in
//! `failing_seeds.txt`.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and its numbers are small"
)]

mod control;
mod found;
mod groups;
mod machine;
mod ops;
mod promises;
mod queue;
mod rig;
mod world;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use machine::Machine;
use ops::Op;

/// Sequences of a normal test run. `ONELOG_MODEL_CASES` sets another number.
const CASES: u32 = 200;
const SEEDS: &str = "tests/model/failing_seeds.txt";

/// How a sequence begins. What comes of it is the business of [`Machine`]: much of it is for the broker to choose.
#[derive(Clone, Debug)]
struct Beginning {
    partitions: u32,
    kind: u8,
}

impl ReferenceStateMachine for Beginning {
    type State = Self;
    type Transition = Op;

    fn init_state() -> BoxedStrategy<Self> {
        (1u32..3, 0u8..4).prop_map(|(partitions, kind)| Self { partitions, kind }).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Op> {
        ops::op()
    }

    fn apply(state: Self, _: &Op) -> Self {
        state
    }
}

struct Model;

impl StateMachineTest for Model {
    type SystemUnderTest = Machine;
    type Reference = Beginning;

    fn init_test(beginning: &Beginning) -> Machine {
        Machine::new(beginning.partitions, beginning.kind)
    }

    fn apply(mut machine: Machine, _: &Beginning, op: Op) -> Machine {
        machine.step(&op);
        machine
    }

    fn teardown(machine: Machine) {
        machine.drain();
    }
}

fn config() -> Config {
    let asked = std::env::var("ONELOG_MODEL_CASES").ok().map(|cases| cases.parse().expect("ONELOG_MODEL_CASES is a number"));
    // A normal run is the same each time, so that what it finds is due to the change at hand; a longer one looks around.
    let rng_seed = if asked.is_some() { RngSeed::Random } else { RngSeed::Fixed(1) };
    Config {
        cases: asked.unwrap_or(CASES),
        rng_seed,
        max_shrink_iters: 3_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(SEEDS))),
        ..Config::default()
    }
}

prop_state_machine! {
    #![proptest_config(config())]

    #[test]
    fn the_broker_is_what_the_model_says(sequential 1..60 => Model);
}
