//! The process of a sync daemon: started beside whoever asks for it, found again by a file it holds locked, stopped by a
//! signal. One of each role in a network namespace.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};
use tracing::warn;

use super::asker::Asker;
use super::backup::Backup;
use super::master::Master;
use super::resync::{self, Counts, Offer};
use super::socket;
use super::tables::Tables;
use crate::bpf::syscall;
use crate::control::model::{DaemonRow, Port, Resync, Role};
use crate::control::refusal::Refusal;

/// Where the files are; gone with the next boot, as the tables are.
const DIRECTORY: &str = "/run/lb-user";
/// The verb this program runs as a daemon.
pub const VERB: &str = "sync-daemon";
/// What a daemon says when it is at work.
const READY: &str = "ready";
/// How long a daemon may take to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages taken from one source before another has its turn.
const SHARE: usize = 64;
/// Messages sent without a pause, and the pause: what receivers have room for.
const BURST: usize = 32;
const BREATH: Duration = Duration::from_millis(2);

/// What a daemon is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// As `--start-daemon` has it.
    pub daemon: DaemonRow,
    /// Where the tables are pinned, if not where they usually are.
    pub bpffs: Option<PathBuf>,
}

impl Options {
    /// As words after the verb.
    fn words(&self) -> Vec<String> {
        let DaemonRow { role, interface, syncid, maxlen, group, port, ttl, resync } = &self.daemon;
        let mut words = vec![role.name().to_owned()];
        let mut add = |name: &str, value: String| words.extend([format!("--{name}"), value]);
        add("interface", interface.clone());
        add("syncid", syncid.to_string());
        add("maxlen", maxlen.to_string());
        add("group", group.to_string());
        add("port", port.host().to_string());
        add("ttl", ttl.to_string());
        if let Some(bpffs) = &self.bpffs {
            add("bpffs", bpffs.display().to_string());
        }
        if let Some(Resync { key, port, peer }) = resync {
            add("resync-key", key.display().to_string());
            add("resync-port", port.to_string());
            if let Some(peer) = peer {
                add("resync-peer", peer.to_string());
            }
        }
        words
    }
}

/// The files of a role in this network namespace.
#[derive(Clone, Debug)]
struct Files {
    state: PathBuf,
    lock: PathBuf,
}

impl Files {
    fn of(role: Role) -> Result<Self> {
        let cookie = syscall::netns_cookie().context("asking for the network namespace's number")?;
        let file = |kind: &str| Path::new(DIRECTORY).join(format!("sync-{}-{cookie}.{kind}", role.name()));
        Ok(Self { state: file("json"), lock: file("lock") })
    }

    /// Holds the lock. `None`: somebody else does. Whoever looks whether a daemon runs has it for a moment.
    fn hold(&self) -> Result<Option<File>> {
        let fail = || format!("making {}", self.lock.display());
        fs::create_dir_all(DIRECTORY).with_context(fail)?;
        let file = File::create(&self.lock).with_context(fail)?;
        for _ in 0..20 {
            if file.try_lock().is_ok() {
                return Ok(Some(file));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(None)
    }

    fn is_held(&self) -> bool {
        File::open(&self.lock).is_ok_and(|file| file.try_lock_shared().is_err())
    }

    fn write(&self, state: &Value) -> Result<()> {
        let fresh = self.state.with_extension("new");
        let write = || {
            File::create(&fresh)?.write_all(state.to_string().as_bytes())?;
            fs::rename(&fresh, &self.state)
        };
        write().with_context(|| format!("writing {}", self.state.display()))
    }
}

/// A daemon that runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// What it was asked to do.
    pub daemon: DaemonRow,
    /// Its process.
    pub pid: i32,
    /// What it has counted.
    pub counts: Value,
}

impl Running {
    fn from_json(role: Role, state: &Value) -> Option<Self> {
        let number = |name: &str| state[name].as_u64();
        let daemon = DaemonRow {
            role,
            interface: state["interface"].as_str()?.to_owned(),
            syncid: number("syncid")?.try_into().ok()?,
            maxlen: number("maxlen")?.try_into().ok()?,
            group: state["group"].as_str()?.parse().ok()?,
            port: Port::new(number("port")?.try_into().ok()?),
            ttl: number("ttl")?.try_into().ok()?,
            resync: resync_of(&state["resync"]),
        };
        Some(Self { daemon, pid: number("pid")?.try_into().ok()?, counts: state["counts"].clone() })
    }

