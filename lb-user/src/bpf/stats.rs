//! Counters. The packet path only ever adds to them, on its own CPU; what listings show is relative to what is written
//! down here: `-Z` and deletions never touch a live counter, so no packet is lost between reading and zeroing.
//!
//! A service shows the sum of its dests' counters plus what it inherited from dests that are gone, less its base.
//! Rates are IPVS's estimator, advanced in whole steps of two seconds when somebody looks: the packets of a longer
//! time are spread evenly over its steps.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use lb_common::tables::Counters;

use super::syscall;
use crate::control::model::{Rates, Stats};

/// The map's name.
pub const BOOK: &str = "books";

/// What is written down about one dest or service: words, so that the kernel can keep it.
pub type Book = [u64; 21];

/// Whose book: dests by slot, services by slot with this bit.
pub const OF_SERVICE: u32 = 1 << 31;

const BASE: usize = 0;
const GONE: usize = 5;
const SEEN: usize = 10;
const EST: usize = 15;
const AT: usize = 20;
/// Seconds of an estimator step.
const STEP: u64 = 2;
/// After so many steps without a look nothing of an old estimate is left.
const FORGOTTEN: u64 = 64;

/// A part of a book.
fn part(book: &Book, from: usize) -> Counters {
    let [conns, inpkts, outpkts, inbytes, outbytes] = [0, 1, 2, 3, 4].map(|i| book[from + i]);
    Counters { conns, inpkts, outpkts, inbytes, outbytes }
}

fn set_part(book: &mut Book, from: usize, c: Counters) {
    book[from..from + 5].copy_from_slice(&[c.conns, c.inpkts, c.outpkts, c.inbytes, c.outbytes]);
}

/// All books, as they were when opened, and which have changed.
#[derive(Debug, Default)]
pub struct Books {
    books: HashMap<u32, Book>,
    dirty: Vec<u32>,
}

impl Books {
    /// Reads them.
    pub fn read(map: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { books: syscall::all(map)?.into_iter().collect(), dirty: Vec::new() })
    }

    /// One, all zero if there is none.
    pub fn get(&self, key: u32) -> Book {
        self.books.get(&key).copied().unwrap_or_default()
    }

    /// One that says nothing takes no room.
    fn put(&mut self, key: u32, book: Book) {
        if book == [0; 21] {
            return self.drop_book(key);
        }
        self.books.insert(key, book);
        self.dirty.push(key);
    }

    /// Forgets one.
    pub fn drop_book(&mut self, key: u32) {
        if self.books.remove(&key).is_some() {
            self.dirty.push(key);
        }
    }

    /// Writes what has changed.
    pub fn write(&mut self, map: BorrowedFd<'_>) -> io::Result<()> {
        let (mut keys, mut books) = (Vec::new(), Vec::new());
        for key in self.dirty.drain(..) {
            match self.books.get(&key) {
                Some(book) => {
                    keys.push(key);
                    books.push(*book);
                }
                None => syscall::delete(map, &key)?,
            }
        }
        syscall::update_many(map, &keys, &books)
    }

    /// Shown from now on: what comes on top of `raw`. Rates fall to 0.
    pub fn zero(&mut self, key: u32, raw: Counters) {
        let mut book = self.get(key);
        let gone = part(&book, GONE);
        set_part(&mut book, BASE, if key & OF_SERVICE == 0 { raw } else { raw.plus(gone) });
        book[SEEN..].fill(0);
        self.put(key, book);
    }

    /// A service's dest goes, with these counters: the service keeps them.
    pub fn inherit(&mut self, service: u32, raw: Counters) {
        let mut book = self.get(service | OF_SERVICE);
        let gone = part(&book, GONE).plus(raw);
        set_part(&mut book, GONE, gone);
        self.put(service | OF_SERVICE, book);
    }

    /// A dest with these counters comes back to its service, or comes to a new one that is not to show them.
    pub fn disinherit(&mut self, service: u32, raw: Counters) {
        let mut book = self.get(service | OF_SERVICE);
        let gone = part(&book, GONE).since(raw);
        set_part(&mut book, GONE, gone);
        self.put(service | OF_SERVICE, book);
    }

    /// What a listing shows of counters that stand at `raw` (a service's: the sum over its dests).
    pub fn shown(&self, key: u32, raw: Counters) -> Stats {
        let book = self.get(key);
        let c = raw.plus(part(&book, GONE)).since(part(&book, BASE));
        Stats {
            conns: c.conns,
            inpkts: c.inpkts,
            outpkts: c.outpkts,
            inbytes: c.inbytes,
            outbytes: c.outbytes,
        }
    }

    /// The rates now: the estimator is advanced if two seconds have passed since it last was.
    pub fn rates(&mut self, key: u32, shown: &Stats, now: u32) -> Rates {
        let counters = [shown.conns, shown.inpkts, shown.outpkts, shown.inbytes, shown.outbytes];
        let known = self.books.get(&key).is_some_and(|book| book[AT] != 0);
        if !known && counters == [0; 5] {
            return Rates::default();
        }
        let mut book = self.get(key);
        if advance(&mut book, counters, u64::from(now)) {
            self.put(key, book);
        }
        let shift = |i: usize| if i < 3 { (511, 10) } else { (15, 5) };
        let [cps, inpps, outpps, inbps, outbps] = [0, 1, 2, 3, 4].map(|i| {
            let (round, by) = shift(i);
            (book[EST + i] + round) >> by
        });
        Rates { cps, inpps, outpps, inbps, outbps }
    }
}

