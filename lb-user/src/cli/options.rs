//! Every command and option of ipvsadm, as data: parsing, messages, help and man page all read these tables.

use self::{Argument::*, Command::*, Slot::*, Tag::*};

/// What is to be done. The first option of a command line says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// `-A`
    AddService,
    /// `-E`
    EditService,
    /// `-D`
    DeleteService,
    /// `-C`
    Flush,
    /// `-R`
    Restore,
    /// `-S`
    Save,
    /// `-a`
    AddServer,
    /// `-e`
    EditServer,
    /// `-d`
    DeleteServer,
    /// `-L`, `-l`
    List,
    /// `-Z`
    Zero,
    /// `--set`
    Set,
    /// `--start-daemon`
    StartDaemon,
    /// `--stop-daemon`
    StopDaemon,
    /// `-h`
    Help,
    /// `-v`
    Version,
}

/// What messages call an option, and what may be given once only: several options can share a slot. In the order in
/// which IPVS's front end checks them against the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// `-n`
    Numeric,
    /// `-c`
    Connection,
    /// `-t`, `-u`, `--sctp-service`, `-f`
    ServiceAddress,
    /// `-s`
    SchedulerName,
    /// `-p`
    Persistent,
    /// `-M`
    Mask,
    /// `-r`
    RealServer,
    /// `-g`, `-i`, `-m`
    ForwardingMethod,
    /// `-w`
    Weight,
    /// `-x`
    UThreshold,
    /// `-y`
    LThreshold,
    /// `--mcast-interface`
    McastInterface,
    /// `--timeout`
    Timeout,
    /// `--daemon`
    Daemon,
    /// `--stats`
    Stats,
    /// `--rate`
    Rate,
    /// `--thresholds`
    Thresholds,
    /// `--persistent-conn`
    PersistentConn,
    /// `--nosort`
    Nosort,
    /// `--syncid`
    Syncid,
    /// `--exact`
    Exact,
    /// `-o`
    Ops,
    /// `--pe`
    Pe,
    /// `-b`
    SchedFlags,
    /// `--mcast-group`
    McastGroup,
    /// `--mcast-port`
    McastPort,
    /// `--mcast-ttl`
    McastTtl,
    /// `--sync-maxlen`
    SyncMaxlen,
    /// `--tun-info`
    TunInfo,
    /// `--tun-type`
    TunKind,
    /// `--tun-port`
    TunPort,
    /// `--tun-nocsum`
    TunNocsum,
    /// `--tun-csum`
    TunCsum,
    /// `--tun-remcsum`
    TunRemcsum,
}

/// Every slot with its name in messages, in checking order.
pub const SLOTS: [(Slot, &str); 34] = [
    (Numeric, "numeric"),
    (Connection, "connection"),
    (ServiceAddress, "service-address"),
    (SchedulerName, "scheduler"),
    (Persistent, "persistent"),
    (Mask, "netmask"),
    (RealServer, "real-server"),
    (ForwardingMethod, "forwarding-method"),
    (Weight, "weight"),
    (UThreshold, "u-threshold"),
    (LThreshold, "l-threshold"),
    (McastInterface, "mcast-interface"),
    (Timeout, "timeout"),
    (Daemon, "daemon"),
    (Stats, "stats"),
    (Rate, "rate"),
    (Thresholds, "thresholds"),
    (PersistentConn, "persistent-conn"),
    (Nosort, "nosort"),
    (Syncid, "syncid"),
    (Exact, "exact"),
    (Ops, "ops"),
    (Pe, "pe"),
    (SchedFlags, "sched-flags"),
    (McastGroup, "mcast-group"),
    (McastPort, "mcast-port"),
    (McastTtl, "mcast-ttl"),
    (SyncMaxlen, "sync-maxlen"),
    (TunInfo, "tun-info"),
    (TunKind, "tun-type"),
    (TunPort, "tun-port"),
    (TunNocsum, "tun-nocsum"),
    (TunCsum, "tun-csum"),
    (TunRemcsum, "tun-remcsum"),
];

