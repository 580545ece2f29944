//! SCTP: IPVS's table. The event is that of a packet's first chunk.

use crate::cell::masked;

use super::{Direction, Event, column, pack};

/// The states, numbered as IPVS does.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SctpState {
    /// Before the first packet.
    None = 0,
    /// The client's first INIT.
    Init1 = 1,
    /// More INITs.
    Init = 2,
    /// The dest has answered with a cookie.
    CookieSent = 3,
    /// The client has returned a cookie that the dest was not seen to send.
    CookieReplied = 4,
    /// The dest has sent INIT, a cookie is awaited.
    CookieWait = 5,
    /// The client has sent the cookie.
    Cookie = 6,
    /// The cookie was echoed.
    CookieEchoed = 7,
    /// Open.
    Established = 8,
    /// The dest shuts down.
    ShutdownSent = 9,
    /// The client shuts down.
    ShutdownReceived = 10,
    /// The dest has acknowledged the shutdown.
    ShutdownAckSent = 11,
    /// Aborted before it was open.
    Rejected = 12,
    /// Done.
    Closed = 13,
}

/// The states with their default timeouts in seconds and their names.
pub const STATES: [(SctpState, u16, &str); 14] = [
    (SctpState::None, 2, "NONE"),
    (SctpState::Init1, 4, "INIT1"),
    (SctpState::Init, 61, "INIT"),
    (SctpState::CookieSent, 61, "C-SENT"),
    (SctpState::CookieReplied, 61, "C-REPLIED"),
    (SctpState::CookieWait, 61, "C-WAIT"),
    (SctpState::Cookie, 61, "COOKIE"),
    (SctpState::CookieEchoed, 61, "C-ECHOED"),
    (SctpState::Established, 900, "ESTABLISHED"),
    (SctpState::ShutdownSent, 61, "S-SENT"),
    (SctpState::ShutdownReceived, 61, "S-RECEIVED"),
    (SctpState::ShutdownAckSent, 61, "S-ACK-SENT"),
    (SctpState::Rejected, 4, "REJECTED"),
    (SctpState::Closed, 61, "CLOSED"),
];

/// Chunk types that mean something to the table; every other type counts as data.
pub mod chunk {
    /// Payload.
    pub const DATA: u8 = 0;
    /// Opens an association; the only chunk that may create a connection.
    pub const INIT: u8 = 1;
    /// Answer to INIT, with the cookie.
    pub const INIT_ACK: u8 = 2;
    /// Closes at once.
    pub const ABORT: u8 = 6;
    /// Begins an orderly close.
    pub const SHUTDOWN: u8 = 7;
    /// Answer to SHUTDOWN.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// Reports an error.
    pub const ERROR: u8 = 9;
    /// Returns the cookie.
    pub const COOKIE_ECHO: u8 = 10;
    /// Accepts the cookie.
    pub const COOKIE_ACK: u8 = 11;
    /// Ends an orderly close.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Rows of each direction, in the order of the event numbers.
const EVENTS: [u8; 10] = [
    chunk::DATA,
    chunk::INIT,
    chunk::INIT_ACK,
    chunk::COOKIE_ECHO,
    chunk::COOKIE_ACK,
    chunk::SHUTDOWN,
    chunk::SHUTDOWN_ACK,
    chunk::SHUTDOWN_COMPLETE,
    chunk::ERROR,
    chunk::ABORT,
];

/// The event of a packet whose first chunk is of this type. `second`: the type of the chunk behind it, of use only
/// after [`may_hide_abort`]: IPVS then looks whether an ABORT is bundled.
#[inline(always)]
pub const fn event(first: u8, second: Option<u8>) -> Event {
    if let Some(chunk::ABORT) = second
        && may_hide_abort(first)
    {
        return HIDDEN_ABORT;
    }
    // Event 0 is data, which every unknown type counts as.
    const BY_CHUNK: u64 = {
        let mut events = [0; 16];
        let mut event = 0;
        while event < EVENTS.len() {
            events[EVENTS[event] as usize] = event as u8;
            event += 1;
        }
        pack(&events)
    };
    Event(if first < 16 { column(BY_CHUNK, first) } else { 0 })
}

/// The event of an ABORT behind another chunk. To the table it is an ABORT; but whether a packet may open a connection,
/// IPVS asks its first chunk only.
const HIDDEN_ABORT: Event = Event(16 | 9);
const _: () = assert!(EVENTS[9] == chunk::ABORT);

/// Does the chunk behind a first one of this type matter?
#[inline(always)]
pub const fn may_hide_abort(first: u8) -> bool {
    first == chunk::COOKIE_ECHO || first == chunk::COOKIE_ACK
}

/// The state after a packet.
#[inline(always)]
pub fn next(state: u8, direction: Direction, event: Event) -> u8 {
    let row = (direction as u32) << 4 | (event.0 & 15) as u32;
    column(ROWS[masked::<63>(row)], state)
}

/// See [`super::rests`]: an open connection's data, and what counts as such.
#[inline(always)]
pub const fn rests(state: u8, event: Event) -> bool {
    state == SctpState::Established as u8 && event.0 == 0
}

/// Does a connection in this state count as active? Only an open one does.
#[inline(always)]
pub const fn active(state: u8) -> bool {
    state == SctpState::Established as u8
}

/// Seconds a connection in this state is kept.
#[inline(always)]
pub fn default_timeout(state: u8) -> u32 {
    TIMEOUTS[(state & 15) as usize] as u32
}

/// As listings show it.
pub fn name(state: u8) -> &'static str {
    STATES.get(state as usize).map_or("ERR!", |(_, _, name)| name)
}