/// True if the book has changed.
fn advance(book: &mut Book, counters: [u64; 5], now: u64) -> bool {
    if book[AT] == 0 || now < book[AT] {
        book[AT] = now;
        book[SEEN..SEEN + 5].copy_from_slice(&counters);
        return true;
    }
    let steps = (now - book[AT]) / STEP;
    if steps == 0 {
        return false;
    }
    for (i, counter) in counters.into_iter().enumerate() {
        let delta = counter.saturating_sub(book[SEEN + i]);
        let scale = if i < 3 { 9 } else { 4 };
        let rate = (u128::from(delta) << scale) / u128::from(steps);
        let mut est = i128::from(book[EST + i]);
        for _ in 0..steps.min(FORGOTTEN) {
            est += (rate as i128 - est) >> 2;
        }
        book[EST + i] = u64::try_from(est.max(0)).unwrap_or(u64::MAX);
        book[SEEN + i] = counter;
    }
    book[AT] += steps * STEP;
    true
}

/// Reads the counters in the kernel.
#[derive(Debug)]
pub struct Meter {
    per_cpu: Vec<Counters>,
    /// What was read ahead, all CPUs together, by slot.
    ahead: Vec<Counters>,
}

fn sum(per_cpu: &[Counters]) -> Counters {
    per_cpu.iter().fold(Counters::default(), |sum, one| sum.plus(*one))
}

impl Meter {
    /// With room for every CPU's copy.
    pub fn new() -> io::Result<Self> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        Ok(Self { per_cpu: vec![Counters::default(); cpus], ahead: Vec::new() })
    }

    /// Prepares for `wanted` dests among the first `end` slots: where most of them are asked for, they are read at once,
    /// which takes a tenth of the time.
    pub fn read_ahead(&mut self, map: BorrowedFd<'_>, end: u32, wanted: usize) -> io::Result<()> {
        const BATCH: usize = 1024;
        if wanted < end as usize / 8 || wanted < BATCH {
            return Ok(());
        }
        let cpus = self.per_cpu.len();
        let (mut numbers, mut values) = (vec![0; BATCH], vec![Counters::default(); BATCH * cpus]);
        while self.ahead.len() < end as usize {
            let from = self.ahead.len() as u32;
            let count = syscall::lookup_per_cpu_many(map, from, &mut numbers, &mut values)?;
            if count == 0 {
                break;
            }
            self.ahead.extend(values.chunks_exact(cpus).take(count).map(sum));
        }
        Ok(())
    }

    /// A dest's counters, all CPUs together.
    pub fn read(&mut self, map: BorrowedFd<'_>, dest: u32) -> io::Result<Counters> {
        if let Some(read) = self.ahead.get(dest as usize) {
            return Ok(*read);
        }
        syscall::lookup_per_cpu(map, &dest, &mut self.per_cpu)?;
        Ok(sum(&self.per_cpu))
    }

    /// For slots nobody uses: zero.
    pub fn clear(&self, map: BorrowedFd<'_>, dests: Range<u32>) -> io::Result<()> {
        let dests: Vec<u32> = dests.collect();
        syscall::update_per_cpu(map, &dests, &vec![Counters::default(); dests.len() * self.per_cpu.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::{Book, Books, Counters, EST, OF_SERVICE, advance};

    fn counters(n: u64) -> Counters {
        Counters { conns: n, inpkts: 2 * n, outpkts: 0, inbytes: 100 * n, outbytes: 0 }
    }

    #[test]
    fn zeroing_and_dests_that_go() {
        let mut books = Books::default();
        assert_eq!(books.shown(7, counters(5)).conns, 5);
        books.zero(7, counters(5));
        assert_eq!(books.shown(7, counters(6)).inbytes, 100);
        // The service: two dests with 5 and 3, one goes, comes back, and goes on counting.
        let service = 1 | OF_SERVICE;
        assert_eq!(books.shown(service, counters(8)).conns, 8);
        books.inherit(1, counters(3));
        assert_eq!(books.shown(service, counters(5)).conns, 8);
        books.zero(service, counters(5));
        assert_eq!(books.shown(service, counters(6)).conns, 1);
        books.disinherit(1, counters(3));
        assert_eq!(books.shown(service, counters(6 + 3)).conns, 1);
    }

    #[test]
    fn the_estimator_is_the_kernels() {
        let mut book: Book = [0; 21];
        advance(&mut book, [0; 5], 100);
        // 20 connections in two seconds are 10 a second: a quarter of that at first.
        assert!(advance(&mut book, [20, 0, 0, 0, 0], 102));
        assert_eq!((book[EST] + 511) >> 10, 2);
        assert!(!advance(&mut book, [25, 0, 0, 0, 0], 103));
        for step in 1..40 {
            advance(&mut book, [20 + 20 * step, 0, 0, 0, 0], 102 + 2 * step);
        }
        assert_eq!((book[EST] + 511) >> 10, 10);
    }
}
