//! What `lb_control` says about a request it could not carry out: it writes to a ring buffer by aya-log, and whoever has
//! asked reads it there.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aya::Ebpf;
use aya::programs::ProgramInfo;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

/// Keeps what is said.
#[derive(Debug, Default)]
struct Listener {
    lines: Mutex<Vec<String>>,
}

impl Log for &Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(record.args().to_string());
    }
    fn flush(&self) {}
}

/// By the program of an object just loaded.
pub fn by_loaded(ebpf: &mut Ebpf) -> String {
    let listener = Listener::default();
    if let Ok(mut logger) = EbpfLogger::init_with_logger(ebpf, &listener) {
        logger.flush();
    }
    words(listener)
}

/// By a pinned program.
pub fn by_pinned(program: &Path) -> String {
    let listener = Listener::default();
    let Ok(info) = ProgramInfo::from_pin(program) else { return words(listener) };
    if let Ok(mut logger) = EbpfLogger::init_from_id_with_logger(info.id(), &listener) {
        logger.flush();
    }
    words(listener)
}

fn words(listener: Listener) -> String {
    let lines = listener.lines.into_inner().unwrap_or_else(PoisonError::into_inner);
    if lines.is_empty() { "it does not say why".to_owned() } else { lines.join("; ") }
}
