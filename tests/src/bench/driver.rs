//! The driver program (`lb-ebpf/src/bench.rs`) and its plan. A test run repeats it many times in one system call; the
//! thread's CPU time over the call, by the packets, is the figure.

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

/// Bytes of a packet's head that are put back each time; packets are at least as long.
pub const HEAD: usize = 96;

/// A program to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The least: MAC addresses change places.
    Floor = 0,
    /// The balancer.
    Lb = 1,
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
    /// Where the client's port is.
    pub port_at: u32,
    /// The first flow's address word, host order.
    pub address: u32,
    /// A client has two to the power of this many flows.
    pub ports: u32,
    target: u32,
}

// SAFETY: integers throughout, without padding.
unsafe impl aya::Pod for Plan {}

impl Plan {
    /// For this frame, client's address word and port at these offsets, one flow after the other.
    pub fn new(frame: &[u8], address_at: usize, port_at: usize, ports: u32) -> Result<Self> {
        let head = frame.get(..HEAD).and_then(|head| head.try_into().ok());
        let head: [u8; HEAD] = head.context("a frame shorter than the driver writes")?;
        let word = frame.get(address_at..address_at + 4).and_then(|word| word.try_into().ok());
        let address = u32::from_be_bytes(word.context("an address outside the frame")?);
        let (len, address_at, port_at) = (frame.len() as u32, address_at as u32, port_at as u32);
        Ok(Self { head, len, flows: 0, cursor: 0, address_at, port_at, address, ports, target: 0 })
    }

    /// From this flow on.
    pub fn starting(self, cursor: u32) -> Self {
        Self { cursor, ..self }
    }

    /// Of flows chosen at random.
    pub fn random(self, flows: u32) -> Self {
        Self { flows, cursor: 0x9E37_79B9, ..self }
    }
}

/// What a run came to.
#[derive(Debug, Clone, Copy)]
pub struct Ran {
    /// Nanoseconds of CPU time for a packet.
    pub ns: f64,
    /// The last packet's verdict.
    pub verdict: u32,
}

/// The loaded driver.
pub struct Driver {
    ebpf: Ebpf,
    plan: Array<MapData, Plan>,
    /// The programs have to be in it for as long as they are called.
    _targets: ProgramArray<MapData>,
    card: u32,
}

impl Driver {
    /// A driver of `lb`, whose packets come in by a card.
    pub fn new(lb: &Xdp, card: u32) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(lb_user::program::BENCH).context("loading the bench object")?;
        for name in ["driver", "floor"] {
            let program: &mut Xdp = ebpf.program_mut(name).context("no such program")?.try_into()?;
            program.load().with_context(|| format!("the kernel refuses {name}"))?;
        }
        let mut targets = ProgramArray::try_from(ebpf.take_map("targets").context("no map targets")?)?;
        let floor: &Xdp = ebpf.program("floor").context("no program floor")?.try_into()?;
        targets.set(Target::Floor as u32, floor.fd()?, 0)?;
        targets.set(Target::Lb as u32, lb.fd()?, 0)?;
        let plan = Array::try_from(ebpf.take_map("plan").context("no map plan")?)?;
        Ok(Self { ebpf, plan, _targets: targets, card })
    }

    /// Runs `packets` packets of a plan, which goes on where they stop.
    pub fn run(&mut self, target: Target, plan: &mut Plan, packets: u32) -> Result<Ran> {
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
            ..TestRunOptions::new()
        };
        let before = thread_time();
        let answer = driver.test_run(options).context("running the driver")?;
        let took = thread_time() - before;
        ensure!(answer.return_value != 0, "the driver could not make its packet or call the program");
        *plan = self.plan.get(&0, 0)?;
        Ok(Ran { ns: took as f64 / f64::from(packets), verdict: answer.return_value })
    }
}

/// CPU time of this thread, in nanoseconds.
fn thread_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Keeps this thread on the last CPU: the first has more of the machine's own work.
pub fn pin() -> Result<()> {
    let last = std::thread::available_parallelism()?.get() - 1;
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(last)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus).context("staying on one CPU")
}
