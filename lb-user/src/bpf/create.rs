//! The object file: creating maps from it, loading its programs.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Map, MapData, ProgramArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::request::{Request, status, verb};
use lb_common::settings::Settings;
use lb_common::tables::LAYOUT;

use super::clock;
use super::pins::{self, BOOKS, RULES, Spec, TRAFFIC, traffic};
use super::sizes::{RuleSizes, Sizes};
use super::{buckets, local, output, pieces, said, syscall};
use crate::program::{self, PROGRAM};

/// Files made so far; gone again unless all went well.
#[derive(Debug, Default)]
pub struct Undo {
    made: Vec<PathBuf>,
}

impl Undo {
    /// Pins something, for now.
    pub fn pin(&mut self, object: std::os::fd::BorrowedFd<'_>, path: PathBuf) -> Result<()> {
        syscall::pin(object, &path).with_context(|| format!("pinning {}", path.display()))?;
        self.made.push(path);
        Ok(())
    }
    /// A file that was made.
    pub fn file(&mut self, path: PathBuf) {
        self.made.push(path);
    }
    /// A directory that was made.
    pub fn directory(&mut self, path: &Path) {
        self.made.insert(0, path.to_owned());
    }
    /// All went well.
    pub fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            // What cannot be removed stays; the error that led here is the one to tell.
            let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
        }
    }
}

fn object() -> Result<&'static [u8]> {
    ensure!(!PROGRAM.is_empty(), "this program was built without the packet path (LB_SKIP_BPF)");
    Ok(PROGRAM)
}

/// Makes the maps of the rules, with IPVS's defaults in them. What an interrupted try left is replaced.
pub fn rules(dir: &Path, sizes: &RuleSizes, undo: &mut Undo) -> Result<()> {
    for spec in RULES.iter().chain([&BOOKS]) {
        remove(&dir.join(spec.name))?;
    }
    pieces::remove(dir)?;
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    for spec in &RULES {
        if let Some(size) = sizes.of_map(spec.name) {
            loader.map_max_entries(spec.name, size);
        }
    }
    let mut made = loader.load(object()?).context("creating the tables")?;
    let size = sizes.of_map(BOOKS.name).unwrap_or_default();
    let books = syscall::create_hash(BOOKS.name, 4, size_of::<super::stats::Book>() as u32, size)
        .context("creating the table of counters")?;
    undo.pin(books.as_fd(), dir.join(BOOKS.name))?;
    for spec in &RULES {
        let map = take(&mut made, spec.name)?;
        if spec.name == "settings" {
            first_settings(&map)?;
        }
        undo.pin(pins::fd(&map), dir.join(spec.name))?;
        pieces::first(dir, spec.name, map, undo)?;
    }
    Ok(())
}

fn first_settings(map: &MapData) -> Result<()> {
    let mapped = pins::map::<Settings>(map, 1)?;
    let settings = mapped.get(0).context("the settings map is empty")?;
    settings.set_defaults(clock::hz());
    let (mut secret, mut key) = ([0u8; 16], [0u8; 32]);
    for random in [&mut secret[..], &mut key] {
        rustix::rand::getrandom(random, rustix::rand::GetRandomFlags::empty())
            .context("asking for randomness")?;
    }
    settings.table_key.set(&key);
    for (cell, bytes) in settings.secret.iter().zip(secret.as_chunks::<4>().0) {
        cell.store(u32::from_ne_bytes(*bytes));
    }
    settings.layout.store(LAYOUT);
    Ok(())
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<MapData> {
    match ebpf.take_map(name) {
        Some(
            Map::Array(map)
            | Map::HashMap(map)
            | Map::PerCpuArray(map)
            | Map::ArrayOfMaps(map)
            | Map::LruHashMap(map)
            | Map::DevMapHash(map),
        ) => Ok(map),
        _ => bail!("the program has no map {name}"),
    }
}

/// Removes a file, if it is there.
pub fn remove(path: &Path) -> Result<()> {
    let removed = match fs::remove_file(path) {
        // Not one of ours, but in the way.
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::remove_dir(path),
        other => other,
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Loads the programs over the pinned maps; makes maps of traffic that are missing. With them the map of the programs
/// that `lb` ends in.
pub fn programs(dir: &Path, sizes: &Sizes, undo: &mut Undo) -> Result<(Ebpf, ProgramArray<MapData>)> {
    let (mask_v4, mask_v6) = (sizes.buckets_v4 - 1, sizes.buckets_v6 - 1);
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    loader.override_global("BUCKET_MASK_V4", &mask_v4, true);
    loader.override_global("BUCKET_MASK_V6", &mask_v6, true);
    let cookie = syscall::netns_cookie().context("asking for the network namespace's number")?;
    loader.override_global("NETNS_COOKIE", &cookie, true);
    let mut missing: Vec<&Spec> = Vec::new();
    if traffic("conns6")?.open(dir)?.is_none() {
        let outer = buckets::outer(sizes.buckets_v6).context("creating the map for connections of IPv6")?;
        undo.pin(outer.as_fd(), dir.join("conns6"))?;
    }
    for spec in RULES.iter().chain(&TRAFFIC) {
        if let Some(size) = sizes.of_map(spec.name) {
            loader.map_max_entries(spec.name, size);
        }
        if spec.open(dir)?.is_some() {
            loader.map_pin_path(spec.name, dir.join(spec.name));
            if let Some(first) = pieces::first_of(spec.name) {
                loader.map_pin_path(first, pieces::first_pin(dir, spec));
            }
        } else {
            missing.push(spec);
        }
    }
    let mut ebpf = loader.load(object()?).context("creating the connection tables")?;
    let hooks = local::programs();
    let others = [output::PROGRAM, "lb_control", "lb_copies", "lb_copy"].into_iter();
    let others: Vec<&str> = others.chain(hooks.iter().map(String::as_str)).collect();
    let stages = program::load_stages(&mut ebpf, &others)?;
    for spec in missing {
        let map = take(&mut ebpf, spec.name)?;
        undo.pin(pins::fd(&map), dir.join(spec.name))?;
    }
    Ok((ebpf, stages))
}

/// Loads the program for real servers, which shares no table with the balancer.
pub fn realserver() -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().btf(None).load(object()?).context("reading the program")?;
    program::load(&mut ebpf, &["lb_realserver"])?;
    Ok(ebpf)
}

/// One of the programs.
fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("there is no program {name}"))?;
    program.try_into().with_context(|| format!("{name} is no XDP program"))
}

/// Has the loaded program take over the expiry sweep.
pub fn start_sweep(ebpf: &mut Ebpf) -> Result<()> {
    let request = Request::bytes(verb::START_SWEEP, 0, 0);
    let options = TestRunOptions { data_in: Some(&request), ..TestRunOptions::new() };
    let answer =
        xdp(ebpf, "lb_control")?.test_run(options).context("asking for the expiry sweep")?.return_value;
    ensure!(answer == status::DONE, "the expiry sweep did not start: {}", said::by_loaded(ebpf));
    Ok(())
}
