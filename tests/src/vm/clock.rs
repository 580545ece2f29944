//! The rate of this machine's time-stamp counter, which the guest takes its time from. Left to itself the guest measures
//! it at boot against emulated timers: on a busy machine it then lives several times too fast.

use std::arch::x86_64::_rdtsc;
use std::thread;
use std::time::{Duration, Instant};

/// In kHz.
pub fn tsc_khz() -> u64 {
    let (tick, then) = now();
    thread::sleep(Duration::from_millis(100));
    let (tock, end) = now();
    let micros = end.duration_since(then).as_micros().max(1);
    (u128::from(tock - tick) * 1000 / micros) as u64
}

/// Both clocks at the same moment: not with something else in between.
fn now() -> (u64, Instant) {
    loop {
        let (before, now, after) = (ticks(), Instant::now(), ticks());
        if after - before < 20_000 {
            return (before, now);
        }
    }
}

fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { _rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::tsc_khz;

    #[test]
    fn the_rate_is_the_same_each_time() {
        let (one, other) = (tsc_khz(), tsc_khz());
        assert!(one > 100_000 && one.abs_diff(other) < one / 200, "{one} {other}");
    }
}
