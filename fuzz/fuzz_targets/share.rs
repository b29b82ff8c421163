#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| farside_tests::fuzzing::shares::share(bytes));
