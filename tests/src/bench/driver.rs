//! The driver program (`lb-ebpf/src/bench.rs`) and its plan. A test run repeats it many times in one system call; what a
//! clock shows over the call, by the packets, is the figure.

use std::fs::File;
use std::io;
use std::sync::OnceLock;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use lb_common::cell::Cell64;
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_setaffinity, unshare};
use nix::unistd::Pid;

use crate::bpf::Mapped;

/// Bytes of a packet's head that are put back each time; packets are at least as long.
pub const HEAD: usize = 96;

/// A program to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The least: MAC addresses change places.
    Floor = 0,
    /// The balancer.
    Lb = 1,
    /// The kernel's own stack.
    Stack = 2,
    /// The least, and the flow's line of memory is changed.
    Line = 3,
    /// The balancer of another build.
    Beside = 4,
}

/// What packets are made from. The driver's map has it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The packet's head.
    pub head: [u8; HEAD],
    /// The packet's length.
    pub len: u32,
    /// Flows to choose from at random; 0: each packet is of the next flow.
    pub flows: u32,
    /// The random numbers' state, not 0; or the next flow.
    pub cursor: u32,
    /// Where the last word of the client's address is.
    pub address_at: u32,
    /// Where the client's port is, 1024 in `head`.
    pub port_at: u32,
    /// Where the checksum over addresses alone is; 0: there is none.
    pub header_sum_at: u32,
    /// Where the checksum over addresses and ports is.
    pub sum_at: u32,
    /// The first flow's address word, host order.
    pub address: u32,
    /// A client has two to the power of this many flows.
    pub ports: u32,
    target: u32,
    /// The last packet's flow.
    flow: u32,
    line_mask: u32,
}

// SAFETY: integers throughout, without padding.
unsafe impl aya::Pod for Plan {}

impl Plan {
    /// For this frame, whose fields are at these offsets, one flow after the other.
    pub fn new(frame: &[u8], fields: Fields, ports: u32) -> Result<Self> {
        let Fields { address_at, port_at, header_sum_at, sum_at } = fields;
        let head = frame.get(..HEAD).and_then(|head| head.try_into().ok());
        let head: [u8; HEAD] = head.context("a frame shorter than the driver writes")?;
        let at = address_at as usize;
        let word = frame.get(at..at + 4).and_then(|word| word.try_into().ok());
        let address = u32::from_be_bytes(word.context("an address outside the frame")?);
        let (len, flows, cursor, target, flow, line_mask) = (frame.len() as u32, 0, 0, 0, 0, 0);
        Ok(Self {
            head,
            len,
            flows,
            cursor,
            address_at,
            port_at,
            header_sum_at,
            sum_at,
            address,
            ports,
            target,
            flow,
            line_mask,
        })
    }

    /// From this flow on.
    pub fn starting(self, cursor: u32) -> Self {
        Self { cursor, ..self }
    }

    /// Of flows chosen at random.
    pub fn random(self, flows: u32) -> Self {
        Self { flows, cursor: 0x9E37_79B9, ..self }
    }

    /// With so many lines for [`Target::Line`], a power of two.
    pub fn over_lines(self, lines: u32) -> Self {
        Self { line_mask: lines - 1, ..self }
    }

    /// From so many addresses further on, of 32,768 ports each: 2^32 flows at random, hardly one of them twice.
    pub fn from_everywhere(self, further: u32) -> Self {
        Self { address: self.address.wrapping_add(further), ports: 15, ..self }.random(u32::MAX)
    }

    /// The next packet, as the driver program makes it.
    pub fn frame(&mut self) -> Vec<u8> {
        let flow = self.next();
        let mut frame = vec![0; self.len as usize];
        frame[..HEAD].copy_from_slice(&self.head);
        let address = self.address.wrapping_add(flow >> self.ports);
        let port = FIRST_PORT + (flow & ((1 << self.ports) - 1)) as u16;
        let addresses = halves(!self.address) + halves(address);
        put(&mut frame, self.address_at, &address.to_be_bytes());
        put(&mut frame, self.port_at, &port.to_be_bytes());
        if self.header_sum_at != 0 {
            correct(&mut frame, self.header_sum_at, addresses);
        }
        correct(&mut frame, self.sum_at, addresses + u32::from(!FIRST_PORT) + u32::from(port));
        frame
    }

