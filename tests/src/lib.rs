//! What the tests of the balancer need around it.
//!
//! - [`need`]: what a test cannot do without; a missing thing is a visible skip, and a failure under `CI=true`.
//! - [`harness`]: `tests! { … }` makes the `main` of a test file out of a list of functions.
//! - [`pace`]: how much longer things may take on a slow machine.
//! - [`run`]: commands with a time limit, and what they said.
//! - [`net`]: network namespaces, veth pairs, switches, and the two settings every veth with XDP behind it needs.
//! - [`peer`]: who talks over them: nginx, curl, plain HTTP connections, UDP echo, iperf3.
//! - [`topo`]: whole set-ups: one segment ([`topo::dr`]), two segments with the balancer between them
//!   ([`topo::nat`]), servers behind a router ([`topo::tun`]).
//! - [`shell`] and [`lab`]: a person typing commands at one of those hosts.
//! - [`agent`]: the agent there, running.
//! - [`exposition`]: Prometheus' text format, read strictly.
//! - [`packets`], [`case`]: frames as values, and cases of packets in and out; [`host`] and [`bpf`] run them.
//! - [`bench`]: what a packet costs; [`flood`]: what a flood does to honest connections.
//! - [`listing`] and [`drive`]: what the balancer has to show, and the questions that every lab asks.
//! - [`vm`]: a virtual machine with another kernel, and kernel IPVS in it to compare with.
//!
//! Everything made here is undone when its value is dropped, on panic too. What a killed run left behind is removed
//! by the next one (see [`stale`]).

pub mod agent;
pub mod bench;
pub mod bpf;
pub mod case;
pub mod drive;
pub mod exposition;
pub mod flood;
pub mod harness;
pub mod host;
pub mod lab;
pub mod listing;
pub mod need;
pub mod net;
pub mod own_bpffs;
pub mod pace;
pub mod packets;
pub mod peer;
pub mod run;
pub mod shell;
pub mod stale;
pub mod topo;
pub mod vm;
