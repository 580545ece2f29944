//! What a connection's packets make of it: (state, direction, event) → state, and how long each state lasts.
//!
//! TCP and SCTP follow IPVS's tables cell by cell; UDP has one state there, two here. A state is a small number,
//! the one IPVS itself uses, so that it fits an entry's control word, sync messages and listings alike.
//!
//! Each table row (one direction, one event) is a word of sixteen 4-bit states; the next state is a shift and a
//! mask away. The rows of a protocol are one array whose length is a power of two and whose index is masked: no
//! bounds check is left that the verifier would have to be told about.

pub mod sctp;
pub mod tcp;
pub mod udp;

use crate::addr::Proto;

/// Which way a packet goes, seen from the dest.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client.
    Input = 0,
    /// From the dest.
    Output = 1,
    /// From the client, while no packet of the dest has ever been seen: IPVS's NOOUTPUT flag, set when a connection
    /// to a dest that is not NAT begins, cleared for good by the first packet that does come by. The balancer then
    /// guesses the unseen half.
    InputOnly = 2,
}

/// What a packet means to its protocol's table: made by [`tcp::event`] or [`sctp::event`]; [`Event::NONE`] for UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Event(pub(crate) u8);

impl Event {
    /// A packet of a protocol without events.
    pub const NONE: Self = Self(0);
    /// No packet at all has been seen, only an ICMP error that quotes one.
    pub const QUOTED: Self = Self(u8::MAX);
}

/// How long a connection is kept that an ICMP error began, until its own first packet: IPVS's timeout of entries just
/// made, in seconds.
pub const QUOTED_TIMEOUT: u32 = 3;

/// The state after a packet. `secure`: the tables of the secure_tcp defence.
#[inline(always)]
pub fn next(proto: Proto, secure: bool, state: u8, direction: Direction, event: Event) -> u8 {
    match proto {
        Proto::TCP => tcp::next(secure, state, direction, event),
        Proto::SCTP => sctp::next(state, direction, event),
        _ => udp::next(state, direction),
    }
}

/// Is the state after such a packet the same, whichever way it goes and whichever tables are in force? Of an open connection
/// it nearly always is. (There may be more cases than are told.)
#[inline(always)]
pub fn rests(proto: Proto, state: u8, event: Event) -> bool {
    match proto {
        Proto::TCP => tcp::rests(state, event),
        Proto::SCTP => sctp::rests(state, event),
        _ => udp::rests(state),
    }
}

/// The state after the packet that opens a connection: a transition from state 0, as any other, but for UDP. An ICMP error
/// is no transition.
#[inline(always)]
pub fn first(proto: Proto, secure: bool, direction: Direction, event: Event) -> u8 {
    match proto {
        Proto::TCP | Proto::SCTP if event == Event::QUOTED => 0,
        Proto::TCP | Proto::SCTP => next(proto, secure, 0, direction, event),
        _ if event == Event::QUOTED => udp::QUOTED,
        _ => udp::FIRST,
    }
}

/// Is it counted in ActiveConn? Otherwise in InActConn.
#[inline(always)]
pub fn active(proto: Proto, state: u8) -> bool {
    match proto {
        Proto::TCP => tcp::active(state),
        Proto::SCTP => sctp::active(state),
        _ => false,
    }
}

/// How long a connection in this state is kept after its last packet, in seconds, unless `--set` says otherwise.
#[inline(always)]
pub fn default_timeout(proto: Proto, state: u8) -> u32 {
    match proto {
        Proto::TCP => tcp::default_timeout(state),
        Proto::SCTP => sctp::default_timeout(state),
        _ => udp::TIMEOUT,
    }
}

/// The name in listings. Templates show `NONE` or `ASSURED` instead, whatever their protocol.
pub fn name(proto: Proto, state: u8) -> &'static str {
    match proto {
        Proto::TCP => tcp::name(state),
        Proto::UDP => udp::NAME,
        Proto::SCTP => sctp::name(state),
        // What IPVS prints for a state it knows no name for.
        _ => "ERR!",
    }
}

/// A row of up to sixteen states, column 0 in the lowest four bits.
const fn pack(states: &[u8]) -> u64 {
    assert!(states.len() <= 16);
    let mut row = 0;
    let mut column = 0;
    while column < states.len() {
        assert!(states[column] < 16);
        row |= (states[column] as u64) << (4 * column);
        column += 1;
    }
    row
}

/// One column of a row.
#[inline(always)]
const fn column(row: u64, at: u8) -> u8 {
    (row >> (4 * (at & 15) as u32)) as u8 & 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_packet_udp_is_told_from_confirmed() {
        let first = first(Proto::UDP, false, Direction::Input, Event::NONE);
        let later = next(Proto::UDP, false, first, Direction::Input, Event::NONE);
        assert_eq!((first, later), (udp::FIRST, udp::CONFIRMED));
        assert_eq!(next(Proto::UDP, true, later, Direction::Output, Event::NONE), udp::CONFIRMED);
        for (before, direction) in [
            (udp::FIRST, Direction::Output),
            (udp::QUOTED, Direction::Output),
            (udp::QUOTED, Direction::Input),
        ] {
            assert_eq!(next(Proto::UDP, false, before, direction, Event::NONE), udp::FIRST);
        }
        for state in [first, later] {
            assert_eq!(name(Proto::UDP, state), "UDP");
            assert_eq!(default_timeout(Proto::UDP, state), 300);
            assert!(!active(Proto::UDP, state));
        }
    }

    #[test]
    fn at_rest_no_table_moves_a_state() {
        let mut rest = 0;
        for proto in [Proto::TCP, Proto::UDP, Proto::SCTP, Proto::IP] {
            for (state, event) in
                (0..=255).flat_map(|state| (0..=255).map(move |event| (state, Event(event))))
            {
                if !rests(proto, state, event) {
                    continue;
                }
                rest += 1;
                for direction in [Direction::Input, Direction::Output, Direction::InputOnly] {
                    let ends = [false, true].map(|secure| next(proto, secure, state, direction, event));
                    assert_eq!(ends, [state; 2], "{proto:?} {direction:?} {event:?}");
                }
            }
        }
        assert!(rest != 0);
        assert!(rests(Proto::TCP, tcp::TcpState::Established as u8, tcp::event(tcp::flags::ACK)));
        assert!(rests(Proto::SCTP, sctp::SctpState::Established as u8, sctp::event(sctp::chunk::DATA, None)));
        assert!(rests(Proto::UDP, udp::CONFIRMED, Event::NONE));
    }

    #[test]
    fn every_number_is_answered() {
        // A word from a foreign or torn entry may hold anything: no answer may be a state that does not exist.
        for proto in [Proto::TCP, Proto::UDP, Proto::SCTP, Proto::IP] {
            for state in 0..=255 {
                for event in 0..=255 {
                    for direction in [Direction::Input, Direction::Output, Direction::InputOnly] {
                        let next = next(proto, event & 1 == 0, state, direction, Event(event));
                        assert!(next < 14 && (proto != Proto::TCP || next < 11));
                    }
                }
                let _ = (active(proto, state), default_timeout(proto, state), name(proto, state));
            }
        }
    }
}
