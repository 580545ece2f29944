//! IPVS in XDP, the user side: ipvsadm's command line, the rules behind it, and the balancer's own verbs.
//!
//! | module | owns |
//! |---|---|
//! | [`start`] | which tool is meant, by the program's name or the first word |
//! | [`cli`] | ipvsadm's grammar, listings, save and restore |
//! | [`control`] | the nouns, the rules, the trait behind which the tables live |
//! | [`privilege`] | may this process do any of it |
//! | [`program`] | the kernel program's object |
//! | [`bpf`] | the tables in the kernel behind that trait; attaching |
//! | [`verbs`] | attach, detach, status: what ipvsadm has no words for |
//! | [`agent`] | keepalived.conf, health checks, and what follows from them |
//! | [`sync`] | connections told to, and by, other directors |

pub mod agent;
pub mod bpf;
pub mod cli;
pub mod control;
pub mod privilege;
pub mod program;
pub mod start;
pub mod sync;
pub mod verbs;
