//! One task for each different check. Servers that are checked in the same way share it.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, DefaultHasher, Hash as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::Prober;
use super::machine::{Machine, Outcome};
use super::net;
use super::path::Paths;
use super::tally::{self, Durations, Tally};
use crate::agent::config::model::{CheckSpec, Probe};
use crate::agent::verdict::{Verdict, Weight};

/// What a check has found out.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which.
    pub spec: CheckSpec,
    /// Its number, lest a check that has been replaced is listened to.
    pub number: u64,
    /// What.
    pub verdict: Verdict,
}

/// A check being made.
struct Watch {
    number: u64,
    verdict: Verdict,
    tally: Arc<Tally>,
    active: watch::Sender<bool>,
    /// Every failure is worth a line.
    log_all: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All checks.
pub struct Watches {
    all: HashMap<CheckSpec, Watch>,
    numbers: u64,
    paths: Paths,
    durations: Durations,
    reports: mpsc::UnboundedSender<Report>,
}

/// What checks were, by their fingerprints: whether they passed.
pub type Remembered = HashMap<String, bool>;

impl Watches {
    /// None yet. Reports come out at the other end.
    pub fn new(paths: Paths, reports: mpsc::UnboundedSender<Report>) -> Self {
        Self { all: HashMap::new(), numbers: 0, paths, durations: tally::durations(), reports }
    }

    /// From now on these, each with whether every failure is worth a line. One that differs only in its pace keeps what
    /// it has found out; a new one starts as was remembered, or up, or down with alpha.
    pub fn replace(&mut self, specs: HashMap<CheckSpec, bool>, remembered: &Remembered) {
        let before: HashMap<Probe, Verdict> =
            self.all.iter().map(|(spec, watch)| (spec.probe.clone(), watch.verdict)).collect();
        self.all.retain(|spec, _| specs.contains_key(spec));
        for (spec, log_all) in specs {
            if let Some(watch) = self.all.get(&spec) {
                watch.log_all.store(log_all, Ordering::Relaxed);
                continue;
            }
            let start = before.get(&spec.probe).copied().unwrap_or_else(|| {
                let up = remembered.get(&fingerprint(&spec.probe)).copied().unwrap_or(!spec.pace.alpha);
                Verdict { up, weight: Weight::Configured }
            });
            self.numbers += 1;
            let told = Told { log_all, durations: self.durations.clone(), reports: self.reports.clone() };
            let watch = Watch::start(&spec, start, self.numbers, self.paths.clone(), told);
            self.all.insert(spec, watch);
        }
    }

    /// Is this check being made?
    pub fn has(&self, spec: &CheckSpec) -> bool {
        self.all.contains_key(spec)
    }

    /// As a check sees it now.
    pub fn verdict(&self, spec: &CheckSpec) -> Verdict {
        let unknown = Verdict { up: !spec.pace.alpha, weight: Weight::Configured };
        self.all.get(spec).map_or(unknown, |watch| watch.verdict)
    }

    /// How a check's attempts went.
    pub fn tally(&self, spec: &CheckSpec) -> Arc<Tally> {
        self.all.get(spec).map_or_else(Arc::default, |watch| Arc::clone(&watch.tally))
    }

    /// How long attempts took.
    pub fn durations(&self) -> Durations {
        self.durations.clone()
    }

    /// Takes a report in. False: it is of a check that is no more.
    pub fn take(&mut self, report: &Report) -> bool {
        match self.all.get_mut(&report.spec).filter(|watch| watch.number == report.number) {
            Some(watch) => {
                watch.verdict = report.verdict;
                true
            }
            None => false,
        }
    }

    /// Lets a check go on, or pause.
    pub fn set_active(&self, spec: &CheckSpec, active: bool) {
        if let Some(watch) = self.all.get(spec) {
            watch.active.send_if_modified(|now| std::mem::replace(now, active) != active);
        }
    }

