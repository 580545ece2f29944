//! What happens to rules and connections while the program is put on and taken off, in several namespaces at once, and
//! with nobody but the kernel at work.

mod attach;
mod conns;
mod local;
mod places;

lb_tests::tests! {
    rules_come_before_attaching,
    detaching_keeps_rules_and_connections,
    attaching_again_disturbs_nobody,
    purging_leaves_nothing,
    one_of_two_cards,
    generic_mode,
    generic_mode_nat,
    what_is_not_for_a_service_is_left_alone,
    requests_and_servers_on_different_cards,
    two_balancers_at_once,
    same_table_however_entered,
    counts_follow_connections,
    idle_connections_expire_without_a_daemon,
    weight_zero_keeps_connections,
    a_deleted_dest_comes_back_with_its_connections,
    many_clients_at_once,
    clients_on_the_balancer_itself,
    datagrams_of_the_balancer_itself,
}

use attach::*;
use conns::*;
use local::*;
use places::*;
