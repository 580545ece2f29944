//! The kernel program's object, as the build script compiled it.

/// An ELF object; empty if this was built with `LB_SKIP_BPF=1`.
pub static PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"));

/// The object that benchmarks drive the program with. No part of the product: only `lb-tests` uses it.
pub static BENCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-bench"));
