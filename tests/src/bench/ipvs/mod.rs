//! Our instructions for a packet and kernel IPVS's, side by side: `cargo xtask bench ipvs` (docs/performance.md). Both are
//! counted in one virtual machine whose time-stamp counter counts instructions ([`crate::vm::Vm::counting`]).
//!
//! - [`cases`]: what is measured, what is aimed at, and the most there may be.
//! - [`counter`]: the clock, and the proof that it counts instructions.
//! - [`ours`] and [`kernel`]: a case's cost with either balancer.
//! - [`guest`]: the part inside the machine. [`host`]: the part outside.
//! - [`figure`]: what both say to each other. [`report`] and [`plot`]: what people see.

pub mod cases;
pub mod counter;
pub mod figure;
pub mod guest;
pub mod host;
pub mod kernel;
pub mod ours;
pub mod plot;
pub mod report;
