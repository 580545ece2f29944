//! What the agent does beside its checks, with real servers and traffic: metrics.

mod metrics;

lb_tests::tests! {
    metrics_tell_what_happened,
    metrics_are_for_this_machine_only,
}

use metrics::*;
