//! What a map made by hand says of its elements' types.
//!
//! The loader makes maps that the object defines with their types (BTF), and a map may enter a map of maps only if it is like the
//! one that stands for all of them. On Linux 6.1 that includes where in a value a timer would be, and "there is none", which
//! the kernel knows of structs only, is another answer than "nobody knows". Which struct it is does not matter, but for its size.

/// The type of the key: the first one.
pub const KEY: u32 = 1;
/// The type of the value: the last one.
pub const VALUE: u32 = 4;

/// BTF (Documentation/bpf/btf.rst) of a key of 32 bits and, as value, a struct of `bytes`, a multiple of eight.
pub fn of_words(bytes: u32) -> [u32; 29] {
    const MAGIC_AND_VERSION: u32 = 1 << 16 | 0xeb9f;
    const HEADER: u32 = 24;
    const TYPES: u32 = 16 + 16 + 24 + 24;
    const STRINGS: [u8; 12] = *b"\0u32\0u64\0\0\0\0";
    const INT: u32 = 1 << 24;
    const ARRAY: u32 = 3 << 24;
    const STRUCT_OF_ONE: u32 = 4 << 24 | 1;
    let [first, second, third] =
        [0, 4, 8].map(|at| u32::from_ne_bytes([0, 1, 2, 3].map(|i| STRINGS[at + i])));
    [
        // Header: where types and strings begin behind it, and how long they are.
        MAGIC_AND_VERSION,
        HEADER,
        0,
        TYPES,
        TYPES,
        STRINGS.len() as u32,
        // 1: u32. Its name, kind, size, and bits.
        1,
        INT,
        4,
        32,
        // 2: u64.
        5,
        INT,
        8,
        64,
        // 3: so many of the second, counted by the first.
        0,
        ARRAY,
        0,
        2,
        1,
        bytes / 8,
        // 4: the struct whose only member, without a name, is the third.
        0,
        STRUCT_OF_ONE,
        bytes,
        0,
        3,
        0,
        first,
        second,
        third,
    ]
}
