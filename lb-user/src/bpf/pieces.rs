//! Maps that grow: `lists`, `dests`, `stats` and `rates` are arrays of pieces ([`lb_common::pieces`]). Pinned are the outer map,
//! by its name, and its pieces beside it: `NAME-0`, `NAME-1` and so on.
//!
//! A piece is made and pinned when a change needs its room, and entered in the outer map before the change is published:
//! that takes the kernel some milliseconds, however many are entered at once. A command that is killed in between leaves
//! pieces that the next change enters. What has been made stays until the table is purged.

use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{MapData, MapType};

use super::bpffs::outside;
use super::create::Undo;
use super::memory::{Mapped, Shared};
use super::pins::{self, Spec};
use super::syscall;

/// Of a piece, what is kept at hand.
pub trait Piece: Sized {
    /// Makes it ready.
    fn of(map: MapData) -> Result<Self>;
}

impl<T: Shared> Piece for Mapped<T> {
    fn of(map: MapData) -> Result<Self> {
        pins::map_whole(&map)
    }
}

impl Piece for MapData {
    fn of(map: MapData) -> Result<Self> {
        Ok(map)
    }
}

/// A map of pieces.
#[derive(Debug)]
pub struct Pieces<P> {
    /// Where it is pinned; `None`: nowhere.
    dir: Option<PathBuf>,
    /// What a piece has to be.
    spec: &'static Spec,
    outer: MapData,
    /// As many as there may be, as far as they are made. One that another command has made since is opened when it is
    /// asked for.
    pieces: Vec<OnceLock<P>>,
    /// So many are there.
    made: u32,
    /// Not entered yet.
    fresh: Vec<(u32, MapData)>,
}

impl<P: Piece> Pieces<P> {
    /// Over an outer map just made, with its first piece.
    pub fn make(dir: Option<&Path>, spec: &'static Spec, outer: MapData) -> Result<Self> {
        let mut pieces = Self::empty(dir, spec, outer)?;
        pieces.grow(1)?;
        pieces.enter()?;
        Ok(pieces)
    }

    /// The same, pinned nowhere, where the first piece is there already.
    pub fn over(spec: &'static Spec, outer: MapData, first: MapData) -> Result<Self> {
        let mut pieces = Self::empty(None, spec, outer)?;
        pieces.add(first)?;
        pieces.enter()?;
        Ok(pieces)
    }

    /// Opens what is pinned.
    pub fn open(dir: &Path, spec: &'static Spec) -> Result<Self> {
        let outer = pins::rules(spec.name)?.require(dir)?;
        let mut pieces = Self::empty(Some(dir), spec, outer)?;
        while pieces.made < pieces.most()
            && let Some(piece) = pieces.open_piece(pieces.made)?
        {
            let _ = pieces.pieces[pieces.made as usize].set(P::of(piece)?);
            pieces.made += 1;
        }
        let path = dir.join(name(spec, pieces.made));
        ensure!(
            pieces.made == pieces.most() || !pieces.has(pieces.made)?,
            "{} is missing: `lb-user detach --purge` clears what is left",
            outside(&path).display()
        );
        Ok(pieces)
    }

    fn empty(dir: Option<&Path>, spec: &'static Spec, outer: MapData) -> Result<Self> {
        let most = pins::entries(&outer)?;
        let pieces = (0..most).map(|_| OnceLock::new()).collect();
        Ok(Self { dir: dir.map(Path::to_owned), spec, outer, pieces, made: 0, fresh: Vec::new() })
    }

    /// Opens a piece, if it is there.
    fn open_piece(&self, number: u32) -> Result<Option<MapData>> {
        let Some(dir) = &self.dir else { return Ok(None) };
        self.spec.open_at(&dir.join(name(self.spec, number)))
    }

    /// Is a piece entered?
    fn has(&self, number: u32) -> Result<bool> {
        let id = syscall::lookup::<u32, u32>(pins::fd(&self.outer), &number);
        Ok(id.with_context(|| format!("asking for a piece of {}", self.spec.name))?.is_some())
    }

    /// Elements of a piece.
    fn len(&self) -> lb_common::pieces::Pieces {
        lb_common::pieces::Pieces::of(self.spec.entries.unwrap_or(1))
    }

    /// How many pieces there may be.
    fn most(&self) -> u32 {
        self.pieces.len() as u32
    }

    /// How many elements are made.
    pub fn room(&self) -> u32 {
        self.len().elements(self.made)
    }

    /// A piece.
    fn piece(&self, number: u32) -> Option<&P> {
        let place = self.pieces.get(number as usize)?;
        if let Some(piece) = place.get() {
            return Some(piece);
        }
        let piece = P::of(self.open_piece(number).ok()??).ok()?;
        Some(place.get_or_init(|| piece))
    }

    /// The piece an element is in, and its number there.
    pub fn place(&self, number: u32) -> Option<(&P, u32)> {
        let (piece, at) = self.len().place(number);
        Some((self.piece(piece)?, at))
    }

    /// All pieces that are made, in order.
    pub fn all(&self) -> impl Iterator<Item = &P> {
        (0..self.most()).map_while(|number| self.piece(number))
    }

