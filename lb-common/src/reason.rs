//! Every outcome a packet can have, by name. Each has a number (its counter), a text (what `lb-user status` shows)
//! and an action. Sent ones come first, then passed ones, then dropped ones.

use crate::cell;

/// What becomes of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// On to the kernel's own stack, untouched.
    Pass,
    /// Gone.
    Drop,
    /// Out by the NIC it came in by.
    Transmit,
    /// Out by this NIC.
    Redirect(u32),
}

/// What became of a packet, and why: a reason, and for a packet sent out the NIC to send it by. One word, because that
/// is what a BPF function can return.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Verdict(u64);

impl Verdict {
    /// None yet: the packet goes on to the stage in the bits below. No reason's number has this one.
    const STAGE: u32 = 1 << 31;

    /// The stage that goes on with the packet.
    #[inline(always)]
    pub const fn stage(self) -> Option<Stage> {
        let word = self.0 as u32;
        if word & Self::STAGE == 0 {
            return None;
        }
        match word & !Self::STAGE {
            0 => Some(Stage::Slow),
            1 => Some(Stage::New),
            2 => Some(Stage::Ipv6),
            3 => Some(Stage::Wait),
            4 => Some(Stage::Upkeep),
            5 => Some(Stage::Probe),
            6 => Some(Stage::NewIpv6),
            7 => Some(Stage::Ftp),
            _ => None,
        }
    }

    /// Sent out by `ifindex`, or by the NIC it came in by if that is `ingress`.
    #[inline(always)]
    pub const fn sent(reason: Reason, ifindex: u32, ingress: u32) -> Self {
        let way = if ifindex == ingress { 0 } else { ifindex };
        Self(reason as u64 | (way as u64) << 32)
    }
    /// As a word, and back.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }
    /// From [`Verdict::word`].
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }
    /// The counter to move: a [`Reason`]'s number.
    #[inline(always)]
    pub const fn counter(self) -> u32 {
        self.0 as u32
    }
    /// Why.
    pub fn reason(self) -> Option<Reason> {
        Reason::ALL.get(self.0 as u32 as usize).copied()
    }
    /// What to do with the packet.
    #[inline(always)]
    pub const fn action(self) -> Action {
        match self.0 as u32 {
            sent if sent < Reason::NotIp as u32 => match (self.0 >> 32) as u32 {
                0 => Action::Transmit,
                ifindex => Action::Redirect(ifindex),
            },
            passed if passed < Reason::FragmentUnknown as u32 => Action::Pass,
            _ => Action::Drop,
        }
    }
}

/// Where the pass over a packet goes on. In the kernel these are programs of their own, in the map `stages`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// [`crate::slow::process`].
    Slow = 0,
    /// [`crate::pipeline::newcomer`].
    New = 1,
    /// [`crate::pipeline::ipv6`].
    Ipv6 = 2,
    /// [`crate::fragments::process`].
    Wait = 3,
    /// [`crate::upkeep::process`].
    Upkeep = 4,
    /// [`crate::probe::process`].
    Probe = 5,
    /// [`crate::pipeline::newcomer_ipv6`].
    NewIpv6 = 6,
    /// [`crate::ftp::process`].
    Ftp = 7,
}

impl From<Stage> for Verdict {
    #[inline(always)]
    fn from(stage: Stage) -> Self {
        Self((Self::STAGE | stage as u32) as u64)
    }
}

impl From<Reason> for Verdict {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self(reason as u64)
    }
}

impl core::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?} ({:?})", self.action(), self.reason())
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $action:ident, $label:literal, $text:literal;)*) => {
        /// Why a packet ended as it did.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* #[doc = $text] $name,)*
        }

        impl Reason {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name shown and exported.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
            /// What it means.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
            /// The fate of a packet that ends with this reason. (Forwarded ones have the verdict of their way.)
            pub const fn action(self) -> Action {
                match self { $(Self::$name => Action::$action,)* }
            }
        }
    };
}

