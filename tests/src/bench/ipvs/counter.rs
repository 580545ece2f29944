//! The clock of [`crate::vm::Vm::counting`]: an instruction is a nanosecond there, so the thread's CPU time is how many it has
//! executed, the kernel's for it included. Not the time-stamp counter: it goes on while the kernel waits for something.

use std::arch::asm;

use anyhow::{Result, ensure};

pub use crate::bench::driver::thread_time as instructions;

/// Turns of the loop that proves it.
const TURNS: u64 = 100_000;
/// Instructions of a turn.
const LONG: u64 = 3;
/// What may be added to a turn by all that is around the loop.
const TOLERANCE: f64 = 0.01;
/// Now and then a timer comes in between.
const TRIES: usize = 9;

/// Does a loop of known length count as long as it is? Gives what it counted for a turn.
pub fn check() -> Result<f64> {
    let counted = (0..TRIES).map(|_| loop_of(TURNS)).min().unwrap_or(0) as f64 / TURNS as f64;
    ensure!(
        (counted - LONG as f64).abs() < TOLERANCE,
        "a turn of {LONG} instructions counts {counted}: this clock does not count instructions"
    );
    Ok(counted)
}

fn loop_of(turns: u64) -> u64 {
    let before = instructions();
    // SAFETY: it changes one register.
    unsafe {
        asm!("2:", "nop", "dec {turns}", "jnz 2b", turns = inout(reg) turns => _, options(nomem, nostack));
    }
    instructions() - before
}
