//! What holds for the whole instance: timeouts, sysctls, what kinds of services there are. One map value, written by
//! the control side word by word, read by the packet path.

use crate::addr::{Family, Proto};
use crate::cell::Cell32;
use crate::keyed::TableKey;
use crate::state::{QUOTED_TIMEOUT, udp};
use crate::until::Until;

/// Protocol rows of the timeout table.
const ROWS: usize = 3;
/// Cells of the timeout table, a power of two.
const CELLS: usize = 64;

/// The `settings` map's one value. 640 bytes.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Settings {
    /// Timeouts in ticks, by protocol row (TCP, UDP, SCTP) and state.
    timeouts: [Cell32; CELLS],
    /// Ticks of the packet path's clock in a second.
    pub hz: Cell32,
    /// Services of the IPv4 family. None: everything IPv4 is passed up, as an unhooked IPVS would.
    pub services_v4: Cell32,
    /// Services of the IPv6 family.
    pub services_v6: Cell32,
    /// Services on port 0.
    pub port0: Cell32,
    /// TCP services on port 21.
    pub ftp: Cell32,
    /// Services by mark.
    pub marks: Cell32,
    /// Secret of the other keyed hashes (siphash), low word first.
    pub secret: [Cell32; 4],
    /// `--set` values in seconds as last given: tcp, tcpfin, udp.
    pub given: [Cell32; 3],
    /// sysctl conn_reuse_mode.
    pub conn_reuse_mode: Cell32,
    /// sysctl expire_nodest_conn.
    pub expire_nodest_conn: Cell32,
    /// sysctl expire_quiescent_template.
    pub expire_quiescent_template: Cell32,
    /// sysctl sloppy_tcp.
    pub sloppy_tcp: Cell32,
    /// sysctl sloppy_sctp.
    pub sloppy_sctp: Cell32,
    /// Are the tables of the secure_tcp defence in force?
    pub secure_tcp: Cell32,
    /// The drop_packet defence's rate while it drops, else 0.
    pub drop_rate: Cell32,
    /// sysctl pmtu_disc.
    pub pmtu_disc: Cell32,
    /// sysctl nat_icmp_send.
    pub nat_icmp_send: Cell32,
    /// sysctl schedule_icmp.
    pub schedule_icmp: Cell32,
    /// sysctl cache_bypass.
    pub cache_bypass: Cell32,
    /// Version of the map layout that wrote this.
    pub layout: Cell32,
    /// Mark rules in force: see [`crate::mark::word`].
    pub mark_rules: Cell32,
    /// New connections until drop_packet drops the next; the packet path's own.
    pub drop_counter: Cell32,
    /// sysctl lblc_expiration, in seconds.
    pub lblc_expiration: Cell32,
    /// sysctl lblcr_expiration, in seconds.
    pub lblcr_expiration: Cell32,
    /// Dest slots from this number on have never been used.
    pub dests_end: Cell32,
    /// sysctl drop_entry: 0 to 3, as it stands; the automatic modes turn 1 to 2 and back.
    pub drop_entry: Cell32,
    /// sysctl drop_packet, likewise.
    pub drop_packet: Cell32,
    /// sysctl secure_tcp, likewise.
    pub secure_tcp_mode: Cell32,
    /// sysctl amemthresh, in pages.
    pub amemthresh: Cell32,
    /// sysctl am_droprate.
    pub am_droprate: Cell32,
    /// Are entries dropped at random at the moment?
    pub dropping: Cell32,
    /// FTP data connections may be waited for; the packet path's own.
    pub awaited_until: Until,
    /// Dests on this machine itself, deleted ones with them while their connections may live. None: what the machine sends
    /// is not looked at.
    pub local_dests: Cell32,
    /// The NICs at the near and the far end of the loop for fragments; 0: there is none. See [`crate::fragments`].
    pub loop_ends: [Cell32; 2],
    /// Under backup_only, while a backup sync daemon runs: clients' packets are left alone.
    pub standby_until: Until,
    /// sysctl run_estimation: do rates move?
    pub run_estimation: Cell32,
    /// Services' numbers from this one on have never been used.
    pub services_end: Cell32,
    /// Addresses of this machine that checks along the forwarding path are sent from, hashed to a bit each; 0: there are no such
    /// checks. See [`crate::probe`].
    pub probers: Cell32,
    /// 1 once a client on the balancer itself was given a server: what the machine sends may be such clients'.
    pub local_clients: Cell32,
    /// Services with a persistence engine: a server's packet that answers nothing may begin a connection.
    pub engines: Cell32,
    /// Odd while services change: see [`crate::recent`].
    pub services_change: Cell32,
    /// Key of the connection table's hash.
    pub table_key: TableKey,
    /// The control side's own.
    pub spare: [Cell32; 40],
}

const _: () = assert!(core::mem::size_of::<Settings>() == 640);

impl Default for Settings {
    fn default() -> Self {
        Self::new()
    }
}

