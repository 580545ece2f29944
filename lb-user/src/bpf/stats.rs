//! Counters. The packet path only ever adds to them, on its own CPU; what listings show is relative to what is written
//! down here: `-Z` and deletions never touch a live counter, so no packet is lost between reading and zeroing.
//!
//! A service shows the sum of its dests' counters plus what it inherited from dests that are gone, less its base.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use aya::maps::MapData;
use lb_common::tables::Counters;

use super::pieces::Pieces;
use super::{pins, syscall};
use crate::control::model::Stats;

/// The map's name.
pub const BOOK: &str = "books";

/// What is written down about one dest or service: words, so that the kernel can keep it.
pub type Book = [u64; 10];

/// Whose book: dests by slot, services by slot with this bit.
pub const OF_SERVICE: u32 = 1 << 31;

const BASE: usize = 0;
const GONE: usize = 5;

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
        if book == [0; 10] {
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

    /// Shown from now on: what comes on top of `raw`.
    pub fn zero(&mut self, key: u32, raw: Counters) {
        let mut book = self.get(key);
        let gone = part(&book, GONE);
        set_part(&mut book, BASE, if key & OF_SERVICE == 0 { raw } else { raw.plus(gone) });
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
    pub fn read_ahead(&mut self, stats: &Pieces<MapData>, end: u32, wanted: usize) -> io::Result<()> {
        const BATCH: usize = 1024;
        if wanted < end as usize / 8 || wanted < BATCH {
            return Ok(());
        }
        let cpus = self.per_cpu.len();
        let (mut numbers, mut values) = (vec![0; BATCH], vec![Counters::default(); BATCH * cpus]);
        while self.ahead.len() < end as usize {
            let Some((piece, at)) = stats.place(self.ahead.len() as u32) else { break };
            let count = syscall::lookup_per_cpu_many(pins::fd(piece), at, &mut numbers, &mut values)?;
            if count == 0 {
                break;
            }
            self.ahead.extend(values.chunks_exact(cpus).take(count).map(sum));
        }
        Ok(())
    }

    /// A dest's counters, all CPUs together.
    pub fn read(&mut self, stats: &Pieces<MapData>, dest: u32) -> io::Result<Counters> {
        if let Some(read) = self.ahead.get(dest as usize) {
            return Ok(*read);
        }
        let Some((piece, at)) = stats.place(dest) else { return Ok(Counters::default()) };
        syscall::lookup_per_cpu(pins::fd(piece), &at, &mut self.per_cpu)?;
        Ok(sum(&self.per_cpu))
    }

    /// For slots nobody uses, of one piece: zero.
    pub fn clear(&self, stats: &Pieces<MapData>, dests: Range<u32>) -> io::Result<()> {
        let Some((piece, at)) = stats.place(dests.start) else { return Ok(()) };
        let dests: Vec<u32> = (at..).take(dests.len()).collect();
        let zero = vec![Counters::default(); dests.len() * self.per_cpu.len()];
        syscall::update_per_cpu(pins::fd(piece), &dests, &zero)
    }
}

#[cfg(test)]
mod tests {
    use super::{Books, Counters, OF_SERVICE};

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
}
