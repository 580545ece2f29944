//! How slow this machine is. Limits are written for an ordinary machine with two busy processors; one that is emulated
//! says with `LB_TESTS_SLOWNESS` how many times as long everything may take there.

use std::env;
use std::sync::LazyLock;
use std::time::Duration;

/// The variable, for those who start tests on a slow machine.
pub const VARIABLE: &str = "LB_TESTS_SLOWNESS";

static SLOWNESS: LazyLock<u32> = LazyLock::new(|| parse(env::var(VARIABLE).ok().as_deref()));

/// A limit, as long as this machine needs.
pub fn limit(ordinary: Duration) -> Duration {
    ordinary * *SLOWNESS
}

/// The limit in whole seconds, for command lines.
pub fn seconds(ordinary: u64) -> String {
    limit(Duration::from_secs(ordinary)).as_secs().to_string()
}

/// How often something is repeated that an ordinary machine does so many times: a slow one that would take too long for
/// all of them does a share, never fewer than three.
pub fn times(ordinary: u32) -> u32 {
    share(ordinary, *SLOWNESS)
}

fn share(ordinary: u32, slowness: u32) -> u32 {
    (ordinary / slowness).max(ordinary.min(3))
}

fn parse(said: Option<&str>) -> u32 {
    said.and_then(|said| said.parse().ok()).filter(|factor| *factor > 0).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::{parse, share};

    #[test]
    fn nothing_said_is_an_ordinary_machine() {
        assert_eq!([None, Some(""), Some("0"), Some("fast"), Some("8")].map(parse), [1, 1, 1, 1, 8]);
    }

    #[test]
    fn a_slow_machine_repeats_less_often() {
        assert_eq!([share(80, 1), share(80, 8), share(80, 100), share(2, 8)], [80, 10, 3, 2]);
    }
}