impl Slot {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        SLOTS.iter().find(|(slot, _)| *slot == self).map_or("", |(_, name)| name)
    }
}

/// What an option means. Options of one slot differ here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tag {
    /// Says what is to be done.
    Do(Command),
    /// `-t`
    TcpService,
    /// `-u`
    UdpService,
    /// `--sctp-service`
    SctpService,
    /// `-f`
    FwmarkService,
    /// `-6`: tracked by nothing, so it may be repeated and is never "illegal".
    Ipv6,
    /// `-g`
    Gatewaying,
    /// `-i`
    Ipip,
    /// `-m`
    Masquerading,
    /// `--sort`: the default, and untracked like `-6`.
    Sort,
    /// The only option of its slot.
    Is(Slot),
}

impl Tag {
    /// The slot it is tracked under.
    pub fn slot(self) -> Option<Slot> {
        match self {
            Do(_) | Ipv6 | Sort => None,
            TcpService | UdpService | SctpService | FwmarkService => Some(ServiceAddress),
            Gatewaying | Ipip | Masquerading => Some(ForwardingMethod),
            Is(slot) => Some(slot),
        }
    }
}

/// The word after an option, as help names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// None.
    No,
    /// The next word, whatever it is.
    Needs(&'static str),
    /// The next word unless it begins with `-`.
    Takes(&'static str),
}

/// Where help shows an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// What to do.
    Commands,
    /// How a service is named.
    Services,
    /// Everything else.
    Options,
    /// Connection synchronisation.
    Daemons,
    /// Another spelling of one shown elsewhere.
    Unseen,
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Its letter.
    pub short: Option<char>,
    /// Its long name. Never abbreviated.
    pub long: &'static str,
    /// Its argument.
    pub argument: Argument,
    /// What it means.
    pub tag: Tag,
    /// Where help shows it.
    pub section: Section,
    /// What help says; several lines if need be.
    pub help: &'static str,
}

const fn command(letter: char, long: &'static str, what: Command, help: &'static str) -> Opt {
    Opt { short: Some(letter), long, argument: No, tag: Do(what), section: Section::Commands, help }
}

const fn service(
    short: Option<char>,
    long: &'static str,
    value: &'static str,
    tag: Tag,
    help: &'static str,
) -> Opt {
    Opt { short, long, argument: Needs(value), tag, section: Section::Services, help }
}

const fn option(
    short: Option<char>,
    long: &'static str,
    argument: Argument,
    tag: Tag,
    help: &'static str,
) -> Opt {
    Opt { short, long, argument, tag, section: Section::Options, help }
}

const fn daemon(long: &'static str, value: &'static str, slot: Slot, help: &'static str) -> Opt {
    Opt { short: None, long, argument: Needs(value), tag: Is(slot), section: Section::Daemons, help }
}

