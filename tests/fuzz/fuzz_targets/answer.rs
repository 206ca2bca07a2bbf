#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kserve_local::gateway::fuzzing::answer(input));
