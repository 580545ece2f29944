//! Whatever stands in a keepalived.conf, reading it ends, and what makes no sense is said.
#![no_main]

use std::cell::RefCell;
use std::io::{Seek as _, Write as _};

use libfuzzer_sys::fuzz_target;
use lb_user::agent::config::{self, Loaded};
use tempfile::NamedTempFile;

thread_local! {
    /// One file for all runs.
    static FILE: RefCell<NamedTempFile> =
        RefCell::new(NamedTempFile::new_in("/dev/shm").expect("room for the configuration"));
}

fuzz_target!(|bytes: &[u8]| {
    // Includes would read whatever files of this machine the input names.
    if bytes.windows(7).any(|word| word == b"include") {
        return;
    }
    FILE.with_borrow_mut(|file| {
        let inner = file.as_file_mut();
        inner.set_len(0).and_then(|()| inner.rewind()).expect("an empty file");
        inner.write_all(bytes).expect("the configuration");
        let Loaded { config, problems } = config::load(file.path(), "host");
        let whole = config.servers.iter().all(|server| !server.services.is_empty());
        assert!(whole || problems.status() != 0, "a service without addresses, and nothing said");
    });
});