/// All of them, in help's order.
pub const OPTIONS: &[Opt] = &[
    command('A', "add-service", AddService, "add a virtual service"),
    command('E', "edit-service", EditService, "replace the settings of a virtual service"),
    command('D', "delete-service", DeleteService, "delete a virtual service and its real servers"),
    command('C', "clear", Flush, "delete all virtual services"),
    command('R', "restore", Restore, "run the command lines on stdin"),
    command('S', "save", Save, "print the table as command lines for -R"),
    command('a', "add-server", AddServer, "add a real server"),
    command('e', "edit-server", EditServer, "replace the settings of a real server"),
    command('d', "delete-server", DeleteServer, "delete a real server"),
    command('L', "list", List, "list the table"),
    Opt { section: Section::Unseen, ..command('l', "list", List, "as -L") },
    command('Z', "zero", Zero, "zero the counters of one service or all"),
    Opt {
        short: None,
        long: "set",
        argument: No,
        tag: Do(Set),
        section: Section::Commands,
        help: "set the connection timeouts, in seconds (0 keeps one)",
    },
    Opt {
        short: None,
        long: "start-daemon",
        argument: Needs("{master|backup}"),
        tag: Do(StartDaemon),
        section: Section::Commands,
        help: "start connection synchronisation",
    },
    Opt {
        short: None,
        long: "stop-daemon",
        argument: Needs("{master|backup}"),
        tag: Do(StopDaemon),
        section: Section::Commands,
        help: "stop connection synchronisation",
    },
    command('h', "help", Help, "print this text"),
    Opt { section: Section::Unseen, ..command('v', "version", Version, "print the version") },
    service(Some('t'), "tcp-service", "service-address", TcpService, "TCP, at host[:port]"),
    service(Some('u'), "udp-service", "service-address", UdpService, "UDP, at host[:port]"),
    service(None, "sctp-service", "service-address", SctpService, "SCTP, at host[:port]"),
    service(Some('f'), "fwmark-service", "fwmark", FwmarkService, "packets with this mark, 1 to 4294967295"),
    option(Some('6'), "ipv6", No, Ipv6, "after -f: the mark service is for IPv6"),
    option(
        Some('s'),
        "scheduler",
        Needs("scheduler"),
        Is(SchedulerName),
        "rr|wrr|lc|wlc|lblc|lblcr|dh|sh|sed|nq|fo|ovf|mh|twos,\nwlc if not given",
    ),
    option(None, "pe", Needs("engine"), Is(Pe), "persistence engine: sip"),
    option(
        Some('p'),
        "persistent",
        Takes("timeout"),
        Is(Persistent),
        "persistent service, 360 seconds if not given",
    ),
    option(
        Some('M'),
        "netmask",
        Needs("netmask"),
        Is(Mask),
        "part of the client's address that persistence looks at",
    ),
    option(Some('r'), "real-server", Needs("server-address"), Is(RealServer), "the real server, host[:port]"),
    option(Some('g'), "gatewaying", No, Gatewaying, "reach it by direct routing (default)"),
    option(Some('i'), "ipip", No, Ipip, "reach it through a tunnel"),
    option(Some('m'), "masquerading", No, Masquerading, "reach it by address translation (NAT)"),
    option(None, "tun-type", Needs("type"), Is(TunKind), "ipip|gue|gre, ipip if not given"),
    option(None, "tun-port", Needs("port"), Is(TunPort), "destination port of a gue tunnel"),
    option(None, "tun-nocsum", No, Is(TunNocsum), "tunnel without checksum (default)"),
    option(None, "tun-csum", No, Is(TunCsum), "tunnel with checksum"),
    option(None, "tun-remcsum", No, Is(TunRemcsum), "gue tunnel with remote checksum offload"),
    option(Some('w'), "weight", Needs("weight"), Is(Weight), "capacity of the real server, 1 if not given"),
    option(
        Some('x'),
        "u-threshold",
        Needs("uthreshold"),
        Is(UThreshold),
        "connections at which it gets no more",
    ),
    option(
        Some('y'),
        "l-threshold",
        Needs("lthreshold"),
        Is(LThreshold),
        "connections below which it does again",
    ),
    option(Some('c'), "connection", No, Is(Connection), "list the connections"),
    option(None, "timeout", No, Is(Timeout), "list the timeouts (tcp tcpfin udp)"),
    option(None, "daemon", No, Is(Daemon), "list the sync daemons"),
    option(None, "stats", No, Is(Stats), "list with counters"),
    option(None, "rate", No, Is(Rate), "list with rates per second"),
    option(Some('X'), "exact", No, Is(Exact), "list counters and rates in full"),
    option(None, "thresholds", No, Is(Thresholds), "list with connection thresholds"),
    option(None, "persistent-conn", No, Is(PersistentConn), "list with persistent connections"),
    option(None, "tun-info", No, Is(TunInfo), "list with tunnels"),
    option(None, "nosort", No, Is(Nosort), "list in the balancer's own order"),
    option(None, "sort", No, Sort, "list sorted: always so, accepted for old scripts"),
    option(Some('o'), "ops", No, Is(Ops), "one-packet scheduling, UDP only"),
    option(Some('n'), "numeric", No, Is(Numeric), "addresses and ports as numbers"),
    option(Some('b'), "sched-flags", Needs("flags"), Is(SchedFlags), "scheduler flags, separated by commas"),
    daemon("syncid", "sid", Syncid, "which senders are listened to (default=0, all)"),
    daemon("sync-maxlen", "length", SyncMaxlen, "longest sync message (default=1472)"),
    daemon("mcast-interface", "interface", McastInterface, "multicast interface (default=eth0)"),
    daemon("mcast-group", "address", McastGroup, "multicast group (default=224.0.0.81)"),
    daemon("mcast-port", "port", McastPort, "UDP port (default=8848)"),
    daemon("mcast-ttl", "ttl", McastTtl, "multicast TTL (default=1)"),
];

