//! The connection table's keyed hash: which bucket a client's flows live in.
//!
//! Clients choose its bits, so nobody without the key may be able to make a bucket full. NH (the inner hash of UMAC, Black,
//! Halevi, Krawczyk, Krovetz and Rogaway) multiplies pairs of 32-bit words, each with a secret number added: any two
//! different inputs have the same sum of products for one key in 2³² at the most, however they were chosen. The sum is
//! spread by a secret multiplier, which is universal in its upper bits (Dietzfelbinger). So two flows an attacker picks
//! share a bucket as seldom as two at random. SipHash promises more, that who sees hashes learns nothing of the key, and
//! takes ten times the instructions; nobody sees these. A bucket that is full all the same costs sixteen probes and
//! refuses newcomers: no established connection makes way.

use crate::cell::{Cell32, Cell64};

/// The key: made when the table is made, from the kernel's random source.
#[repr(C)]
#[derive(Debug)]
pub struct TableKey {
    /// Added to the words, one each.
    pub words: [Cell32; 6],
    /// What the sum is multiplied by; taken as odd.
    pub multiplier: Cell64,
}

impl TableKey {
    /// All zero.
    pub const fn new() -> Self {
        Self { words: [const { Cell32::new(0) }; 6], multiplier: Cell64::new(0) }
    }
    /// From random bytes.
    pub fn set(&self, random: &[u8; 32]) {
        let (words, _) = random.as_chunks::<4>();
        self.words.iter().zip(words).for_each(|(cell, word)| cell.store(u32::from_ne_bytes(*word)));
        let (_, multiplier) = random.split_at(24);
        self.multiplier.store(multiplier.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    /// NH of the `i`th pair of words.
    #[inline(always)]
    pub fn pair(&self, i: usize, a: u32, b: u32) -> u64 {
        let key = |i: usize| self.words[i].load();
        a.wrapping_add(key(2 * i)) as u64 * b.wrapping_add(key(2 * i + 1)) as u64
    }
    /// The hash of a sum of [`TableKey::pair`]s: its upper half is good, and as good as it gets.
    #[inline(always)]
    pub fn spread(&self, sum: u64) -> u32 {
        // What stands in the upper half alone would stay there.
        ((sum ^ sum >> 32).wrapping_mul(self.multiplier.load() | 1) >> 32) as u32
    }
}

impl Default for TableKey {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Port, Proto};
    use crate::ip::{A4, A6, Ip, V4, V6};
    use std::vec;
    use std::vec::Vec;

    /// Keys as a random source gives them.
    fn keys() -> impl Iterator<Item = TableKey> {
        let mut x = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_ne_bytes()
        };
        (0..32).map(move |_| {
            let key = TableKey::new();
            let random: Vec<u8> = (0..4).flat_map(|_| next()).collect();
            key.set(random.as_slice().try_into().expect("32 bytes"));
            key
        })
    }

    /// Of 4 flows to a bucket of 8, the buckets more than 2 x 8 flows want, and the spread of all: of random flows the
    /// sum of squared deviations is the number of flows.
    fn loads(hashes: impl Iterator<Item = u32>) -> (usize, f64) {
        const BUCKETS: u32 = 1 << 14;
        let mut loads = vec![0_u32; BUCKETS as usize];
        let mut flows = 0_u32;
        for hash in hashes {
            loads[(hash & (BUCKETS - 1)) as usize] += 1;
            flows += 1;
        }
        let mean = f64::from(flows) / f64::from(BUCKETS);
        let squares: f64 = loads.iter().map(|load| (f64::from(*load) - mean).powi(2)).sum();
        (loads.iter().filter(|load| **load > 16).count(), squares / f64::from(flows))
    }

    /// The flows of attackers who know everything but the key: few addresses with all ports, many addresses, strides.
    #[test]
    fn chosen_flows_fill_no_bucket() {
        const FLOWS: u32 = 1 << 16;
        let tcp = Proto::TCP;
        let patterns: [fn(u32) -> (u32, u16); 6] = [
            |i| (7, i as u16),
            |i| (i, 80),
            |i| (i << 16, 80),
            |i| (i << 8, (i << 8) as u16),
            |i| (i >> 8, (i << 8) as u16),
            |i| (i.wrapping_mul(0x0101_0101), i as u16),
        ];
        let (mut full, mut spread) = ([0; 2], [0.0_f64; 2]);
        for key in keys() {
            for pattern in patterns {
                let v4 = (0..FLOWS).map(|i| {
                    let (address, port) = pattern(i);
                    V4::hash(&key, &A4(address), Port::from_wire(port), tcp)
                });
                let v6 = (0..FLOWS).map(|i| {
                    let (address, port) = pattern(i);
                    let address = A6([0x20, address, address.rotate_left(7), 1]);
                    V6::hash(&key, &address, Port::from_wire(port), tcp)
                });
                for (family, (over, squares)) in [loads(v4), loads(v6)].into_iter().enumerate() {
                    full[family] += over;
                    spread[family] = spread[family].max(squares);
                }
            }
        }
        std::println!("{full:?} {spread:?}");
        // Of as many random flows some ten buckets would be full.
        assert!(full.iter().all(|full| *full < 100), "{full:?}");
        assert!(spread.iter().all(|worst| *worst < 3.0), "{spread:?}");
    }
}