/// For INPUT, OUTPUT and INPUT-ONLY: the next state by event (rows, as [`EVENTS`]) and state (columns).
#[rustfmt::skip]
const TABLE: [[[u8; 14]; 10]; 3] = [
    [
        [ 8,  1,  2,  3,  4,  5,  6,  7,  8,  9, 10, 11, 12, 13], // data
        [ 1,  2,  2,  3,  4,  5,  6,  7,  8,  9, 10, 11,  2,  2], // INIT
        [ 5,  5,  5,  3,  4,  6,  6,  7,  8,  9, 10, 11, 12, 13], // INIT ACK
        [ 4,  2,  2,  4,  4,  5,  6,  7,  8,  9, 10, 11, 12, 13], // COOKIE ECHO
        [ 8,  1,  2,  3,  4,  5,  6,  8,  8,  9, 10, 11, 12, 13], // COOKIE ACK
        [10,  1,  2,  3,  4,  5,  6,  7, 10,  9, 10, 11, 12, 13], // SHUTDOWN
        [13,  2,  2,  3,  4,  5,  6,  7,  8, 13, 10, 13, 12, 13], // SHUTDOWN ACK
        [13, 13, 13,  3,  4,  5,  6,  7,  8,  9, 10, 13, 12, 13], // SHUTDOWN COMPLETE
        [13,  1,  2,  3,  4,  5,  6, 13,  8,  9, 10, 11, 12, 13], // ERROR
        [13, 13, 13, 13, 13, 12, 13, 13, 13, 13, 13, 13, 13, 13], // ABORT
    ],
    [
        [ 8,  1,  2,  3,  4,  5,  6,  7,  8,  9, 10, 11, 12, 13], // data
        [ 5,  5,  5,  5,  5,  5,  5,  5,  8,  5,  5,  5,  5,  5], // INIT
        [ 3,  3,  3,  3,  4,  5,  6,  7,  8,  9, 10, 11, 12, 13], // INIT ACK
        [ 7,  7,  7,  7,  7,  7,  7,  7,  8,  9, 10, 11, 12, 13], // COOKIE ECHO
        [ 8,  8,  8,  8,  8,  8,  8,  8,  8,  9, 10, 11, 12, 13], // COOKIE ACK
        [ 9,  9,  9,  9,  9,  9,  9,  9,  9,  9, 10, 11, 12, 13], // SHUTDOWN
        [11, 11, 11, 11, 11,  5,  6,  7,  8, 11, 11, 11, 12, 13], // SHUTDOWN ACK
        [13,  1,  2,  3,  4,  5,  6,  7,  8,  9, 10, 11, 12, 13], // SHUTDOWN COMPLETE
        [13, 13, 13, 13, 13,  5,  6,  7,  8,  9, 10, 11, 12, 13], // ERROR
        [13, 12, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13, 13], // ABORT
    ],
    [
        [ 8,  1,  2,  3,  4,  8,  6,  7,  8,  9, 10, 11, 12, 13], // data
        [ 1,  2,  2,  2,  2,  2,  6,  7,  8,  9, 10, 11,  2,  2], // INIT
        [ 7,  7,  7,  7,  7,  7,  6,  7,  8,  9, 10, 11, 12, 13], // INIT ACK
        [ 8,  8,  8,  8,  8,  8,  6,  7,  8,  9, 10, 11, 12, 13], // COOKIE ECHO
        [ 8,  1,  2,  8,  8,  5,  8,  8,  8,  9, 10, 11, 12, 13], // COOKIE ACK
        [10,  1,  2,  3,  4,  5,  6,  7, 10,  9, 10, 11, 12, 13], // SHUTDOWN
        [13,  2,  2,  3,  4,  5,  6,  7, 13, 13, 10, 13, 12, 13], // SHUTDOWN ACK
        [13, 13, 13, 13, 13,  5,  6,  7,  8,  9, 13, 13, 12, 13], // SHUTDOWN COMPLETE
        [13,  1,  2,  3,  4,  5,  6,  7,  8,  9, 10, 11, 12, 13], // ERROR
        [13, 13, 13, 13, 13, 12, 13, 13, 13, 13, 13, 13, 13, 13], // ABORT
    ],
];

