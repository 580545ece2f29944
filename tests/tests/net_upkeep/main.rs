//! What the agent does beside its checks, with real servers and traffic: metrics, log, the network's changes.

mod log;
mod metrics;
mod network;

lb_tests::tests! {
    metrics_tell_what_happened,
    metrics_are_for_this_machine_only,
    the_journal_gets_priorities,
    objects_say_what_they_are_about,
    a_server_gets_another_link_address,
    ways_to_servers_come_and_go,
    a_dead_neighbour_is_shown,
}

use log::*;
use metrics::*;
use network::*;