    /// How many more elements the piece has from this one on, itself counted.
    pub fn rest(&self, number: u32) -> u32 {
        let (_, at) = self.len().place(number);
        self.spec.entries.unwrap_or(1) - at
    }

    /// Makes room for so many elements, and a quarter more than there was: whoever asks will go on asking. More than there may be
    /// is for the caller not to ask for.
    pub fn grow(&mut self, elements: u32) -> Result<()> {
        let wanted = self.len().count(elements);
        if wanted <= self.made {
            return Ok(());
        }
        let ahead = wanted.max(self.made + self.made / 4).min(self.most());
        ensure!(wanted <= ahead, "{} cannot hold {elements} elements", self.spec.name);
        while self.made < ahead {
            let piece =
                self.create(self.made).with_context(|| format!("making room in {}", self.spec.name))?;
            self.add(piece)?;
        }
        Ok(())
    }

    /// A piece more, to be entered.
    fn add(&mut self, piece: MapData) -> Result<()> {
        let ready = P::of(MapData::from_fd(piece.fd().as_fd().try_clone_to_owned()?)?)?;
        let _ = self.pieces[self.made as usize].set(ready);
        self.fresh.push((self.made, piece));
        self.made += 1;
        Ok(())
    }

    fn create(&self, number: u32) -> Result<MapData> {
        let fd = self.spec.create()?;
        if let Some(dir) = &self.dir {
            syscall::pin(fd.as_fd(), &dir.join(name(self.spec, number)))?;
        }
        Ok(MapData::from_fd(fd)?)
    }

    /// Enters in the outer map what has been made since.
    pub fn enter(&mut self) -> Result<()> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        let numbers: Vec<u32> = self.fresh.iter().map(|(number, _)| *number).collect();
        let fds: Vec<u32> = self.fresh.iter().map(|(_, piece)| pins::fd(piece).as_raw_fd() as u32).collect();
        syscall::update_many(pins::fd(&self.outer), &numbers, &fds)
            .with_context(|| format!("entering pieces of {}", self.spec.name))?;
        self.fresh.clear();
        Ok(())
    }

    /// Enters what a command that was killed has made. Only who changes the table does so.
    pub fn recover(&mut self) -> Result<()> {
        for number in 0..self.made {
            if !self.has(number)?
                && let Some(piece) = self.open_piece(number)?
            {
                self.fresh.push((number, piece));
            }
        }
        self.enter()
    }
}

impl<T: Shared> Pieces<Mapped<T>> {
    /// An element. `None`: it has not been made.
    pub fn get(&self, number: u32) -> Option<&T> {
        let (piece, at) = self.place(number)?;
        piece.get(at)
    }

    /// All elements that are made.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.all().flat_map(Mapped::all)
    }

    /// So many elements from this one on, as far as they are made.
    pub fn range(&self, from: u32, count: u32) -> impl Iterator<Item = &T> {
        (from..from.saturating_add(count)).map_while(|number| self.get(number))
    }
}

/// A piece's pin.
fn name(spec: &Spec, number: u32) -> String {
    format!("{}-{number}", spec.name)
}

/// The map of the program that stands for the first piece of one, where it has such a map: packets find most of what they ask for
/// there.
pub fn first_of(map: &str) -> Option<&'static str> {
    match map {
        "lists" => Some("lists_0"),
        "dests" => Some("dests_0"),
        "stats" => Some("stats_0"),
        _ => None,
    }
}

/// Where the first piece of a map is pinned.
pub fn first_pin(dir: &Path, spec: &Spec) -> PathBuf {
    dir.join(name(spec, 0))
}

/// Makes the first piece of a map just made and pinned, if that is one of pieces.
pub fn first(dir: &Path, map: &str, outer: MapData, undo: &mut Undo) -> Result<()> {
    let Some(spec) = pins::PIECES.iter().find(|spec| spec.name == map) else { return Ok(()) };
    undo.file(first_pin(dir, spec));
    Pieces::<MapData>::make(Some(dir), spec, outer).map(drop)
}

/// Bytes of kernel memory that a map's pieces take.
pub fn memory(dir: &Path, map: &str) -> Result<u64> {
    let Some(spec) = pins::PIECES.iter().find(|spec| spec.name == map) else { return Ok(0) };
    let pieces = Pieces::<MapData>::open(dir, spec)?;
    pieces.all().map(|piece| Ok(syscall::map_memory(pins::fd(piece))?)).sum()
}

/// Removes the pieces that an interrupted try to make the table left.
pub fn remove(dir: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten() {
        if is_piece(&entry.file_name().to_string_lossy()) {
            super::create::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Is it the pin of a piece?
fn is_piece(name: &str) -> bool {
    let parts = name.rsplit_once('-');
    parts.is_some_and(|(map, number)| {
        pins::PIECES.iter().any(|spec| spec.name == map) && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The kind of a map of pieces.
pub const OUTER: MapType = MapType::ArrayOfMaps;

#[cfg(test)]
mod tests {
    use super::is_piece;

    #[test]
    fn pins_of_pieces() {
        for name in ["lists-0", "dests-12", "stats-3", "rates-100"] {
            assert!(is_piece(name), "{name}");
        }
        for name in ["lists", "settings", "link-0", "link-lists-eth0", "dests-x", "conns4-1"] {
            assert!(!is_piece(name), "{name}");
        }
    }
}
