//! What the agent does beside its checks, with real servers and traffic: metrics, log.

mod log;
mod metrics;

lb_tests::tests! {
    metrics_tell_what_happened,
    metrics_are_for_this_machine_only,
    the_journal_gets_priorities,
    objects_say_what_they_are_about,
}

use log::*;
use metrics::*;
