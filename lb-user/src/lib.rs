//! IPVS in XDP, the user side: ipvsadm's command line, the rules behind it, and the balancer's own verbs.
//!
//! | module | owns |
//! |---|---|
//! | [`cli`] | ipvsadm's grammar, listings, save and restore |
//! | [`control`] | the nouns, the rules, the trait behind which the tables live |

pub mod cli;
pub mod control;
