//! The archive format of initramfs, cpio's "newc", written directly: a header in hexadecimal, the name, the content,
//! each padded to four bytes.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive being written. Directories are added before what is in them.
#[derive(Debug)]
pub struct Archive<W: Write> {
    out: W,
    inode: u32,
    known: BTreeSet<String>,
}

impl Archive<BufWriter<File>> {
    /// A new file.
    pub fn create(file: &Path) -> Result<Self> {
        let opened = File::create(file).with_context(|| format!("creating {}", file.display()))?;
        Ok(Self::to(BufWriter::new(opened)))
    }

    /// At the end of an archive that is complete.
    pub fn append(file: &Path) -> Result<Self> {
        let opened = OpenOptions::new().append(true).open(file);
        Ok(Self::to(BufWriter::new(opened.with_context(|| format!("opening {}", file.display()))?)))
    }
}

impl<W: Write> Archive<W> {
    fn to(out: W) -> Self {
        Self { out, inode: 1, known: BTreeSet::new() }
    }

    /// A file with this content. Paths have no slash in front.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.known.insert(path.to_owned());
        self.entry(path, REGULAR | mode, content)
    }

    /// A copy of a file here.
    pub fn copy(&mut self, path: &str, here: &Path) -> Result<()> {
        let content = fs::read(here).with_context(|| format!("reading {}", here.display()))?;
        let mode = fs::metadata(here)?.mode() & 0o777;
        self.file(path, mode, &content)
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, to: &Path) -> Result<()> {
        self.parents(path)?;
        self.known.insert(path.to_owned());
        self.entry(path, SYMLINK | 0o777, to.as_os_str().as_bytes())
    }

    /// A directory and those it is in.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        self.parents(path)?;
        match self.known.insert(path.to_owned()) {
            true => self.entry(path, DIRECTORY | 0o755, b""),
            false => Ok(()),
        }
    }

    /// True if something of that path is in it already.
    pub fn has(&self, path: &str) -> bool {
        self.known.contains(path)
    }

    /// Completes it.
    pub fn end(mut self) -> Result<()> {
        self.entry("TRAILER!!!", 0, b"")?;
        Ok(self.out.flush()?)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.inode += 1;
        // Inode, mode, user, group, links, time, size, four device numbers, the name's length, no checksum.
        let size = u32::try_from(content.len()).with_context(|| format!("{path} is too large"))?;
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, path.len() as u32 + 1, 0];
        let header: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        write!(self.out, "070701{header}{path}\0")?;
        self.pad(110 + path.len() + 1)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, written: usize) -> Result<()> {
        Ok(self.out.write_all(&[0; 3][..written.next_multiple_of(4) - written])?)
    }
}

/// A number that changes when the file does.
pub fn stamp(file: &Path) -> Result<u64> {
    let metadata = fs::metadata(file).with_context(|| format!("looking at {}", file.display()))?;
    let mut hasher = DefaultHasher::new();
    (file, metadata.len(), metadata.mtime(), metadata.mtime_nsec()).hash(&mut hasher);
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_begin_at_multiples_of_four_and_parents_come_first() -> Result<()> {
        let mut bytes = Vec::new();
        let mut archive = Archive::to(&mut bytes);
        archive.file("a/b", 0o644, b"12345")?;
        archive.link("a/c", Path::new("b"))?;
        archive.end()?;
        let text = String::from_utf8(bytes)?;
        let at: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert!(at.iter().all(|at| at % 4 == 0), "{at:?}");
        let names: Vec<&str> = at.iter().filter_map(|at| text[at + 110..].split('\0').next()).collect();
        assert_eq!(names, ["a", "a/b", "a/c", "TRAILER!!!"]);
        Ok(())
    }
}
