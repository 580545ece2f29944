//! How long a line of memory that both CPUs write to takes from one to the other. A host may put a guest's two CPUs next to
//! each other or far apart, and otherwise from one minute to the next: what they share costs accordingly.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::Result;

use crate::bench::driver;
use crate::bench::measure::median;

/// Times there and back of a reading.
const TIMES: u32 = 1000;
/// Readings.
const READINGS: u32 = 31;

/// A word in a line of its own.
#[repr(align(128))]
struct Ball(AtomicU32);

impl Ball {
    /// Waits until it has been thrown so many times, and throws it once more.
    fn throw(&self, times: u32) {
        while self.0.load(Ordering::Acquire) != times {
            spin_loop();
        }
        self.0.store(times + 1, Ordering::Release);
    }
}

/// Nanoseconds, the median of some readings.
pub fn measure() -> Result<f64> {
    let ball = Ball(AtomicU32::new(0));
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let settled = settle(1);
            (0..TIMES * READINGS).for_each(|turn| ball.throw(turn * 2 + 1));
            settled
        });
        // Whatever happened: the other one waits for the ball.
        let settled = settle(0);
        let readings = (0..READINGS).map(|reading| {
            let before = driver::wall_time();
            (0..TIMES).for_each(|turn| ball.throw((reading * TIMES + turn) * 2));
            (driver::wall_time() - before) as f64 / f64::from(2 * TIMES)
        });
        let way = median(readings.collect());
        // A panic goes on where the thread was started.
        other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        settled.map(|()| way)
    })
}

/// On its CPU, and ahead of others only if it is there: two on one would wait for each other for good.
fn settle(cpu: usize) -> Result<()> {
    driver::pin_to(cpu)?;
    driver::go_first()
}