    /// Its role, and what there is to know, for programs.
    pub fn json(&self) -> (String, Value) {
        let state = json!({ "pid": self.pid, "interface": self.daemon.interface, "counts": self.counts });
        (self.daemon.role.name().to_owned(), state)
    }

    /// The same for people: what is not zero.
    pub fn text(&self) -> String {
        let mut text = format!("sync {} on {}:", self.daemon.role.name(), self.daemon.interface);
        let faults = self.counts["faults"].as_object();
        let counts = self.counts.as_object().into_iter().chain(faults).flatten();
        let mut nothing = true;
        for (name, count) in counts.filter(|(_, count)| count.as_u64().is_some_and(|count| count != 0)) {
            text += &format!("{} {name} {count}", if nothing { "" } else { "," });
            nothing = false;
        }
        if nothing { text + " nothing yet" } else { text }
    }
}

fn resync_of(state: &Value) -> Option<Resync> {
    Some(Resync {
        key: state["key"].as_str()?.into(),
        port: state["port"].as_u64()?.try_into().ok()?,
        peer: state["peer"].as_str().and_then(|peer| peer.parse().ok()),
    })
}

fn state_of(daemon: &DaemonRow, counts: &Value) -> Value {
    let resync = daemon.resync.as_ref();
    json!({
        "pid": std::process::id(),
        "interface": daemon.interface,
        "syncid": daemon.syncid,
        "maxlen": daemon.maxlen,
        "group": daemon.group.to_string(),
        "port": daemon.port.host(),
        "ttl": daemon.ttl,
        "resync": resync.map(|Resync { key, port, peer }| json!({ "key": key, "port": port, "peer": peer })),
        "counts": counts,
    })
}

/// The daemon of this role, if one runs. One that was killed does not.
pub fn find(role: Role) -> Result<Option<Running>> {
    let files = Files::of(role)?;
    if !files.is_held() {
        return Ok(None);
    }
    let Ok(text) = fs::read(&files.state) else { return Ok(None) };
    let state: Value = serde_json::from_slice(&text).unwrap_or_default();
    Ok(Running::from_json(role, &state))
}

/// All that run, the master first.
pub fn all() -> Result<Vec<Running>> {
    let found = [find(Role::Master)?, find(Role::Backup)?];
    Ok(found.into_iter().flatten().collect())
}

/// Stops all that run.
pub fn stop_all() -> Result<(), Refusal> {
    all()?.into_iter().try_for_each(|running| stop(running.daemon.role))
}

/// Starts a daemon beside this process, and returns when it is at work, or has said why not. Who lives as long as the daemon
/// does has nothing left of it when it ends.
pub fn start(options: &Options) -> Result<(), Refusal> {
    if find(options.daemon.role)?.is_some() {
        return Err(Refusal::DaemonRuns);
    }
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(program);
    command.arg(VERB).args(options.words()).arg("--detached").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().context("starting the daemon's process")?;
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut said).context("hearing from the daemon")?;
    }
    if said.trim_end() == READY {
        std::thread::spawn(move || child.wait());
        return Ok(());
    }
    let _ = child.wait();
    let why = said.trim_end();
    Err(Refusal::Failed(if why.is_empty() { "the daemon ended at once" } else { why }.to_owned()))
}

/// Stops the daemon of this role, and returns when it has ended.
pub fn stop(role: Role) -> Result<(), Refusal> {
    let Some(running) = find(role)? else { return Err(Refusal::NoDaemon) };
    let pid = Pid::from_raw(running.pid).ok_or(Refusal::NoDaemon)?;
    let process = pidfd_open(pid, PidfdFlags::empty()).context("reaching the daemon's process")?;
    // Its number may have become another's before it was reached.
    if find(role)?.is_none_or(|now| now.pid != running.pid) {
        return Err(Refusal::NoDaemon);
    }
    end(&process, role)
}

