//! A configuration file and the values of settings: any text gives a configuration or an error in words.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onelog_fuzz::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fuzz_target!(|text: &str| {
    if let Err(error) = onelog::fuzzing::read_config(text) {
        assert!(!error.is_empty());
    }
});
