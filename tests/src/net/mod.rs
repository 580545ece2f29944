//! Namespaces and the links between them.

pub mod link;
pub mod netns;
pub mod offload;
pub mod xdp_pass;

pub use link::Switch;
pub use netns::Netns;
