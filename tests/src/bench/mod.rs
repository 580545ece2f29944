//! What a packet costs in the loaded program: `cargo xtask bench packet` (docs/performance.md).
//!
//! - [`driver`]: the program that makes the packets and calls the one under test, and the clock it is run by.
//! - [`cases`]: rules, packets, and what has to become of them.
//! - [`subjects`]: what is measured: cases, and the tables their connections lie in.
//! - [`fill`]: connections that are there before.
//! - [`aims`]: what is aimed at.
//! - [`measure`]: rounds, medians, checks.
//! - [`report`] and [`plot`]: the table, the file for other programs, the picture.
//! - [`agent`]: what a thousand servers cost the agent: `cargo xtask bench agent`.
//! - [`scale`]: what grows with the work: `cargo xtask bench scale`.
//! - [`ipvs`]: the same with kernel IPVS beside it, in instructions: `cargo xtask bench ipvs`.
//! - [`wire`]: frames and pages a second through namespaces: `cargo xtask bench wire`.

pub mod agent;
pub mod aims;
pub mod cases;
pub mod driver;
pub mod fill;
pub mod ipvs;
pub mod measure;
pub mod plot;
pub mod report;
pub mod scale;
pub mod subjects;
pub mod wire;