    /// What is worth remembering across a restart.
    pub fn remember(&self) -> Remembered {
        let said = |(spec, watch): (&CheckSpec, &Watch)| (fingerprint(&spec.probe), watch.verdict.up);
        self.all.iter().map(said).collect()
    }
}

/// A check by what it does, the same in every process of one version.
pub fn fingerprint(probe: &Probe) -> String {
    let mut hasher = DefaultHasher::new();
    format!("{probe:?}").hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Where a check's results go.
struct Told {
    /// To begin with: every failure is worth a line.
    log_all: bool,
    durations: Durations,
    reports: mpsc::UnboundedSender<Report>,
}

impl Watch {
    fn start(spec: &CheckSpec, verdict: Verdict, number: u64, paths: Paths, told: Told) -> Self {
        let tally = Arc::new(Tally::default());
        let counted = Arc::clone(&tally);
        let (active, mut may_go) = watch::channel(true);
        let log_all = Arc::new(AtomicBool::new(told.log_all));
        let may_log = Arc::clone(&log_all);
        let spec = spec.clone();
        let task = tokio::spawn(async move {
            let patient = matches!(spec.probe, Probe::Smtp(_));
            let mut machine = Machine::new(&spec.pace, verdict.up, patient);
            let (mut prober, mut said) = (Prober::new(&spec.probe, &paths), verdict);
            let mut first = true;
            sleep(first_delay(&spec)).await;
            loop {
                if may_go.wait_for(|active| *active).await.is_err() {
                    return;
                }
                let started = Instant::now();
                let outcome = prober.attempt(machine.up).await;
                let took = started.elapsed();
                counted.count(&outcome, took);
                told.durations.get_or_create(&[("check", spec.probe.keyword())]).observe(took.as_secs_f64());
                let was_up = machine.up;
                let step = machine.feed(&outcome);
                tell(&spec, &outcome, &machine, was_up, first, may_log.load(Ordering::Relaxed));
                let weight = match &outcome {
                    Outcome::Pass(weight) => *weight,
                    _ => said.weight,
                };
                let verdict = Verdict { up: machine.up, weight };
                let decided = !matches!(outcome, Outcome::Local(_) | Outcome::Part);
                first &= !decided;
                if verdict != said {
                    said = verdict;
                    let report = Report { spec: spec.clone(), number, verdict };
                    if told.reports.send(report).is_err() {
                        return;
                    }
                }
                sleep_until(next(&spec, started, step.wait, &outcome)).await;
            }
        });
        Self { number, verdict, tally, active, log_all, task }
    }
}

/// A second, and a random part of the warm-up, so that checks do not march in step. Looking at a file costs nobody.
fn first_delay(spec: &CheckSpec) -> Duration {
    if matches!(spec.probe, Probe::File(_)) {
        return Duration::ZERO;
    }
    let part = RandomState::new().hash_one(0) as u32;
    Duration::from_secs(1) + spec.pace.warmup.mul_f64(f64::from(part) / f64::from(u32::MAX))
}

/// When the next attempt is due. Scripts start at even distances; what failed over HTTP gets the longer of two pauses.
fn next(spec: &CheckSpec, started: Instant, wait: Duration, outcome: &Outcome) -> Instant {
    match (&spec.probe, outcome) {
        (Probe::Misc(_), _) => started + wait,
        (Probe::Http(_), Outcome::Fail(_)) if wait == spec.pace.delay_loop => {
            Instant::now() + wait.max(spec.pace.delay_before_retry)
        }
        _ => Instant::now() + wait,
    }
}

/// The lines operators look for.
fn tell(spec: &CheckSpec, outcome: &Outcome, machine: &Machine, was_up: bool, first: bool, log_all: bool) {
    let check = spec.probe.keyword();
    let target = name(&spec.probe);
    match outcome {
        Outcome::Pass(_) if !was_up || first => {
            info!(check, target, result = "pass", "{}", success(&spec.probe, &target));
        }
        Outcome::Fail(why) if was_up && !machine.up => {
            let line = match &spec.probe {
                Probe::Misc(_) => format!("Misc check for [{target}] failed ({why})."),
                _ if spec.pace.retry == 0 || machine.failures == 1 => {
                    format!("{check} on service {target} failed ({why}).")
                }
                _ => format!("{check} on service {target} failed after {} retries. ({why})", spec.pace.retry),
            };
            info!(check, target, result = "fail", "{line}");
        }
        Outcome::Fail(why) if log_all => {
            let attempt = machine.failures;
            let line = match &spec.probe {
                Probe::Tcp(_) => format!("TCP connection to {target} failed. (attempt {attempt}: {why})"),
                _ => format!("{check} on service {target} failed, attempt {attempt} ({why})."),
            };
            info!(check, target, result = "fail", attempt, "{line}");
        }
        Outcome::Local(why) => {
            warn!(check, target, result = "error", "{check} of {target} cannot be made: {why}");
        }
        _ => {}
    }
}

fn success(probe: &Probe, target: &str) -> String {
    match probe {
        Probe::Tcp(_) => format!("TCP connection to {target} success."),
        Probe::Http(_) => format!("Remote Web server {target} succeed on service."),
        Probe::Misc(_) => format!("Misc check for [{target}] success."),
        Probe::Smtp(_) => format!("Remote SMTP server {target} succeed on service."),
        _ => format!("{} on service {target} success.", probe.keyword()),
    }
}

fn name(probe: &Probe) -> String {
    match probe {
        Probe::Tcp(target) => net::name(target, "tcp"),
        Probe::Http(http) => net::name(&http.target, "tcp"),
        Probe::Smtp(smtp) => net::name(&smtp.target, "tcp"),
        Probe::Dns(dns) => net::name(&dns.target, "udp"),
        Probe::Udp(udp) => net::name(&udp.target, "udp"),
        Probe::Ping(target) => format!("[{}]", target.to.ip()),
        Probe::File(file) => file.file.display().to_string(),
        Probe::Misc(misc) => misc.script.to_string(),
    }
}
