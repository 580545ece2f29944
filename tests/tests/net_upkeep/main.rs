//! What the agent does beside its checks, with real servers and traffic: metrics, log, the network's changes, rights.

mod log;
mod metrics;
mod network;
mod rights;

lb_tests::tests! {
    metrics_tell_what_happened,
    metrics_are_for_this_machine_only,
    the_journal_gets_priorities,
    objects_say_what_they_are_about,
    a_server_gets_another_link_address,
    ways_to_servers_come_and_go,
    a_client_nobody_knows_gets_answers,
    a_dead_neighbour_is_shown,
    the_agent_keeps_what_it_needs,
    scripts_have_no_rights,
    roots_scripts_have_the_agents,
    a_script_that_does_not_end_is_ended,
    what_cannot_be_given_up,
}

use log::*;
use metrics::*;
use network::*;
use rights::*;
