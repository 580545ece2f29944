//! Which dests are being drained, and with which weight they come back. In a file beside the agent's,
//! so that it can be said with no agent running, and outlives one.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::apply::Wanted;
use super::remember::{Memory, dest_of, dest_text, read, service_of, service_text};
use crate::control::model::{DestId, ServiceId};

/// Layout of the file.
const VERSION: u64 = 1;

/// A dest of a service.
pub type Member = (ServiceId, DestId);

/// Dests that take no new connections until they are brought back, each with the weight it had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drains(pub HashMap<Member, u32>);

/// The file they are in.
#[derive(Debug)]
pub struct DrainFile {
    path: PathBuf,
}

impl Drains {
    /// What is drained gets no weight, whatever its checks say.
    pub fn hold_back(&self, wanted: &mut Wanted) {
        for (dest, conf) in &mut wanted.dests {
            if self.0.contains_key(&(wanted.id, *dest)) {
                conf.weight = 0;
            }
        }
    }

    fn to_json(&self) -> Value {
        let drain = |((service, dest), weight): (&Member, &u32)| json!({ "service": service_text(service), "dest": dest_text(dest), "weight": weight });
        json!({ "version": VERSION, "drains": self.0.iter().map(drain).collect::<Vec<_>>() })
    }

    fn from_json(value: &Value) -> Self {
        let drain = |value: &Value| {
            let member = (service_of(value["service"].as_str()?)?, dest_of(value["dest"].as_str()?)?);
            Some((member, u32::try_from(value["weight"].as_u64()?).ok()?))
        };
        Self(value["drains"].as_array().into_iter().flatten().filter_map(drain).collect())
    }
}

impl DrainFile {
    /// The one beside the agent's file.
    pub fn beside(memory: &Memory) -> Self {
        Self { path: memory.path().with_extension("drains") }
    }

    /// What is drained now; nothing, if there is no file.
    pub fn load(&self) -> Result<Drains> {
        let foreign = "is of another version of lb-user: remove it to forget what is drained";
        let value = read(&self.path, VERSION, foreign)?;
        Ok(value.as_ref().map(Drains::from_json).unwrap_or_default())
    }

    /// Changes it, one process at a time; the reader sees the old file or the new one.
    pub fn change<T>(&self, change: impl FnOnce(&mut Drains) -> Result<T>) -> Result<T> {
        let fail = || format!("writing {}", self.path.display());
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir).with_context(fail)?;
        }
        let lock = File::create(self.path.with_extension("drains-lock")).with_context(fail)?;
        lock.lock().with_context(fail)?;
        let mut drains = self.load()?;
        let done = change(&mut drains)?;
        let fresh = self.path.with_extension("drains-new");
        let write = || {
            File::create(&fresh)?.write_all(drains.to_json().to_string().as_bytes())?;
            fs::rename(&fresh, &self.path)
        };
        write().with_context(fail)?;
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn comes_back_as_it_went_in() {
        let dir = tempfile::tempdir().unwrap();
        let file = DrainFile::beside(&Memory::of(Path::new("/x/7"), Some(&dir.path().join("a.json"))));
        assert_eq!(file.load().unwrap(), Drains::default());
        let mut expected = Drains::default();
        for (service, dest, weight) in
            [("6 192.0.2.1:80", "10.0.0.1:80", 7), ("fwmark 5 inet6", "[fd00::1]:0", 0)]
        {
            let member = (service_of(service).unwrap(), dest_of(dest).unwrap());
            expected.0.insert(member, weight);
            file.change(|drains| Ok(drains.0.insert(member, weight))).unwrap();
        }
        assert_eq!(file.load().unwrap(), expected);
        // What fails changes nothing.
        let failed = file.change(|drains| -> Result<()> {
            drains.0.clear();
            anyhow::bail!("no")
        });
        assert!(failed.is_err());
        assert_eq!(file.load().unwrap(), expected);
        fs::write(dir.path().join("a.drains"), "{\"version\":0}").unwrap();
        assert!(file.load().is_err());
    }
}
