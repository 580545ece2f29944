//! Services other than by address, and what else a service can be: by mark, SCTP, scheduled by the packet.

mod fragments;
mod ftp;
mod here;
mod marks;
mod protocols;
mod sctp;
mod sysctls;

lb_tests::tests! {
    marked_requests_are_balanced,
    one_mark_for_several_ports_keeps_a_client_together,
    connections_outlive_their_rule,
    rules_of_a_packet_filter,
    everything_is_saved_and_restored,
    datagrams_are_scheduled_one_by_one,
    sctp_is_balanced,
    values_of_sysctls,
    sysctls_work,
    files_by_ftp,
    fragments_wait_for_their_first,
    a_request_that_fails_says_why,
    a_server_on_the_balancer_itself,
    datagrams_to_the_balancer_itself,
    sctp_to_the_balancer_itself,
    the_loopback_address_is_out_of_reach,
    the_hook_for_replies_comes_and_goes,
}

use fragments::*;
use ftp::*;
use here::*;
use marks::*;
use protocols::*;
use sctp::*;
use sysctls::*;
