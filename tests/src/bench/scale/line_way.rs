//! How long a line of memory that both CPUs write to takes from one to the other. A host may put a guest's two CPUs next to
//! each other or far apart, and otherwise from one minute to the next: what they share costs accordingly.

use std::hint::spin_loop;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Result, ensure};

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
    let (ball, start) =
        (Ball(AtomicU32::new(0)), Start { settled: AtomicU32::new(0), both: Barrier::new(2) });
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            start.settle(1)?;
            (0..TIMES * READINGS).for_each(|turn| ball.throw(turn * 2 + 1));
            Ok(())
        });
        let first = scope.spawn(|| {
            start.settle(0)?;
            let readings = (0..READINGS).map(|reading| {
                let before = driver::wall_time();
                (0..TIMES).for_each(|turn| ball.throw((reading * TIMES + turn) * 2));
                (driver::wall_time() - before) as f64 / f64::from(2 * TIMES)
            });
            Ok(median(readings.collect()))
        });
        // A panic goes on where the thread was started.
        let [way, nothing] = [first.join(), other.join().map(|done| done.map(|()| 0.0))]
            .map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        nothing.and(way)
    })
}

/// Two that wait for the ball on one CPU would keep each other from it, for good if they go before all others.
struct Start {
    settled: AtomicU32,
    both: Barrier,
}

impl Start {
    /// On its CPU, ahead of others, and the other one on its own: until then it sleeps.
    fn settle(&self, cpu: usize) -> Result<()> {
        let settled = driver::pin_to(cpu).and_then(|()| driver::go_first());
        self.settled.fetch_add(u32::from(settled.is_ok()), Ordering::AcqRel);
        self.both.wait();
        settled?;
        ensure!(self.settled.load(Ordering::Acquire) == 2, "the other thread is not on its CPU");
        Ok(())
    }
}
