//! The demo: real requests through the balancer to three nginx servers, by address translation, by direct routing and
//! by tunnel. It prints what is typed where and what comes back, and takes everything down again.

use anyhow::{Result, bail};
use clap::Parser;
use lb_tests::drive::{self, DR, NAT, Service, TUN};
use lb_tests::lab::Lab;
use lb_tests::need;
use lb_tests::peer::curl;
use lb_tests::topo::{self, Plan, Topology};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Shows the balancer at work in network namespaces of its own.
#[derive(Parser)]
struct Options {
    /// Leave it standing until Ctrl-C, and say how to play with it
    #[arg(long)]
    keep: bool,
}

/// One forwarding method, and where it is shown.
struct Show {
    title: &'static str,
    method: (&'static str, &'static str),
    cards: &'static str,
    set_up: fn(&Plan) -> Result<Topology>,
}

const SHOWS: [Show; 3] = [
    Show {
        title: "NAT (-m): the balancer rewrites addresses, both ways. Client on eth0, servers on eth1.",
        method: NAT,
        cards: "eth0 eth1",
        set_up: topo::nat,
    },
    Show {
        title: "Direct routing (-g): requests go on with a new MAC address; servers answer the client themselves.",
        method: DR,
        cards: "eth0",
        set_up: topo::dr,
    },
    Show {
        title: "Tunnel (-i): requests go on inside IPIP, through a router; servers answer the client themselves.",
        method: TUN,
        cards: "eth0",
        set_up: topo::tun,
    },
];

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lb-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    need::network()?;
    let mut kept = Vec::new();
    for show in &SHOWS {
        let stage = Stage::build(show)?;
        stage.play(show, &stop)?;
        kept.extend(options.keep.then_some(stage));
    }
    if options.keep {
        say_how_to_play(&kept);
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(100));
        }
    }
    println!("\nTaking the namespaces down.");
    Ok(())
}

/// A set-up and the balancer's prompt in it. The prompt goes first: it takes the program off.
struct Stage {
    lab: Lab,
    set: Topology,
}

impl Stage {
    fn build(show: &Show) -> Result<Self> {
        println!("\n== {}", show.title);
        let set = (show.set_up)(&Plan::example())?;
        let lab = Lab::at(&set.balancer.netns)?;
        Ok(Self { lab, set })
    }

    fn play(&self, show: &Show, stop: &AtomicBool) -> Result<()> {
        let [service, _] = drive::services(&self.set, show.method);
        self.types(&format!("lb-user attach {}", show.cards), stop)?;
        service.commands("rr").lines().try_for_each(|line| self.types(line, stop))?;
        self.ask(&service, stop)?;
        self.types("ipvsadm -Ln", stop)?;
        self.types("ipvsadm -Ln --stats", stop)
    }

    fn types(&self, line: &str, stop: &AtomicBool) -> Result<()> {
        if stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        println!("balancer# {line}");
        print!("{}", self.lab.types(line)?.ok()?);
        Ok(())
    }

    fn ask(&self, service: &Service, stop: &AtomicBool) -> Result<()> {
        for _ in 0..12 {
            if stop.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            let answers = curl::answers(&self.set.client.netns, service.vip, 1)?;
            println!("client$ curl {:<24} {}", curl::url(service.vip, "/"), answers.concat());
        }
        Ok(())
    }
}

fn say_how_to_play(stages: &[Stage]) {
    let Some(first) = stages.first() else { return };
    println!("\nEverything is left standing. In another terminal, as root:\n");
    println!("  export PATH={}:$PATH", first.lab.programs().display());
    for (show, stage) in SHOWS.iter().zip(stages) {
        let vip = curl::url(stage.set.vip(80)[0], "/");
        println!("\n  # {}", show.title.split(':').next().unwrap_or_default());
        println!("  ip netns exec {} ipvsadm -Ln", stage.set.balancer.netns.name());
        println!("  ip netns exec {} curl {vip}", stage.set.client.netns.name());
    }
    println!("\nCtrl-C here takes it down.");
}
