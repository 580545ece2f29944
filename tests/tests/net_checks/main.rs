//! What the agent finds out, and what comes of it: servers die, slowly and suddenly, with clients on them, and so does the
//! agent.

mod examples;
mod kills;
mod on_down;
mod path;
mod scene;
mod slow_start;

use examples::the_examples_work;
use kills::killed_at_any_moment;
use on_down::{
    clients_are_left_alone, connections_move_to_who_is_left, datagrams_go_elsewhere_at_once,
    waiting_clients_are_reset,
};
use path::{
    a_nat_server_that_answers_elsewhere_is_found_out, a_server_that_sends_them_back_is_found_out,
    a_server_without_a_tunnel_is_found_out, a_server_without_the_vip_is_found_out,
    every_kind_of_check_takes_the_path,
};
use slow_start::a_server_comes_back_gradually;

lb_tests::tests! {
    waiting_clients_are_reset,
    connections_move_to_who_is_left,
    clients_are_left_alone,
    datagrams_go_elsewhere_at_once,
    a_server_comes_back_gradually,
    a_server_without_the_vip_is_found_out,
    a_server_that_sends_them_back_is_found_out,
    a_server_without_a_tunnel_is_found_out,
    a_nat_server_that_answers_elsewhere_is_found_out,
    every_kind_of_check_takes_the_path,
    killed_at_any_moment,
    the_examples_work,
}
