//! What the balancer has to refuse, and what it has to survive: wrong words, wrong interfaces, foreign files, missing
//! rights, missing file systems, sudden death, large tables and many hands at once. A refused command leaves
//! everything as it was.

mod bpffs;
mod desk;
mod growth;
mod interfaces;
mod ipv6_table;
mod kills;
mod large;
mod lines;
mod pins;
mod rights;
mod sizes;

lb_tests::tests! {
    wrong_command_lines,
    wrong_interfaces,
    wrong_options_of_attach,
    one_bad_interface_of_two,
    another_program_on_the_card,
    detaching_what_is_not_attached,
    connections_are_fixed_while_attached,
    memory_of_a_million,
    memory_where_nobody_says,
    memory_of_servers,
    growth_over_pieces,
    killed_growth,
    ipv6_connections_when_needed,
    ipv6_connections_at_attach,
    ipv6_connections_after_a_kill,
    room_for_servers,
    jumbo_frames,
    foreign_maps,
    foreign_program,
    another_layout,
    not_root,
    no_capabilities,
    no_bpf_file_system,
    read_only_bpf_file_system,
    named_bpf_file_system,
    killed_restores,
    killed_attaches,
    ten_thousand_services,
    another_table_in_its_place,
    many_commands_at_once,
}

use bpffs::*;
use growth::*;
use interfaces::*;
use ipv6_table::*;
use kills::*;
use large::*;
use lines::*;
use pins::*;
use rights::*;
use sizes::*;
