//! What the agent knows that the tables do not: which services and dests are the configuration's, and what the checks have
//! found out. In a file, so that an agent that was killed goes on where it stopped.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use super::apply::Owned;
use super::check::watch::Remembered;
use crate::control::mark;
use crate::control::model::{DestId, Family, Port, Proto, ServiceId};

/// Layout of the file.
const VERSION: u64 = 1;
/// Where it is by default; gone with the next boot, as the tables are.
const DIRECTORY: &str = "/run/lb-user";

/// The file.
#[derive(Debug)]
pub struct Memory {
    path: PathBuf,
    /// Held while the agent runs.
    _lock: Option<File>,
}

/// What is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// What is the configuration's.
    pub owned: Owned,
    /// What the checks were.
    pub checks: Remembered,
}

impl Memory {
    /// The file of the instance with its pins in `pins`, unless another is named.
    pub fn of(pins: &Path, named: Option<&Path>) -> Self {
        let own = || {
            let cookie = pins.file_name().unwrap_or_default().to_string_lossy();
            Path::new(DIRECTORY).join(format!("agent-{cookie}.json"))
        };
        Self { path: named.map_or_else(own, Path::to_owned), _lock: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As [`Memory::of`], for the one agent that may run.
    pub fn hold(pins: &Path, named: Option<&Path>) -> Result<Self> {
        let mut memory = Self::of(pins, named);
        let lock = memory.path.with_extension("lock");
        let fail = || format!("making {}", lock.display());
        if let Some(dir) = lock.parent() {
            fs::create_dir_all(dir).with_context(fail)?;
        }
        let file = File::create(&lock).with_context(fail)?;
        if file.try_lock().is_err() {
            bail!("another agent runs for this network namespace (it holds {})", lock.display());
        }
        memory._lock = Some(file);
        Ok(memory)
    }

    /// What was saved; nothing, if nothing was.
    pub fn load(&self) -> Result<Saved> {
        let foreign = "is of another version of the agent: remove it to start anew";
        let value = read(&self.path, VERSION, foreign)?;
        Ok(value.as_ref().map(Saved::from_json).unwrap_or_default())
    }

    /// Replaces it as a whole.
    pub fn save(&self, saved: &Saved) -> Result<()> {
        let fresh = self.path.with_extension("new");
        let write = || {
            let mut file = File::create(&fresh)?;
            file.write_all(saved.to_json().to_string().as_bytes())?;
            fs::rename(&fresh, &self.path)
        };
        write().with_context(|| format!("writing {}", self.path.display()))
    }

    /// Forgets everything.
    pub fn forget(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

impl Saved {
    fn to_json(&self) -> Value {
        let services = self.owned.0.iter().map(|(id, dests)| {
            let dests: Vec<String> = dests.iter().map(dest_text).collect();
            json!({ "service": service_text(id), "dests": dests })
        });
        let checks: Map<String, Value> =
            self.checks.iter().map(|(name, up)| (name.clone(), Value::from(*up))).collect();
        json!({ "version": VERSION, "services": services.collect::<Vec<_>>(), "checks": checks })
    }

    fn from_json(value: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let service = |value: Value| {
            let id = service_of(value["service"].as_str()?)?;
            let dests = list(&value["dests"]).iter().filter_map(|dest| dest_of(dest.as_str()?)).collect();
            Some((id, dests))
        };
        let owned = Owned(list(&value["services"]).into_iter().filter_map(service).collect());
        let checks = value["checks"].as_object().into_iter().flatten();
        let checks = checks.filter_map(|(name, up)| Some((name.clone(), up.as_bool()?))).collect();
        Self { owned, checks }
    }
}

/// `192.0.2.1:80`
pub(super) fn dest_text(dest: &DestId) -> String {
    SocketAddr::new(dest.addr, dest.port.host()).to_string()
}

/// The reverse of [`dest_text`].
pub(super) fn dest_of(text: &str) -> Option<DestId> {
    let end: SocketAddr = text.parse().ok()?;
    Some(DestId { addr: end.ip(), port: Port::new(end.port()) })
}

/// `6 192.0.2.1:80` (the protocol's number), `fwmark 5 inet6`.
pub(super) fn service_text(id: &ServiceId) -> String {
    match id {
        ServiceId::Addr { proto, addr, port } => {
            format!("{} {}", proto.0, SocketAddr::new(*addr, port.host()))
        }
        ServiceId::Mark { mark, family: Family::V4 } => format!("fwmark {mark} inet"),
        ServiceId::Mark { mark, family: Family::V6 } => format!("fwmark {mark} inet6"),
    }
}

/// The reverse of [`service_text`].
pub(super) fn service_of(text: &str) -> Option<ServiceId> {
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        ["fwmark", number, family] => {
            let family = if family == "inet6" { Family::V6 } else { Family::V4 };
            Some(ServiceId::Mark { mark: mark::mark(number).ok()?, family })
        }
        [proto, end] => {
            let DestId { addr, port } = dest_of(end)?;
            Some(ServiceId::Addr { proto: Proto(proto.parse().ok()?), addr, port })
        }
        _ => None,
    }
}

/// What a file of the agent's holds, if there is one. `foreign`: what to say of one with another `version`.
pub(super) fn read(path: &Path, version: u64, foreign: &str) -> Result<Option<Value>> {
    let shown = path.display();
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("reading {shown}"))?,
    };
    let value: Value = serde_json::from_slice(&text).with_context(|| format!("{shown} is no JSON"))?;
    if value["version"] != version {
        bail!("{shown} {foreign}");
    }
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_went_in() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::of(Path::new("/x/77"), Some(&dir.path().join("a.json")));
        assert_eq!(memory.load().unwrap(), Saved::default());
        let mut saved = Saved::default();
        for service in ["6 192.0.2.1:80", "17 [fd00::1]:0", "fwmark 4294967295 inet6"] {
            let dests = ["10.0.0.1:80", "[fd00::2]:0"].iter().filter_map(|dest| dest_of(dest)).collect();
            saved.owned.0.insert(service_of(service).unwrap(), dests);
        }
        saved.checks.insert("00ff".to_owned(), false);
        memory.save(&saved).unwrap();
        assert_eq!(memory.load().unwrap(), saved);
        fs::write(dir.path().join("a.json"), "{\"version\":0}").unwrap();
        assert!(memory.load().is_err());
        memory.forget().unwrap();
        assert_eq!(memory.load().unwrap(), Saved::default());
    }

    #[test]
    fn one_agent_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.json");
        let first = Memory::hold(Path::new("/x/77"), Some(&file)).unwrap();
        assert!(Memory::hold(Path::new("/x/77"), Some(&file)).is_err());
        drop(first);
        assert!(Memory::hold(Path::new("/x/77"), Some(&file)).is_ok());
    }
}