impl Settings {
    /// All zero.
    pub const fn new() -> Self {
        Self {
            timeouts: [const { Cell32::new(0) }; CELLS],
            hz: Cell32::new(0),
            services_v4: Cell32::new(0),
            services_v6: Cell32::new(0),
            port0: Cell32::new(0),
            ftp: Cell32::new(0),
            marks: Cell32::new(0),
            secret: [const { Cell32::new(0) }; 4],
            given: [const { Cell32::new(0) }; 3],
            conn_reuse_mode: Cell32::new(0),
            expire_nodest_conn: Cell32::new(0),
            expire_quiescent_template: Cell32::new(0),
            sloppy_tcp: Cell32::new(0),
            sloppy_sctp: Cell32::new(0),
            secure_tcp: Cell32::new(0),
            drop_rate: Cell32::new(0),
            pmtu_disc: Cell32::new(0),
            nat_icmp_send: Cell32::new(0),
            schedule_icmp: Cell32::new(0),
            cache_bypass: Cell32::new(0),
            layout: Cell32::new(0),
            mark_rules: Cell32::new(0),
            drop_counter: Cell32::new(0),
            lblc_expiration: Cell32::new(0),
            lblcr_expiration: Cell32::new(0),
            dests_end: Cell32::new(0),
            drop_entry: Cell32::new(0),
            drop_packet: Cell32::new(0),
            secure_tcp_mode: Cell32::new(0),
            amemthresh: Cell32::new(0),
            am_droprate: Cell32::new(0),
            dropping: Cell32::new(0),
            awaited_until: Until::new(),
            local_dests: Cell32::new(0),
            loop_ends: [const { Cell32::new(0) }; 2],
            standby_until: Until::new(),
            run_estimation: Cell32::new(0),
            services_end: Cell32::new(0),
            probers: Cell32::new(0),
            local_clients: Cell32::new(0),
            engines: Cell32::new(0),
            services_change: Cell32::new(0),
            table_key: TableKey::new(),
            spare: [const { Cell32::new(0) }; 40],
        }
    }
}

/// The timeout table's row of a protocol. What is not TCP or SCTP shares UDP's.
#[inline(always)]
const fn row(proto: Proto) -> u32 {
    match proto {
        Proto::TCP => 0,
        Proto::SCTP => 2,
        _ => 1,
    }
}

impl Settings {
    /// The cell of a state's timeout, in ticks.
    #[inline(always)]
    pub fn timeout(&self, proto: Proto, state: u32) -> &Cell32 {
        const { assert!(ROWS * 16 <= CELLS) };
        // The 6.1 verifier loses the bounds of an OR of two registers.
        &self.timeouts[crate::cell::masked::<{ CELLS as u32 - 1 }>(row(proto) * 16 + (state & 15))]
    }

    /// May nearly any packet of the protocol start a connection?
    #[inline(always)]
    pub fn is_sloppy(&self, proto: Proto) -> bool {
        match proto {
            Proto::TCP => self.sloppy_tcp.load() != 0,
            Proto::SCTP => self.sloppy_sctp.load() != 0,
            _ => true,
        }
    }

    /// How many services a family has.
    #[inline(always)]
    pub fn services(&self, family: Family) -> u32 {
        match family {
            Family::V4 => self.services_v4.load(),
            Family::V6 => self.services_v6.load(),
        }
    }

    /// Services are about to change, or were when somebody was killed.
    pub fn services_change(&self) {
        let change = self.services_change.load();
        self.services_change.swap(change | 1);
    }
    /// They have changed.
    pub fn services_changed(&self) {
        let change = self.services_change.load();
        self.services_change.swap((change | 1).wrapping_add(1));
    }

    /// Seconds in ticks.
    #[inline(always)]
    pub fn ticks(&self, seconds: u32) -> u32 {
        seconds.wrapping_mul(self.hz.load())
    }

    /// Takes out what has held long enough: see [`Until`].
    #[inline(always)]
    pub fn lapse(&self, now: u32) {
        self.awaited_until.lapse(now);
        self.standby_until.lapse(now);
    }

    /// Makes it older, for tests.
    #[cfg(any(test, feature = "host"))]
    pub fn age(&self, ticks: u32) {
        self.awaited_until.age(ticks);
        self.standby_until.age(ticks);
    }

    /// IPVS's defaults, for a clock of `hz` ticks a second.
    pub fn set_defaults(&self, hz: u32) {
        self.hz.store(hz);
        self.conn_reuse_mode.store(1);
        self.pmtu_disc.store(1);
        self.run_estimation.store(1);
        self.lblc_expiration.store(86_400);
        self.lblcr_expiration.store(86_400);
        for (proto, states) in [(Proto::TCP, 11), (Proto::UDP, 2), (Proto::SCTP, 14)] {
            for state in 0..states {
                self.set_timeout(proto, state, crate::state::default_timeout(proto, state as u8));
            }
        }
        // State 0 is that of connections an ICMP error began: every packet of their own leads out of it.
        for (proto, state) in [(Proto::TCP, 0), (Proto::UDP, u32::from(udp::QUOTED)), (Proto::SCTP, 0)] {
            self.set_timeout(proto, state, QUOTED_TIMEOUT);
        }
        self.amemthresh.store(1024);
        self.am_droprate.store(10);
        self.given[0].store(900);
        self.given[1].store(120);
        self.given[2].store(300);
    }

    /// Sets a state's timeout in seconds. At most 2^31 - 1 ticks, so that ages compare as signed differences.
    pub fn set_timeout(&self, proto: Proto, state: u32, seconds: u32) {
        let ticks = u64::from(seconds) * u64::from(self.hz.load());
        self.timeout(proto, state).store(ticks.min(i32::MAX as u64) as u32);
    }

    /// `--set`: established TCP, TCP after a FIN, UDP, in seconds; 0 leaves a value alone.
    pub fn set_timeouts(&self, tcp: u32, tcpfin: u32, udp: u32) {
        let change = |i: usize, seconds: u32, cells: &[(Proto, u32)]| {
            if seconds != 0 {
                self.given[i].store(seconds);
                cells.iter().for_each(|(p, s)| self.set_timeout(*p, *s, seconds));
            }
        };
        change(0, tcp, &[(Proto::TCP, 1)]);
        change(1, tcpfin, &[(Proto::TCP, 4)]);
        change(2, udp, &[(Proto::UDP, 0), (Proto::UDP, 1)]);
    }
}