/// Which slots a command knows.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Without these it is refused.
    pub needs: &'static [Slot],
    /// These may be given.
    pub takes: &'static [Slot],
    /// Of these, one may be given.
    pub one_of: &'static [Slot],
}

const SERVICE_OPTIONS: &[Slot] = &[SchedulerName, Persistent, Mask, Ops, Pe, SchedFlags];
const SERVER_OPTIONS: &[Slot] =
    &[ForwardingMethod, Weight, UThreshold, LThreshold, TunKind, TunPort, TunNocsum, TunCsum, TunRemcsum];
const LIST_OPTIONS: &[Slot] =
    &[Numeric, Stats, Rate, Thresholds, PersistentConn, Nosort, Syncid, Exact, TunInfo];
const DAEMON_OPTIONS: &[Slot] = &[McastInterface, Syncid, McastGroup, McastPort, McastTtl, SyncMaxlen];

impl Command {
    /// What messages call it.
    pub fn name(self) -> &'static str {
        match self {
            AddService => "add-service",
            EditService => "edit-service",
            DeleteService => "delete-service",
            Flush => "flush",
            Restore => "restore",
            Save => "save",
            AddServer => "add-server",
            EditServer => "edit-server",
            DeleteServer => "delete-server",
            List => "list",
            Zero => "zero",
            Set => "set",
            StartDaemon => "start-daemon",
            StopDaemon => "stop-daemon",
            Help => "help",
            Version => "version",
        }
    }

    /// Which slots it knows.
    pub fn rule(self) -> Rule {
        let (needs, takes, one_of): (&[Slot], &[Slot], &[Slot]) = match self {
            AddService | EditService => (&[ServiceAddress], SERVICE_OPTIONS, &[]),
            DeleteService => (&[ServiceAddress], &[], &[]),
            AddServer | EditServer => (&[ServiceAddress, RealServer], SERVER_OPTIONS, &[]),
            DeleteServer => (&[ServiceAddress, RealServer], &[], &[]),
            List => (&[], LIST_OPTIONS, &[Connection, ServiceAddress, Timeout, Daemon]),
            Zero => (&[], &[ServiceAddress], &[]),
            Save => (&[], &[Numeric], &[]),
            StartDaemon => (&[], DAEMON_OPTIONS, &[]),
            StopDaemon => (&[], &[Syncid], &[]),
            Flush | Restore | Set | Help | Version => (&[], &[], &[]),
        };
        Rule { needs, takes, one_of }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_in_order() {
        assert!(SLOTS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn spellings_are_unique() {
        for (at, opt) in OPTIONS.iter().enumerate() {
            for other in &OPTIONS[..at] {
                assert!(opt.short.is_none() || opt.short != other.short, "-{:?} twice", opt.short);
                assert!(opt.long != other.long || opt.tag == other.tag, "--{} twice", opt.long);
            }
        }
    }

    #[test]
    fn each_tracked_option_has_a_command() {
        let commands: Vec<Command> = OPTIONS
            .iter()
            .filter_map(|opt| match opt.tag {
                Do(command) => Some(command),
                _ => None,
            })
            .collect();
        for (slot, name) in SLOTS {
            let known = commands.iter().any(|command| {
                let rule = command.rule();
                [rule.needs, rule.takes, rule.one_of].iter().any(|slots| slots.contains(&slot))
            });
            assert!(known, "no command takes {name}");
        }
    }
}
