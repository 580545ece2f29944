//! SCTP's checksum (CRC32c, RFC 9260), updated without reading the packet.
//!
//! A CRC is linear: changing the first four bytes of a packet by XOR with `d` changes its CRC by the CRC of `d` followed
//! by zeros, which is `d` times a power of x that depends on the length alone. Polynomials here are reflected: the
//! highest bit is the coefficient of 1.

/// The Castagnoli polynomial, reflected.
const POLY: u32 = 0x82F6_3B78;

/// `a` times `b` modulo the polynomial. No branches: the verifier walks it once.
#[inline(always)]
const fn times(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 0;
    while bit < 32 {
        product ^= b & 0u32.wrapping_sub((a >> (31 - bit)) & 1);
        b = (b >> 1) ^ (POLY & 0u32.wrapping_sub(b & 1));
        bit += 1;
    }
    product
}

/// x to the power of 8 times 2^k: what 2^k zero bytes do.
const ZEROS: [u32; 16] = {
    let mut powers = [0; 16];
    // x^8: the highest bit is x^0.
    powers[0] = 1 << (31 - 8);
    let mut k = 1;
    while k < 16 {
        powers[k] = times(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
};

/// What the CRC of a packet of `len` bytes changes by (XOR) when its first four bytes change by `change` (XOR, read as a
/// little-endian word). In the kernel program a global function, which the verifier walks once for all its callers.
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
#[inline(never)]
pub extern "C" fn lb_crc32c_change(change: u32, len: u32) -> u32 {
    let mut value = change;
    let mut k = 0;
    while k < 16 {
        if len >> k & 1 != 0 {
            value = times(ZEROS[k & 15], value);
        }
        k += 1;
    }
    value
}

/// The checksum of a packet of so many bytes, all of them zero.
pub const fn of_zeros(len: usize) -> u32 {
    let mut reg = u32::MAX;
    let mut bit = 0;
    while bit < len * 8 {
        reg = (reg >> 1) ^ (POLY & 0u32.wrapping_sub(reg & 1));
        bit += 1;
    }
    !reg
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bit by bit, as the RFC has it.
    fn crc(bytes: &[u8]) -> u32 {
        let mut reg = u32::MAX;
        for byte in bytes {
            reg ^= u32::from(*byte);
            for _ in 0..8 {
                reg = (reg >> 1) ^ (POLY & 0u32.wrapping_sub(reg & 1));
            }
        }
        !reg
    }

    #[test]
    fn nothing_but_zeros() {
        for len in [0, 1, 16, 100] {
            assert_eq!(of_zeros(len), crc(&std::vec![0; len]));
        }
    }

    #[test]
    fn known_answer() {
        assert_eq!(crc(b"123456789"), 0xE306_9283);
    }

    proptest! {
        #[test]
        fn equals_a_new_sum(mut packet in proptest::collection::vec(any::<u8>(), 12..2000), new: [u8; 4]) {
            let before = crc(&packet);
            let old = u32::from_le_bytes([packet[0], packet[1], packet[2], packet[3]]);
            packet[..4].copy_from_slice(&new);
            let changed = lb_crc32c_change(old ^ u32::from_le_bytes(new), packet.len() as u32);
            prop_assert_eq!(before ^ changed, crc(&packet));
        }
    }
}
