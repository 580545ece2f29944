//! `lb-user sysctl`: IPVS's sysctls, `net.ipv4.vs.*`. They are kept with the tables, not in `/proc/sys`.

use std::io::Write as _;

use anyhow::Result;

use super::Pins;
use crate::control::refusal::Refusal;
use crate::control::store::Store;
use crate::control::sysctl::{ALL, PREFIX, Sysctls, find};

/// List or set IPVS's sysctls (net.ipv4.vs.*)
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Which, with or without net.ipv4.vs.; with a value: set it [default: list all]
    #[arg(value_name = "NAME[=VALUE]")]
    pub words: Vec<String>,
    /// Where the tables are pinned.
    #[command(flatten)]
    pub pins: Pins,
}

/// Sets some: all of them or, if one is wrong, none. What there is to say about it, a line each.
pub fn set(store: &mut impl Store, words: &[(usize, String)]) -> Result<Vec<String>, Refusal> {
    let mut said: Vec<String> = Vec::new();
    store.change_sysctls(&mut |all| {
        let mut new = *all;
        said.clear();
        for (at, value) in words {
            let remark = new.set(*at, value)?;
            said.extend(remark.filter(|remark| !said.contains(remark)));
        }
        *all = new;
        Ok(())
    })?;
    Ok(said)
}

/// `NAME=VALUE` or `NAME`.
pub fn read(word: &str) -> Result<(usize, Option<String>), Refusal> {
    match word.split_once('=') {
        Some((name, value)) => Ok((find(name.trim())?, Some(value.trim().to_owned()))),
        None => Ok((find(word)?, None)),
    }
}

/// Does it.
pub fn run(args: &Args) -> Result<()> {
    let mut store = super::open_store_at(&args.pins)?;
    let words = args.words.iter().map(|word| read(word)).collect::<Result<Vec<_>, _>>()?;
    let values: Vec<(usize, String)> =
        words.iter().filter_map(|(at, value)| Some((*at, value.clone()?))).collect();
    if !values.is_empty() {
        for line in set(&mut store, &values)? {
            eprintln!("{line}");
        }
    }
    let all = store.sysctls()?;
    let wanted: Vec<usize> =
        if words.is_empty() { (0..ALL.len()).collect() } else { words.iter().map(|(at, _)| *at).collect() };
    Ok(std::io::stdout().write_all(list(&all, &wanted).as_bytes())?)
}

fn list(all: &Sysctls, wanted: &[usize]) -> String {
    wanted.iter().map(|at| format!("{PREFIX}{} = {}\n", ALL[*at].name, all.text(*at))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::memory::MemoryStore;

    #[test]
    fn all_or_none() {
        let mut store = MemoryStore::default();
        let words = |line: &str| -> Vec<(usize, String)> {
            line.split(' ').filter_map(|word| read(word).ok()).filter_map(|(at, v)| Some((at, v?))).collect()
        };
        assert!(set(&mut store, &words("sloppy_tcp=1 drop_packet=4")).is_err());
        assert_eq!(store.sysctls(), Ok(Sysctls::default()));
        assert_eq!(
            set(&mut store, &words("sloppy_tcp=1 conntrack=1 conntrack=1")).map(|said| said.len()),
            Ok(1)
        );
        assert_eq!(store.sysctls().map(|all| all.get("sloppy_tcp")), Ok(1));
    }
}
