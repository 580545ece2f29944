//! The two clocks: seconds since the machine started, and the packet path's ticks.

use std::io;

use rustix::time::{ClockId, clock_getres, clock_gettime};

use super::syscall;

/// Both, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Seconds of the monotonic clock, never 0.
    pub seconds: u32,
    /// Ticks, wrapping.
    pub ticks: u32,
    /// Ticks in a second.
    pub hz: u32,
}

impl Now {
    /// Reads them.
    pub fn read() -> io::Result<Self> {
        Ok(Self { seconds: seconds(), ticks: syscall::ticks()?, hz: hz() })
    }

    /// Seconds since `tick`; 0 if it is still to come.
    pub fn since(&self, tick: u32) -> u32 {
        (self.ticks.wrapping_sub(tick) as i32).max(0) as u32 / self.hz.max(1)
    }
}

/// Seconds of the monotonic clock, never 0.
pub fn seconds() -> u32 {
    u32::try_from(clock_gettime(ClockId::Monotonic).tv_sec).unwrap_or(u32::MAX).max(1)
}

/// Ticks in a second of the packet path's clock: the coarse clock moves with every one.
pub fn hz() -> u32 {
    let tick = clock_getres(ClockId::MonotonicCoarse).tv_nsec.max(1);
    u32::try_from(1_000_000_000 / tick).unwrap_or(1000).max(1)
}
