//! `lvs_notify_fifo`: a line for every change, for whoever reads.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use nix::libc;
use tracing::debug;

/// Writes a line to those that somebody reads. Never waits; where nobody reads or the pipe is full, the line is lost.
pub fn write(fifos: &[PathBuf], line: &str) {
    for fifo in fifos {
        let opened = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(fifo);
        if let Err(error) = opened.and_then(|mut fifo| fifo.write_all(format!("{line}\n").as_bytes())) {
            debug!("{}: {error}", fifo.display());
        }
    }
}
