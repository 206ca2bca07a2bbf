#![no_main]

libfuzzer_sys::fuzz_target!(|input: &str| kserve_local::gateway::fuzzing::route(input));