fn end(process: &OwnedFd, role: Role) -> Result<(), Refusal> {
    pidfd_send_signal(process, Signal::TERM).context("stopping the daemon")?;
    let files = Files::of(role)?;
    let until = Instant::now() + PATIENCE;
    while files.is_held() {
        if Instant::now() > until {
            pidfd_send_signal(process, Signal::KILL).context("killing the daemon")?;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Is the daemon, until told to stop. `detached`: says on standard output when it is at work, then lets go of its terminal.
pub fn run(options: &Options, detached: bool) -> Result<()> {
    let files = Files::of(options.daemon.role)?;
    let Some(_lock) = files.hold()? else { bail!(Refusal::DaemonRuns) };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    let done = runtime.block_on(async {
        let mut daemon = Daemon::open(options, files.clone())?;
        daemon.save()?;
        if detached {
            detach()?;
        }
        daemon.work().await
    });
    let _ = fs::remove_file(&files.state);
    done
}

/// Tells whoever waits, and belongs to nobody from then on.
fn detach() -> Result<()> {
    println!("{READY}");
    std::io::stdout().flush().context("saying so")?;
    // A leader of its own session already is on its own.
    let _ = rustix::process::setsid();
    let null = File::options().read(true).write(true).open("/dev/null").context("opening /dev/null")?;
    rustix::stdio::dup2_stdout(null.as_fd()).context("letting go of standard output")?;
    Ok(())
}

/// What it does.
enum Work {
    Master(Box<Master>),
    /// With who asks masters for everything, and how often the tables had been opened when it was last told of that.
    Backup(Box<Backup>, Option<Box<Asker>>, u64),
}

struct Daemon {
    row: DaemonRow,
    /// Of full resync, if there is any.
    resync: Option<Arc<Counts>>,
    files: Files,
    sockets: Vec<UdpSocket>,
    work: Work,
    /// What was written last.
    saved: Value,
    /// When a master looks next.
    due: Instant,
}

impl Daemon {
    fn open(options: &Options, files: Files) -> Result<Self> {
        let row = options.daemon.clone();
        let mut tables = Tables::new(options.bpffs.clone());
        tables.look()?;
        let sysctls = tables.sysctls();
        let ports = sysctls.get("sync_ports").clamp(1, 64) as u16;
        let size = sysctls.get("sync_sock_size").max(0) as u32;
        let open = match row.role {
            Role::Master => socket::sender,
            Role::Backup => socket::receiver,
        };
        let sockets = (0..ports).map(|n| Ok(UdpSocket::from_std(open(&row, n, size)?.into())?));
        let sockets = sockets.collect::<Result<Vec<_>>>()?;
        let asked = row.resync.as_ref().map(resync::Options::read).transpose()?;
        let resync = asked.as_ref().map(|_| Arc::<Counts>::default());
        let both = asked.zip(resync.clone());
        let work = match row.role {
            Role::Master => {
                if let Some((resync, counts)) = both {
                    let (interface, syncid, bpffs) =
                        (row.interface.clone(), row.syncid, options.bpffs.clone());
                    resync::serve(Offer { interface, syncid, bpffs }, resync, counts)?;
                }
                let mut master = Master::new(row.syncid, row.maxlen, sockets.len(), tables);
                master.second()?;
                Work::Master(Box::new(master))
            }
            Role::Backup => {
                let asker =
                    both.map(|(resync, counts)| Box::new(Asker::new(resync, row.interface.clone(), counts)));
                Work::Backup(Box::new(Backup::new(row.syncid, tables)), asker, 0)
            }
        };
        Ok(Self { row, resync, files, sockets, work, saved: Value::Null, due: Instant::now() })
    }

    /// Writes down what has been counted, if that has changed.
    fn save(&mut self) -> Result<()> {
        let mut counts = match &self.work {
            Work::Master(master) => master.to_json(),
            Work::Backup(backup, ..) => backup.to_json(),
        };
        let resync = self.resync.as_ref().map(|counts| counts.to_json());
        if let (Some(Value::Object(more)), Some(all)) = (resync, counts.as_object_mut()) {
            all.extend(more);
        }
        if counts != self.saved {
            self.files.write(&state_of(&self.row, &counts))?;
            self.saved = counts;
        }
        Ok(())
    }

    async fn work(&mut self) -> Result<()> {
        let on = |kind| signal(kind).context("listening for signals");
        let (mut term, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
        let _hangup = on(SignalKind::hangup())?;
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // What is waited for may be given up at any moment; what is done then is done to its end.
            let wake = tokio::select! {
                _ = term.recv() => break,
                _ = interrupt.recv() => break,
                _ = seconds.tick() => Wake::Second,
                wake = wait(&mut self.work, &self.sockets, self.due) => wake,
            };
            self.act(wake).await;
        }
        if let Work::Backup(backup, ..) = &self.work {
            backup.rest();
        }
        Ok(())
    }

    async fn act(&mut self, wake: Wake) {
        match (wake, &mut self.work) {
            (Wake::Second, _) => self.second(),
            (Wake::Look, Work::Master(master)) => {
                let pause = tell(master, &self.sockets).await;
                self.due = Instant::now() + pause;
            }
            (Wake::Socket, Work::Backup(backup, asker, _)) => {
                heard(backup, asker.as_deref_mut(), &self.sockets, self.row.maxlen);
            }
            (Wake::Told(message), Work::Backup(backup, Some(asker), _)) => told(backup, asker, message),
            _ => {}
        }
    }

    fn second(&mut self) {
        let done = match &mut self.work {
            Work::Master(master) => {
                // An idle one is to be found too.
                if self.resync.is_some()
                    && let Some(socket) = self.sockets.first()
                {
                    let _ = socket.try_send(&master.hello());
                }
                master.second()
            }
            Work::Backup(backup, asker, openings) => {
                let done = backup.second();
                if let Some(asker) = asker {
                    if *openings != backup.openings() {
                        *openings = backup.openings();
                        asker.forget();
                    }
                    asker.second();
                }
                done
            }
        };
        if let Err(why) = done.and_then(|()| self.save()) {
            warn!("{} sync daemon: {why:#}", self.row.role.name());
        }
    }
}

/// What there is to do.
enum Wake {
    /// A second has passed.
    Second,
    /// A master's next look is due.
    Look,
    /// A socket has something.
    Socket,
    /// A master that was asked for everything has sent this.
    Told(Vec<u8>),
}

/// Waits for a socket or for a master that was asked for everything; a master, for its next look.
async fn wait(work: &mut Work, sockets: &[UdpSocket], due: Instant) -> Wake {
    let Work::Backup(_, asker, _) = work else {
        sleep_until(due.into()).await;
        return Wake::Look;
    };
    let ready = sockets.iter().map(|socket| Box::pin(socket.ready(Interest::READABLE)));
    let ready = futures_util::future::select_all(ready);
    let Some(asker) = asker else {
        let _ = ready.await;
        return Wake::Socket;
    };
    tokio::select! {
        _ = ready => Wake::Socket,
        message = asker.next() => Wake::Told(message),
    }
}

/// What has come by multicast.
fn heard(backup: &mut Backup, mut asker: Option<&mut Asker>, sockets: &[UdpSocket], maxlen: u16) {
    // One byte more than fits: what is longer is not as long as it says.
    let mut buffer = vec![0; usize::from(maxlen) + 1];
    for socket in sockets {
        // Not for ever: others wait too.
        for _ in 0..SHARE {
            let Ok((length, from)) = socket.try_recv_from(&mut buffer) else { break };
            let is_message = backup.hear(&buffer[..length]);
            if let (true, Some(asker)) = (is_message, asker.as_mut()) {
                asker.heard(from);
            }
        }
    }
}

/// What a master tells that was asked for everything.
fn told(backup: &mut Backup, asker: &mut Asker, first: Vec<u8>) {
    let mut next = Some(first);
    for _ in 0..SHARE {
        match next {
            Some(message) if message.is_empty() => return asker.ended(),
            Some(message) => backup.hear(&message),
            None => return,
        };
        next = asker.another();
    }
    if let Some(message) = next {
        if message.is_empty() {
            asker.ended();
        } else {
            backup.hear(&message);
        }
    }
}

/// Looks, and sends what is due; how long to wait until the next look.
async fn tell(master: &mut Master, sockets: &[UdpSocket]) -> Duration {
    let (messages, pause) = match master.look() {
        Ok(found) => found,
        Err(why) => {
            warn!("master sync daemon: {why:#}");
            return Duration::from_secs(1);
        }
    };
    for (n, (port, message)) in messages.iter().enumerate() {
        let Some(socket) = sockets.get(*port) else { continue };
        match socket.send(message).await {
            Ok(_) => master.counts.messages += 1,
            Err(_) => master.counts.unsent += 1,
        }
        if n % BURST == BURST - 1 {
            sleep(BREATH).await;
        }
    }
    pause
}
