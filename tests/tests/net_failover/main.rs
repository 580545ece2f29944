//! Several balancers for one address: what fails, what is taken out for work, and the connections that must not notice.
//!
//! The configurations are those of `dist/examples`, as they are.

mod ecmp;
mod gaps;
mod roles;
mod sync_files;
mod traffic;
mod vrrp;

lb_tests::tests! {
    vrrp_direct_routing,
    vrrp_tunnel,
    vrrp_nat,
    vrrp_virtual_mac,
    roles_follow_the_address,
    ecmp_by_bird,
}

use ecmp::ecmp_by_bird;
use roles::roles_follow_the_address;
use vrrp::{vrrp_direct_routing, vrrp_nat, vrrp_tunnel, vrrp_virtual_mac};
