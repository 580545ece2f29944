//! How the attempts of a check went, counted where they are made.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::machine::Outcome;

/// Durations of attempts, by keyword, of all checks together.
pub type Durations = Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>;

/// From an answer on the same segment to the longest usual time limit.
const BOUNDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 3.0, 10.0];

/// None yet.
pub fn durations() -> Durations {
    Family::new_with_constructor(|| Histogram::new(BOUNDS))
}

/// One check's attempts. Written by its task, read by anybody.
#[derive(Debug, Default)]
pub struct Tally {
    passed: AtomicU64,
    failed: AtomicU64,
    not_made: AtomicU64,
    last_nanos: AtomicU64,
    /// Milliseconds since 1970; 0 = none yet.
    last_at: AtomicU64,
}

impl Tally {
    /// Has an attempt ended yet?
    pub fn has_begun(&self) -> bool {
        self.last_at.load(Ordering::Relaxed) != 0
    }

    /// One more attempt, just ended.
    pub fn count(&self, outcome: &Outcome, took: Duration) {
        let one = match outcome {
            Outcome::Pass(_) | Outcome::Part => &self.passed,
            Outcome::Fail(_) => &self.failed,
            Outcome::Local(_) => &self.not_made,
        };
        one.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.last_nanos.store(nanos, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_at.store(u64::try_from(now.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    /// Attempts by how they ended: `pass`, `fail`, and `error` for those that could not be made.
    pub fn results(&self) -> [(&'static str, u64); 3] {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        [("pass", load(&self.passed)), ("fail", load(&self.failed)), ("error", load(&self.not_made))]
    }

    /// How long the last attempt took, and when it ended, in seconds, of the latter since 1970; none yet: nothing.
    pub fn last(&self) -> Option<(f64, f64)> {
        let at = self.last_at.load(Ordering::Relaxed);
        let took = Duration::from_nanos(self.last_nanos.load(Ordering::Relaxed)).as_secs_f64();
        (at != 0).then_some((took, Duration::from_millis(at).as_secs_f64()))
    }
}
