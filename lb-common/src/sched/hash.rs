//! The hashes: the multiplicative one of dh, sh and lblc (the kernel's `hash_32`), and mh's.

/// The upper `bits` bits of `value` times the golden ratio.
#[inline(always)]
pub const fn hash32(value: u32, bits: u32) -> u32 {
    value.wrapping_mul(0x61C8_8647) >> (32 - bits)
}

/// SipHash-1-3 of the one word `value` (as the kernel's `hsiphash_1u32` on 64-bit machines), its lower half. Both key
/// words are `key`. A 32-bit kernel uses another hash here, and so another mh table.
#[inline(always)]
pub const fn siphash13(key: u32, value: u32) -> u32 {
    let key = key as u64;
    let mut v = [
        0x736f_6d65_7073_6575 ^ key,
        0x646f_7261_6e64_6f6d ^ key,
        0x6c79_6765_6e65_7261 ^ key,
        0x7465_6462_7974_6573 ^ key,
    ];
    let word = 4 << 56 | value as u64;
    v[3] ^= word;
    v = round(v);
    v[0] ^= word;
    v[2] ^= 0xff;
    v = round(round(round(v)));
    (v[0] ^ v[1] ^ v[2] ^ v[3]) as u32
}

#[inline(always)]
const fn round([mut a, mut b, mut c, mut d]: [u64; 4]) -> [u64; 4] {
    a = a.wrapping_add(b);
    b = b.rotate_left(13) ^ a;
    a = a.rotate_left(32);
    c = c.wrapping_add(d);
    d = d.rotate_left(16) ^ c;
    a = a.wrapping_add(d);
    d = d.rotate_left(21) ^ a;
    c = c.wrapping_add(b);
    b = b.rotate_left(17) ^ c;
    c = c.rotate_left(32);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::{hash32, siphash13};
    use crate::addr::Addr;

    #[test]
    fn vectors() {
        for (addr, eight, ten) in [([10, 0, 0, 1], 39, 159), ([192, 168, 1, 100], 89, 357), ([203, 0, 113, 7], 124, 499)]
        {
            assert_eq!(hash32(Addr::v4(addr).fold(), 8), eight);
            assert_eq!(hash32(Addr::v4(addr).fold(), 10), ten);
        }
        let v6 = Addr::from("2001:db8::1".parse::<core::net::IpAddr>().unwrap()).fold();
        assert_eq!((v6, hash32(v6, 8)), (0x2001_0db9, 63));
        let value = Addr::v4([10, 0, 0, 1]).fold() + 80;
        assert_eq!(siphash13(2_654_435_761, value), 1_134_300_350);
        assert_eq!(siphash13(2_654_446_892, value), 2_545_146_951);
    }
}
