//! SipHash-1-3 (Aumasson and Bernstein): the keyed hash of the connection table. Its bits are chosen by clients, so
//! a hash without a secret key would let one of them fill a bucket.

/// The secret: made when the table is made, from the kernel's random source.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key(pub u64, pub u64);

/// A hash under way, over whole words.
#[repr(C, align(8))]
#[derive(Debug)]
pub struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    /// Of nothing yet.
    #[inline(always)]
    pub fn new(key: Key) -> Self {
        Self {
            v0: key.0 ^ 0x736f_6d65_7073_6575,
            v1: key.1 ^ 0x646f_7261_6e64_6f6d,
            v2: key.0 ^ 0x6c79_6765_6e65_7261,
            v3: key.1 ^ 0x7465_6462_7974_6573,
        }
    }
    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }
    /// Takes in eight bytes, the first in the lowest bits.
    #[inline(always)]
    pub fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }
    /// The hash. The last word taken in has to tell the length.
    #[inline(always)]
    pub fn finish(mut self) -> u64 {
        self.v2 ^= 0xff;
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}

/// Over fewer than eight bytes, given as the last block: `word`'s low bytes, `len` in the top byte.
#[inline(always)]
pub fn short(key: Key, word: u64, len: u8) -> u64 {
    let mut s = State::new(key);
    s.absorb((word & 0x00ff_ffff_ffff_ffff) | ((len as u64) << 56));
    s.finish()
}

/// Over two whole words and a short rest, as in [`short`].
#[inline(always)]
pub fn long(key: Key, words: [u64; 2], rest: u64, len: u8) -> u64 {
    let mut s = State::new(key);
    s.absorb(words[0]);
    s.absorb(words[1]);
    s.absorb((rest & 0x00ff_ffff_ffff_ffff) | ((len as u64) << 56));
    s.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From ipvs.md 3.5: mh hashes a 4-byte value under both key words equal.
    #[test]
    fn kernel_vectors() {
        let key = |k: u32| Key(k as u64, k as u64);
        let value = u32::from_be_bytes([10, 0, 0, 1]).wrapping_add(80) as u64;
        assert_eq!(short(key(0x9E37_79B1), value, 4) as u32, 1_134_300_350);
        assert_eq!(short(key(0x9E37_A52C), value, 4) as u32, 2_545_146_951);
    }
}
