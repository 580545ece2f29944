//! `FILE_CHECK`: a number in a file is a weight, or a switch. An operator drains a server by writing to it.

use std::path::Path;

use super::machine::Outcome;
use crate::agent::config::model::FileCheck;
use crate::agent::verdict::Weight;

/// The check.
pub struct Prober(FileCheck);

impl Prober {
    /// Of this file.
    pub fn new(check: FileCheck) -> Self {
        Self(check)
    }
    /// One look. A file that is not there, or holds no number, counts as 0.
    pub async fn attempt(&mut self) -> Outcome {
        verdict(number(&self.0.file).await, self.0.weight)
    }
}

async fn number(file: &Path) -> i64 {
    let text = tokio::fs::read_to_string(file).await.unwrap_or_default();
    let word = text.split_whitespace().next().unwrap_or_default();
    word.parse::<i32>().map_or(0, i64::from)
}

fn verdict(number: i64, weight: i32) -> Outcome {
    if weight == 0 {
        return match number {
            0 => Outcome::Pass(Weight::Configured),
            number => Outcome::Fail(format!("the file says {number}")),
        };
    }
    match number * i64::from(weight) {
        down if down <= i64::from(i32::MIN) => Outcome::Fail(format!("the file says {number}")),
        offset => Outcome::Pass(Weight::More(offset)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(verdict(0, 0), Outcome::Pass(Weight::Configured));
        assert!(matches!(verdict(1, 0), Outcome::Fail(_)));
        assert_eq!(verdict(-5, 2), Outcome::Pass(Weight::More(-10)));
        assert!(matches!(verdict(i32::MIN.into(), 1), Outcome::Fail(_)));
        assert!(matches!(verdict(i32::MAX.into(), -2), Outcome::Fail(_)));
    }
}
