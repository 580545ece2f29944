//! The agent's loop: signals, reports of checks, the clock, and systemd.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::announce::Announcer;
use super::check::path::Paths;
use super::check::watch::Report;
use super::config::model::Config;
use super::config::problem::Severity;
use super::config::{self, Loaded};
use super::keeper::Keeper;
use super::metrics::view::{Holdings, Loading, View};
use super::metrics::{page, serve};
use super::network;
use super::remember::Memory;
use crate::control::store::Store;

/// How the agent was started.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration.
    pub file: PathBuf,
    /// What `@id` lines are compared with.
    pub id: String,
    /// Stopping takes the services away.
    pub purge_on_exit: bool,
    /// Where the tables are pinned, for what is done to them beside the loop.
    pub pins: PathBuf,
}

/// The metrics endpoint.
pub struct Metrics {
    /// Where scrapes come in.
    pub listener: TcpListener,
    /// Reads what the tables hold, on any thread.
    pub holdings: Arc<dyn Fn() -> Result<Holdings> + Send + Sync>,
}

/// What the loop waits for.
enum Input {
    Report(Box<Report>),
    Look(oneshot::Sender<View>),
    Second,
    Reload,
    Stop,
}

/// Runs until it is told to stop. Checks, scripts, signals and the clock are at home on a thread of the runtime's; the
/// tables are on this one, for a change of them may have to wait its turn.
pub fn run(store: impl Store, memory: Memory, options: &Options, metrics: Option<Metrics>) -> Result<()> {
    let config = load(options).with_context(|| format!("{} cannot be used", options.file.display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let _spawns_there = runtime.enter();
    let (sender, inputs) = mpsc::unbounded_channel();
    listen(&sender)?;
    if let Some(metrics) = metrics {
        show(metrics, sender.clone());
    }
    follow_network(options.pins.clone());
    let paths = Paths::of(options.pins.clone());
    keep(Keeper::new(store, memory, paths, reports_to(sender)), options, config, inputs)
}

fn keep<S: Store>(
    mut keeper: Keeper<S>,
    options: &Options,
    config: Config,
    mut inputs: mpsc::UnboundedReceiver<Input>,
) -> Result<()> {
    keeper.start(config)?;
    let mut announcer = Announcer::new(options.pins.clone());
    announcer.follow(keeper.announcements());
    let mut loading = Loading::default();
    tell_systemd(&[NotifyState::Ready]);
    while let Some(input) = inputs.blocking_recv() {
        let (mut reports, mut second, mut again) = (Vec::new(), false, false);
        let mut next = Some(input);
        // What came together is applied together.
        while let Some(input) = next {
            match input {
                Input::Report(report) => reports.push(*report),
                Input::Second => second = true,
                // Who does not wait for it any more has given up.
                Input::Look(reply) => drop(reply.send(keeper.view(loading))),
                Input::Reload => again = true,
                Input::Stop => return stop(&mut keeper, &mut announcer, options),
            }
            next = inputs.try_recv().ok();
        }
        keeper.heard(&reports);
        if again {
            reload(&mut keeper, options, &mut loading);
        }
        if second {
            keeper.tick();
            tell_systemd(&[NotifyState::Watchdog]);
        }
        announcer.follow(keeper.announcements());
    }
    Ok(())
}

fn stop<S: Store>(keeper: &mut Keeper<S>, announcer: &mut Announcer, options: &Options) -> Result<()> {
    tell_systemd(&[NotifyState::Stopping]);
    if options.purge_on_exit {
        announcer.leave();
        keeper.purge()?;
    }
    keeper.rest();
    info!("Stopped");
    Ok(())
}

/// Signals and the clock.
fn listen(sender: &mpsc::UnboundedSender<Input>) -> Result<()> {
    let on = |kind| signal(kind).context("listening for signals");
    let (mut hangup, mut term) = (on(SignalKind::hangup())?, on(SignalKind::terminate())?);
    let mut interrupt = on(SignalKind::interrupt())?;
    let sender = sender.clone();
    tokio::spawn(async move {
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let input = tokio::select! {
                _ = term.recv() => Input::Stop,
                _ = interrupt.recv() => Input::Stop,
                _ = hangup.recv() => Input::Reload,
                _ = seconds.tick() => Input::Second,
            };
            if sender.send(input).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// Has dests follow the network, and finds out how to reach clients. Without it, packets still ask the kernel about once a second.
fn follow_network(pins: PathBuf) {
    let ours = pins.clone();
    tokio::spawn(async move {
        if let Err(why) = network::look_after_clients(ours).await {
            error!("unknown link addresses of clients are not asked for any more: {why:#}");
        }
    });
    tokio::spawn(async move {
        if let Err(why) = network::follow(pins).await {
            error!("changes of the network are not followed any more: {why:#}");
        }
    });
}

/// Serves metrics: the agent's part is asked of the loop, the tables are read beside it.
fn show(metrics: Metrics, sender: mpsc::UnboundedSender<Input>) {
    let Metrics { listener, holdings } = metrics;
    let made = move || {
        let (sender, holdings) = (sender.clone(), Arc::clone(&holdings));
        async move {
            let (reply, view) = oneshot::channel();
            sender.send(Input::Look(reply)).ok().context("the agent is stopping")?;
            let view = view.await.context("the agent is stopping")?;
            let text = tokio::task::spawn_blocking(move || Ok(page::text(view, holdings()?)?));
            text.await.context("reading the tables")?
        }
    };
    tokio::spawn(async move {
        if let Err(why) = serve::serve(listener, made).await {
            error!("metrics: {why:#}");
        }
    });
}

/// Where checks report to.
fn reports_to(sender: mpsc::UnboundedSender<Input>) -> mpsc::UnboundedSender<Report> {
    let (reports, mut heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(report) = heard.recv().await {
            if sender.send(Input::Report(Box::new(report))).is_err() {
                return;
            }
        }
    });
    reports
}

/// The configuration, if nothing in it is wrong enough to do without.
fn load(options: &Options) -> Result<Config> {
    let Loaded { config, problems } = config::load(&options.file, &options.id);
    for problem in problems.iter() {
        let (place, text) = (problem.place.to_string(), &problem.text);
        match problem.severity {
            Severity::Error => error!(place, "{place}: {text}"),
            Severity::Warning | Severity::Security => warn!(place, "{place}: {text}"),
            Severity::Note => info!(place, "{place}: {text}"),
        }
    }
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    match errors {
        0 => Ok(config),
        errors => bail!("{errors} error(s), told above"),
    }
}

/// A configuration that cannot be used changes nothing.
fn reload<S: Store>(keeper: &mut Keeper<S>, options: &Options, loading: &mut Loading) {
    info!("Reloading");
    tell_reloading();
    match load(options).and_then(|config| keeper.reload(config)) {
        Ok(()) => {
            *loading = Loading::default();
            info!("Reloaded");
        }
        Err(why) => {
            loading.good = false;
            error!("{} is not taken, everything stays as it was: {why:#}", options.file.display());
        }
    }
    tell_systemd(&[NotifyState::Ready]);
}

fn tell_reloading() {
    let now = NotifyState::monotonic_usec_now();
    tell_systemd(&[NotifyState::Reloading].into_iter().chain(now.ok()).collect::<Vec<_>>());
}

fn tell_systemd(what: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(false, what);
}