reasons! {
    Forwarded = Transmit, "forwarded", "sent to a server";
    Replied = Transmit, "replied", "server's answer translated and sent to the client";
    IcmpSent = Transmit, "icmp-sent", "answered with an ICMP error";
    FragmentAwaited = Transmit, "fragment-awaited", "a first fragment that others waited for: sent around the loop, to come back with them";
    FragmentReleased = Transmit, "fragment-released", "a fragment that was put away goes on, behind its first";
    FragmentBack = Transmit, "fragment-back", "a later fragment whose first came while it was put away: sent through the loop";
    Bypassed = Transmit, "bypassed", "sent to its own destination, for want of a server (cache_bypass)";
    ResetSent = Transmit, "reset-sent", "answered with a reset, for a server found dead (on_down reset)";
    NotIp = Pass, "not-ip", "neither IPv4 nor IPv6";
    NotOurs = Pass, "not-ours", "for no address the balancer knows";
    NotUnicast = Pass, "not-unicast", "link-layer broadcast or multicast";
    Truncated = Pass, "truncated", "headers not all there";
    Malformed = Pass, "malformed", "header lengths that cannot be";
    OtherProtocol = Pass, "other-protocol", "neither TCP nor UDP (nor SCTP)";
    NoService = Pass, "no-service", "a known address, but no service on this port";
    NoConnection = Pass, "no-connection", "no connection, and nothing that starts one";
    FamilyIdle = Pass, "family-idle", "no service of this family is left";
    LocalDest = Pass, "local-dest", "the server is this machine";
    LocalClient = Pass, "local-client", "to or from a client on the balancer itself";
    ReplyDirect = Pass, "reply-direct", "reply of a direct-routed or tunnelled connection, passing through";
    ReplyUnknown = Pass, "reply-unknown", "from a server, but of no connection";
    TtlPassed = Pass, "ttl-passed", "a reply whose TTL ends here: the stack answers";
    ForwardingOff = Pass, "forwarding-off", "the way to the client needs ip_forward";
    BackupOnly = Pass, "backup-only", "a client's packet, while only another balancer is to take them (backup_only)";
    ProbeSent = Pass, "probe-sent", "a check's packet, sent to its server as a client's would be (check_path forwarding)";
    ProbeAnswered = Pass, "probe-answered", "a server's answer to such a check";
    FragmentUnknown = Drop, "fragment-unknown", "a later fragment before its first that could not be put away";
    FragmentHeld = Drop, "fragment-held", "a later fragment before its first: a copy waits for that";
    DestGone = Drop, "dest-gone", "connection of a deleted server";
    NoDest = Drop, "no-dest", "no server available";
    NoNeighbour = Drop, "no-neighbour", "next hop's link address unknown";
    NoRoute = Drop, "no-route", "no route to the server or client";
    RouteLocal = Drop, "route-local", "the next hop is an address of this machine where it cannot be";
    TtlExceeded = Drop, "ttl-exceeded", "TTL ended here";
    TooBig = Drop, "too-big", "longer than the path carries";
    TableFull = Drop, "table-full", "no room for the connection";
    BucketBusy = Drop, "bucket-busy", "too many CPUs at one bucket";
    NoHeadroom = Drop, "no-headroom", "no room in front of the packet for the tunnel header";
    Limited = Drop, "limited", "dropped by the drop_packet defence";
    Internal = Drop, "internal", "a map lookup that cannot fail failed";
    BadChecksum = Drop, "bad-checksum", "an ICMP error whose checksum is wrong, and which would have to be translated";
    NoCallId = Drop, "no-call-id", "for a service of persistence engine sip, but no SIP message with a Call-ID";
    TunnelError = Drop, "tunnel-error", "an ICMP error about a tunnel's outer packet, of which the client is not told";
    ProbeLost = Drop, "probe-lost", "a check's packet that came back: its server does not take the virtual address for its own";
    LocalLoopback = Drop, "local-loopback", "the server is 127.0.0.1 or ::1 under NAT, which no packet from outside may reach";
}

impl Reason {
    /// The same, told where this stands. A compiler that knows the number writes it down ahead of the question whose answer
    /// leads here: in two instructions that every packet takes, for the few that end so.
    #[inline(always)]
    pub fn late(self) -> Self {
        // SAFETY: the number of a reason, unchanged.
        unsafe { core::mem::transmute::<u32, Self>(cell::not_ahead(self as u64) as u32) }
    }
}

/// Number of reasons.
pub const COUNT: usize = Reason::ALL.len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_the_list() {
        for reason in Reason::ALL {
            assert_eq!(Verdict::from(*reason).action(), reason.action(), "{reason:?}");
            assert_eq!(Verdict::from(*reason).reason(), Some(*reason));
        }
        assert_eq!(Verdict::sent(Reason::Forwarded, 3, 3).action(), Action::Transmit);
        assert_eq!(Verdict::sent(Reason::Replied, 4, 3).action(), Action::Redirect(4));
    }
}
