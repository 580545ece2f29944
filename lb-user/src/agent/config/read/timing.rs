//! The words a check inherits: from its server, and that from the virtual server.

use std::time::Duration;

use super::Reader;
use crate::agent::config::model::Pace;
use crate::agent::config::tree::Statement;

/// What was said at one level.
#[derive(Clone, Debug, Default)]
pub(super) struct Timing {
    pub alpha: Option<bool>,
    pub retry: Option<u32>,
    pub delay_before_retry: Option<Duration>,
    pub warmup: Option<Duration>,
    pub connect_timeout: Option<Duration>,
    pub delay_loop: Option<Duration>,
    pub virtualhost: Option<String>,
}

const TICK: Duration = Duration::from_micros(1);

impl Timing {
    /// What was not said is as it is further out.
    pub(super) fn within(&self, outer: &Self) -> Self {
        Self {
            alpha: self.alpha.or(outer.alpha),
            retry: self.retry.or(outer.retry),
            delay_before_retry: self.delay_before_retry.or(outer.delay_before_retry),
            warmup: self.warmup.or(outer.warmup),
            connect_timeout: self.connect_timeout.or(outer.connect_timeout),
            delay_loop: self.delay_loop.or(outer.delay_loop),
            virtualhost: self.virtualhost.clone().or_else(|| outer.virtualhost.clone()),
        }
    }

    pub(super) fn delay_loop(&self) -> Duration {
        self.delay_loop.unwrap_or(Duration::from_secs(60))
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.connect_timeout.unwrap_or(Duration::from_secs(5))
    }

    /// With a checker's own defaults for `retry` and `delay_before_retry`.
    pub(super) fn pace(&self, retry: u32, before_retry: Duration) -> Pace {
        Pace {
            delay_loop: self.delay_loop(),
            retry: self.retry.unwrap_or(retry),
            delay_before_retry: self.delay_before_retry.unwrap_or(before_retry),
            warmup: self.warmup.unwrap_or(self.delay_loop()),
            alpha: self.alpha.unwrap_or(false),
        }
    }
}

impl Reader<'_> {
    /// Takes a statement that belongs here. False: it does not.
    pub(super) fn timing(&mut self, statement: &Statement, timing: &mut Timing, least_retry: u32) -> bool {
        match statement.keyword() {
            "alpha" => timing.alpha = self.flag(statement).or(timing.alpha),
            "retry" => timing.retry = self.number(statement, least_retry..=u32::MAX).or(timing.retry),
            "delay_before_retry" => {
                timing.delay_before_retry =
                    self.timer(statement, Duration::ZERO).or(timing.delay_before_retry);
            }
            "warmup" => timing.warmup = self.timer(statement, Duration::ZERO).or(timing.warmup),
            "connect_timeout" => {
                timing.connect_timeout = self.timer(statement, TICK).or(timing.connect_timeout);
            }
            "delay_loop" => timing.delay_loop = self.timer(statement, TICK).or(timing.delay_loop),
            "virtualhost" => timing.virtualhost = self.text(statement).or_else(|| timing.virtualhost.take()),
            _ => return false,
        }
        true
    }
}
