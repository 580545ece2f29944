//! The user's lab notes, typed word for word, with real servers and clients; and the same for IPv6.
//!
//! Where a lab's own listing shows a slip of its author's (an address mistyped, columns squeezed by a web page), the
//! expected text is what ipvsadm prints for the commands given.

mod dr;
mod nat;
mod rules;
mod tun;

lb_tests::tests! {
    nat_first_lab,
    nat_ansible_lab,
    nat_both_families,
    nat_with_another_port,
    nat_much_traffic,
    dr_first_lab,
    dr_persistent_lab,
    dr_both_families,
    dr_much_traffic,
    tun_first_lab,
    tun_tcp_and_udp_lab,
    tun_both_families,
    tun_mixed_families,
    tun_much_traffic,
    clear_lab,
    save_and_restore_lab,
}

use dr::*;
use nat::*;
use rules::*;
use tun::*;
