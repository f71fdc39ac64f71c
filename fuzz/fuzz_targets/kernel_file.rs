#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| readers::kernel_file::check(data));
