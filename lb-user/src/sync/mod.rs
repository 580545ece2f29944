//! Connection synchronisation: a director tells others of its connections, so that they can go on where it stops.
//!
//! - [`wire`]: messages, as IPVS's own daemons send them.

pub mod wire;
