//! Connection synchronisation: a director tells others of its connections, so that they can go on where it stops.
//!
//! A daemon is a process of its own, one of each role in a network namespace, as IPVS's are threads of their own. Nothing
//! that forwards depends on it.
//!
//! - [`wire`]: messages, as IPVS's own daemons send them.
//! - [`due`]: when a connection is told.
//! - [`servers`]: which server a message means.
//! - [`socket`]: the multicast group.
//! - [`master`], [`backup`]: the two roles.
//! - [`resync`], [`asker`]: a whole table at once, which IPVS does not have.
//! - [`tables`]: the instance they work on.
//! - [`daemon`]: starting, finding and stopping the process.

pub mod asker;
pub mod backup;
pub mod daemon;
pub mod due;
pub mod master;
pub mod resync;
pub mod servers;
pub mod socket;
pub mod tables;
pub mod wire;
