//! Several balancers for one address: what fails, what is taken out for work, and the connections that must not notice.
//!
//! The configurations are those of `dist/examples`, as they are.

mod ecmp;
mod traffic;
mod vrrp;

lb_tests::tests! {
    vrrp_direct_routing,
    vrrp_tunnel,
    vrrp_virtual_mac,
    roles_follow_the_address,
    ecmp_by_bird,
}

use ecmp::ecmp_by_bird;
use vrrp::{roles_follow_the_address, vrrp_direct_routing, vrrp_tunnel, vrrp_virtual_mac};
