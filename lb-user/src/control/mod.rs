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

pub mod address;
pub mod balancer;
pub mod memory;
pub mod model;
pub mod refusal;
pub mod request;
pub mod store;
