//! The control side: what may be done to the tables, without a word on how they are stored.
//!
//! | module | owns |
//! |---|---|
//! | [`model`] | the nouns: services, dests, connections, counters |
//! | [`request`] | the verbs: one value per change |
//! | [`refusal`] | every reason to say no, and its words |
//! | [`address`] | which addresses a dest can have |
//! | [`store`] | the trait behind which the tables live |
//! | [`memory`] | a store in ordinary memory, for tests |
//! | [`balancer`] | the rules, in the order IPVS checks them |
//! | [`mark`] | which packets get which mark |
//! | [`import`] | those rules out of iptables-save and `nft -j list ruleset` |
//! | [`sysctl`] | IPVS's sysctls |

pub mod address;
pub mod balancer;
pub mod import;
pub mod mark;
pub mod memory;
pub mod model;
pub mod refusal;
pub mod request;
pub mod store;
pub mod sysctl;
