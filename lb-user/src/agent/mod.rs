//! The agent: keepalived's health checks over this balancer's tables.
//!
//! | module | owns |
//! |---|---|
//! | [`config`] | keepalived.conf |
//! | [`check`] | making checks |
//! | [`verdict`] | what follows from their results: up, down, weights, quorum, sorry server |
//! | [`apply`] | from what the tables should hold to changes of them |
//! | [`remember`] | what outlives the process: whose services are whose, what checks were |
//! | [`announce`] | addresses that a routing daemon tells of |
//! | [`drains`] | which dests are to take no new connections |
//! | [`keeper`] | all of it together, without a loop |
//! | [`network`] | what happens to routes and neighbours |
//! | [`role`] | which sync daemons run, by VRRP's addresses |
//! | [`run`] | the loop: signals, clock, systemd |
//! | [`script`], [`fifo`], `poke` | telling others: programs, readers, clients of a dead server |
//! | [`metrics`] | telling Prometheus |
//! | [`log`] | telling people, and the journal |

pub mod announce;
pub mod apply;
pub mod check;
pub mod config;
pub mod drains;
pub mod fifo;
pub mod keeper;
pub mod log;
pub mod metrics;
pub mod network;
mod poke;
pub mod remember;
pub mod role;
pub mod run;
pub mod script;
pub mod verdict;
