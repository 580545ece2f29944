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

/// The same in whole seconds, for command lines.
pub fn seconds(ordinary: u64) -> String {
    limit(Duration::from_secs(ordinary)).as_secs().to_string()
}

fn parse(said: Option<&str>) -> u32 {
    said.and_then(|said| said.parse().ok()).filter(|factor| *factor > 0).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn nothing_said_is_an_ordinary_machine() {
        assert_eq!([None, Some(""), Some("0"), Some("fast"), Some("8")].map(parse), [1, 1, 1, 1, 8]);
    }
}