    fn next(&mut self) -> u32 {
        let mut x = self.cursor;
        if self.flows == 0 {
            self.cursor = x.wrapping_add(1);
            return x;
        }
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        self.cursor = x;
        ((u64::from(x) * u64::from(self.flows)) >> 32) as u32
    }
}

/// The port of a client's first flow.
const FIRST_PORT: u16 = 1024;

fn put(frame: &mut [u8], at: u32, bytes: &[u8]) {
    let at = at as usize;
    frame[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The sum of a word's halves.
fn halves(word: u32) -> u32 {
    (word >> 16) + (word & 0xffff)
}

/// Corrects a checksum by what has been taken out (inverted) and put in.
fn correct(frame: &mut [u8], at: u32, changed: u32) {
    let place = at as usize;
    let sum = u32::from(!u16::from_be_bytes([frame[place], frame[place + 1]])) + changed;
    put(frame, at, &(!halves(halves(sum)) as u16).to_be_bytes());
}

/// Where in a frame is what differs from flow to flow.
#[derive(Debug, Clone, Copy)]
pub struct Fields {
    /// The last word of the client's address.
    pub address_at: u32,
    /// The client's port.
    pub port_at: u32,
    /// The checksum over addresses alone; 0: there is none.
    pub header_sum_at: u32,
    /// The checksum over addresses and ports.
    pub sum_at: u32,
}

/// A line of memory that a flow has.
#[repr(C, align(64))]
struct Line {
    count: Cell64,
}

/// What a run came to.
#[derive(Debug, Clone, Copy)]
pub struct Ran {
    /// Steps of the driver's clock for a packet.
    pub cost: f64,
    /// The last packet's verdict.
    pub verdict: u32,
}

/// The loaded driver.
pub struct Driver {
    ebpf: Ebpf,
    plan: Array<MapData, Plan>,
    /// The programs have to be in it for as long as they are called.
    targets: ProgramArray<MapData>,
    lines: Mapped,
    card: u32,
    clock: fn() -> u64,
    /// Where the driver program is at home.
    _home: File,
}

/// Packets that the stack gets at a time, as from a card's driver.
const BATCH: u32 = 64;

impl Driver {
    /// A driver of `lb`, if there is one, whose packets come in by a card.
    pub fn new(lb: Option<&Xdp>, card: u32, clock: fn() -> u64) -> Result<Self> {
        Self::with_lines(1, lb, card, clock)
    }

    /// The same with so many lines of 64 bytes for [`Target::Line`].
    pub fn with_lines(lines: u32, lb: Option<&Xdp>, card: u32, clock: fn() -> u64) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("lines", lines);
        let mut ebpf = loader.load(lb_user::program::BENCH).context("loading the bench object")?;
        for name in ["driver", "floor", "line", "pass"] {
            let program: &mut Xdp = ebpf.program_mut(name).context("no such program")?.try_into()?;
            program.load().with_context(|| format!("the kernel refuses {name}"))?;
        }
        let home = settle(&mut ebpf)?;
        let mut targets = ProgramArray::try_from(ebpf.take_map("targets").context("no map targets")?)?;
        for (target, name) in [(Target::Floor, "floor"), (Target::Line, "line"), (Target::Stack, "pass")] {
            let program: &Xdp = ebpf.program(name).context("no such program")?.try_into()?;
            targets.set(target as u32, program.fd()?, 0)?;
        }
        let lines = Mapped::of(&ebpf, "lines", lines as usize * size_of::<Line>())?;
        let plan = Array::try_from(ebpf.take_map("plan").context("no map plan")?)?;
        let mut driver = Self { ebpf, plan, targets, lines, card, clock, _home: home };
        lb.map_or(Ok(()), |lb| driver.aim(Target::Lb, lb.fd()?))?;
        Ok(driver)
    }

    /// The program to call as this target.
    pub fn aim(&mut self, target: Target, program: &ProgramFd) -> Result<()> {
        Ok(self.targets.set(target as u32, program, 0)?)
    }

    /// Runs `packets` packets of a plan, which goes on where they stop.
    pub fn run(&mut self, target: Target, plan: &mut Plan, packets: u32) -> Result<Ran> {
        self.test(target, plan, packets, target == Target::Stack)
    }

    /// Packets that [`Target::Line`] has had.
    pub fn counted(&self) -> u64 {
        self.lines.all::<Line>().iter().map(|line| line.count.load()).sum()
    }

    /// Sends `packets` packets of a plan out of the card, their MAC addresses exchanged.
    pub fn send(&mut self, plan: &mut Plan, packets: u32) -> Result<Ran> {
        self.test(Target::Floor, plan, packets, true)
    }

    /// `alive`: what the program says is done with the packet.
    fn test(&mut self, target: Target, plan: &mut Plan, packets: u32, alive: bool) -> Result<Ran> {
        plan.target = target as u32;
        self.plan.set(0, *plan, 0)?;
        let mut frame = vec![0; plan.len as usize];
        frame[..HEAD].copy_from_slice(&plan.head);
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context = [0, plan.len, 0, self.card, 0, 0].map(u32::to_ne_bytes).concat();
        let driver: &Xdp = self.ebpf.program("driver").context("no program driver")?.try_into()?;
        let options = TestRunOptions {
            data_in: Some(&frame),
            ctx_in: Some(&context),
            repeat: packets,
            attrs: if alive { TestRunAttrs::new().xdp_live_frames(BATCH) } else { TestRunAttrs::new() },
            ..TestRunOptions::new()
        };
        let before = (self.clock)();
        let answer = driver.test_run(options).context("running the driver")?;
        let took = (self.clock)() - before;
        // Of packets that live on, the kernel tells no verdict.
        ensure!(
            alive || answer.return_value != 0,
            "the driver could not make its packet or call the program"
        );
        *plan = self.plan.get(&0, 0)?;
        Ok(Ran { cost: took as f64 / f64::from(packets), verdict: answer.return_value })
    }
}

/// Puts the driver program on a card that nothing comes to, in a namespace of its own, which is returned. A program that is
/// on no card gets its direct call from the kernel for each test run anew, and loses it afterwards: both wait until every
/// CPU has passed by, 14 ms together, as long as 50,000 packets take.
fn settle(ebpf: &mut Ebpf) -> Result<File> {
    let inside = || -> Result<File> {
        unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")?;
        let driver: &mut Xdp = ebpf.program_mut("driver").context("no program driver")?.try_into()?;
        driver.attach("lo", XdpMode::Skb).context("putting the driver program on a card")?;
        File::open("/proc/thread-self/ns/net").context("the namespace")
    };
    // A panic goes on where the thread was started.
    thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// CPU time of this thread, in nanoseconds.
pub fn thread_time() -> u64 {
    time(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Time that has passed, in nanoseconds.
pub fn wall_time() -> u64 {
    time(libc::CLOCK_MONOTONIC)
}

fn time(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the answer.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Keeps this thread on the last CPU: the first has more of the machine's own work.
pub fn pin() -> Result<()> {
    pin_to(cpus()?.len() - 1)
}

/// Keeps this thread on one of our CPUs.
pub fn pin_to(nth: usize) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(*cpus()?.get(nth).with_context(|| format!("there is no CPU {nth}"))?)?;
    sched_setaffinity(THIS_THREAD, &only).context("staying on one CPU")
}

/// Has this thread go before all that is not of real time, for as long as it lives.
pub fn go_first() -> Result<()> {
    let least = libc::sched_param { sched_priority: 1 };
    // SAFETY: the calling thread, and parameters that outlast the call.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const least) };
    ensure!(done == 0, "going before others: {}", io::Error::last_os_error());
    Ok(())
}

/// The CPUs that are ours: those of the first thread that asked, as it is on none of them in particular yet.
pub fn cpus() -> Result<&'static [usize]> {
    static CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    let ours = sched_getaffinity(THIS_THREAD).context("asking for our CPUs")?;
    Ok(CPUS.get_or_init(|| (0..CpuSet::count()).filter(|cpu| ours.is_set(*cpu) == Ok(true)).collect()))
}

const THIS_THREAD: Pid = Pid::from_raw(0);
