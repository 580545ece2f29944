//! Kernel IPVS as the oracle: the same commands and packets go to IPVS with the real ipvsadm and to us, in like
//! namespaces of one virtual machine, and what is seen of both is written down in the same words.
//!
//! - [`case`]: the language of the cases. The hand-written ones are in the folder `cases`.
//! - [`table`]: cases made from a table: schedulers, weights, traffic, families, methods.
//! - [`side`]: one of the two balancers with its namespaces; the world around it is this program, on packet sockets.
//! - [`world`]: its addresses. [`wire`]: those sockets. [`fence`]: when everything has come out.
//! - [`shot`]: what is sent. [`whole`]: fragments that came out put together. [`show`]: a frame in words and bytes.
//! - [`play`]: the guest's part, cases in and transcripts out.
//! - [`beat`]: rates, step by step.
//! - [`tell`]: what a master tells others, and when.
//! - [`sync`]: connection sync between the two.
//! - [`judge`]: the host's part, transcripts in and the first difference out.

pub mod beat;
pub mod case;
pub mod fence;
pub mod judge;
pub mod play;
pub mod shot;
pub mod show;
pub mod side;
pub mod sync;
pub mod table;
pub mod tell;
pub mod whole;
pub mod wire;
pub mod world;

pub use play::play;