/// The table's rows at `direction << 4 | event`. Events that do not exist lead to CLOSED.
static ROWS: [u64; 64] = {
    let mut rows = [pack(&[SctpState::Closed as u8; 16]); 64];
    let mut at = 0;
    while at < 30 {
        let (direction, event) = (at / 10, at % 10);
        rows[(direction << 4) | event] = pack(&TABLE[direction][event]);
        at += 1;
    }
    rows
};

static TIMEOUTS: [u16; 16] = {
    let mut timeouts = [STATES[0].1; 16];
    let mut state = 0;
    while state < STATES.len() {
        timeouts[state] = STATES[state].1;
        state += 1;
    }
    timeouts
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// The table as the reference prints it.
    const REFERENCE: &str = "
INPUT      d   8  1  2  3  4  5  6  7  8  9 10 11 12 13
           i   1  2  2  3  4  5  6  7  8  9 10 11  2  2
           ia  5  5  5  3  4  6  6  7  8  9 10 11 12 13
           ce  4  2  2  4  4  5  6  7  8  9 10 11 12 13
           ca  8  1  2  3  4  5  6  8  8  9 10 11 12 13
           s  10  1  2  3  4  5  6  7 10  9 10 11 12 13
           sa 13  2  2  3  4  5  6  7  8 13 10 13 12 13
           sc 13 13 13  3  4  5  6  7  8  9 10 13 12 13
           er 13  1  2  3  4  5  6 13  8  9 10 11 12 13
           ab 13 13 13 13 13 12 13 13 13 13 13 13 13 13
OUTPUT     d   8  1  2  3  4  5  6  7  8  9 10 11 12 13
           i   5  5  5  5  5  5  5  5  8  5  5  5  5  5
           ia  3  3  3  3  4  5  6  7  8  9 10 11 12 13
           ce  7  7  7  7  7  7  7  7  8  9 10 11 12 13
           ca  8  8  8  8  8  8  8  8  8  9 10 11 12 13
           s   9  9  9  9  9  9  9  9  9  9 10 11 12 13
           sa 11 11 11 11 11  5  6  7  8 11 11 11 12 13
           sc 13  1  2  3  4  5  6  7  8  9 10 11 12 13
           er 13 13 13 13 13  5  6  7  8  9 10 11 12 13
           ab 13 12 13 13 13 13 13 13 13 13 13 13 13 13
INPUT-ONLY d   8  1  2  3  4  8  6  7  8  9 10 11 12 13
           i   1  2  2  2  2  2  6  7  8  9 10 11  2  2
           ia  7  7  7  7  7  7  6  7  8  9 10 11 12 13
           ce  8  8  8  8  8  8  6  7  8  9 10 11 12 13
           ca  8  1  2  8  8  5  8  8  8  9 10 11 12 13
           s  10  1  2  3  4  5  6  7 10  9 10 11 12 13
           sa 13  2  2  3  4  5  6  7 13 13 10 13 12 13
           sc 13 13 13 13 13  5  6  7  8  9 13 13 12 13
           er 13  1  2  3  4  5  6  7  8  9 10 11 12 13
           ab 13 13 13 13 13 12 13 13 13 13 13 13 13 13
";

    #[test]
    fn every_cell() {
        let (mut direction, mut cells) = (Direction::Input, 0);
        for line in REFERENCE.lines().filter(|l| !l.is_empty()) {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            match words[0] {
                "INPUT" => direction = Direction::Input,
                "OUTPUT" => direction = Direction::Output,
                "INPUT-ONLY" => direction = Direction::InputOnly,
                _ => words.insert(0, ""),
            }
            let chunk = match words[1] {
                "d" => 0,
                "i" => 1,
                "ia" => 2,
                "ce" => 10,
                "ca" => 11,
                "s" => 7,
                "sa" => 8,
                "sc" => 14,
                "er" => 9,
                _ => 6,
            };
            for (state, expected) in words[2..].iter().enumerate() {
                let next = next(state as u8, direction, event(chunk, None));
                assert_eq!(next, expected.parse::<u8>().unwrap(), "{line}, column {state}");
                cells += 1;
            }
        }
        assert_eq!(cells, 420);
    }

    #[test]
    fn events() {
        let data = event(chunk::DATA, None);
        for other in [3, 4, 5, 12, 13, 15, 16, 17, 22, 26, 192, 255] {
            assert_eq!(event(other, None), data, "chunk {other}");
        }
        let abort = event(chunk::ABORT, None);
        for first in [chunk::COOKIE_ECHO, chunk::COOKIE_ACK] {
            let hidden = event(first, Some(chunk::ABORT));
            assert_ne!(hidden, abort);
            for state in 0..14 {
                let after = |event| next(state, Direction::Input, event);
                assert_eq!(after(hidden), after(abort), "{first} in {state}");
            }
        }
        assert_eq!(event(chunk::DATA, Some(chunk::ABORT)), data);
        assert_eq!(event(chunk::INIT, Some(chunk::ABORT)), event(chunk::INIT, None));
        assert_ne!(event(chunk::COOKIE_ECHO, Some(chunk::DATA)), abort);
    }

    #[test]
    fn timeouts_names_activity() {
        for (state, name, timeout) in [
            (0, "NONE", 2),
            (1, "INIT1", 4),
            (2, "INIT", 61),
            (3, "C-SENT", 61),
            (4, "C-REPLIED", 61),
            (5, "C-WAIT", 61),
            (6, "COOKIE", 61),
            (7, "C-ECHOED", 61),
            (8, "ESTABLISHED", 900),
            (9, "S-SENT", 61),
            (10, "S-RECEIVED", 61),
            (11, "S-ACK-SENT", 61),
            (12, "REJECTED", 4),
            (13, "CLOSED", 61),
        ] {
            assert_eq!(super::name(state), name);
            assert_eq!(default_timeout(state), timeout, "{name}");
            assert_eq!(active(state), state == 8, "{name}");
            assert_eq!(STATES[state as usize].0 as u8, state);
        }
    }
}
