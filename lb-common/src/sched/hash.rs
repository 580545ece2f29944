//! The hashes: the multiplicative one of dh, sh and lblc (the kernel's `hash_32`), and mh's.

use crate::siphash::{self, Key};

/// The upper `bits` bits of `value` times the golden ratio.
#[inline(always)]
pub const fn hash32(value: u32, bits: u32) -> u32 {
    value.wrapping_mul(0x61C8_8647) >> (32 - bits)
}

/// mh's hash of one word (the kernel's `hsiphash_1u32` on 64-bit machines): the lower half of SipHash-1-3 with both key
/// words `key`. A 32-bit kernel uses another hash here, and so has other mh tables.
#[inline(always)]
pub fn siphash32(key: u32, value: u32) -> u32 {
    siphash::short(Key(key as u64, key as u64), value as u64, 4) as u32
}

#[cfg(test)]
mod tests {
    use super::{hash32, siphash32};
    use crate::addr::Addr;

    #[test]
    fn vectors() {
        for (addr, eight, ten) in
            [([10, 0, 0, 1], 39, 159), ([192, 168, 1, 100], 89, 357), ([203, 0, 113, 7], 124, 499)]
        {
            assert_eq!(hash32(Addr::v4(addr).fold(), 8), eight);
            assert_eq!(hash32(Addr::v4(addr).fold(), 10), ten);
        }
        let v6 = Addr::from("2001:db8::1".parse::<core::net::IpAddr>().unwrap()).fold();
        assert_eq!((v6, hash32(v6, 8)), (0x2001_0db9, 63));
        let value = Addr::v4([10, 0, 0, 1]).fold() + 80;
        assert_eq!(siphash32(2_654_435_761, value), 1_134_300_350);
        assert_eq!(siphash32(2_654_446_892, value), 2_545_146_951);
    }
}
