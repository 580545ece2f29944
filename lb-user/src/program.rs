//! The kernel program's object, as the build script compiled it.

/// An ELF object; empty if this was built with `LB_SKIP_BPF=1`.
pub static PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lb-ebpf"));
