//! TCP: IPVS's two tables, the normal one and that of the secure_tcp defence.

use crate::cell::masked;

use super::{Direction, Event, column, pack};

/// The states, numbered as IPVS does.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcpState {
    /// Before the first packet.
    None = 0,
    /// Open.
    Established = 1,
    /// The dest opens a connection to the client.
    SynSent = 2,
    /// The client's SYN was seen.
    SynRecv = 3,
    /// One side has closed; where the dest's half is not seen, the client.
    FinWait = 4,
    /// Closed by both.
    TimeWait = 5,
    /// Reset, or a segment that makes no sense.
    Close = 6,
    /// The client has closed, the dest has not.
    CloseWait = 7,
    /// The last acknowledgement is due.
    LastAck = 8,
    /// Only reached by connections taken over from a peer.
    Listen = 9,
    /// secure_tcp: SYN seen, the rest believed only when the client answers.
    SynAck = 10,
}

/// The states with their default timeouts in seconds and their names.
pub const STATES: [(TcpState, u16, &str); 11] = [
    (TcpState::None, 2, "NONE"),
    (TcpState::Established, 900, "ESTABLISHED"),
    (TcpState::SynSent, 120, "SYN_SENT"),
    (TcpState::SynRecv, 60, "SYN_RECV"),
    (TcpState::FinWait, 120, "FIN_WAIT"),
    (TcpState::TimeWait, 120, "TIME_WAIT"),
    (TcpState::Close, 10, "CLOSE"),
    (TcpState::CloseWait, 60, "CLOSE_WAIT"),
    (TcpState::LastAck, 30, "LAST_ACK"),
    (TcpState::Listen, 120, "LISTEN"),
    (TcpState::SynAck, 120, "SYNACK"),
];

/// Flag bits of the header's 14th byte.
pub mod flags {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Open.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Acknowledgement.
    pub const ACK: u8 = 16;
}

const SYN: Event = Event(0);
const FIN: Event = Event(1);
const ACK: Event = Event(2);
const RST: Event = Event(3);
/// No flag of the four: the next state is CLOSE, whatever the old one.
const NOTHING: Event = Event(4);

/// The event of a segment. IPVS looks for RST first, then SYN (with or without ACK), FIN, ACK.
#[inline(always)]
pub const fn event(flags: u8) -> Event {
    // The lowest three bits and ACK, which becomes the fourth.
    let at = flags & 7 | flags >> 1 & 8;
    Event(column(EVENTS, at))
}

/// The event for each set of the four flags that count.
const EVENTS: u64 = {
    let mut events = [NOTHING.0; 16];
    let mut at = 1;
    while at < 16 {
        let set = at as u8 & 7 | if at & 8 != 0 { flags::ACK } else { 0 };
        events[at] = if set & flags::RST != 0 {
            RST.0
        } else if set & flags::SYN != 0 {
            SYN.0
        } else if set & flags::FIN != 0 {
            FIN.0
        } else {
            ACK.0
        };
        at += 1;
    }
    pack(&events)
};

/// The state after a segment.
#[inline(always)]
pub fn next(secure: bool, state: u8, direction: Direction, event: Event) -> u8 {
    let row = (secure as u32) << 5 | (direction as u32) << 3 | (event.0 & 7) as u32;
    column(ROWS[masked::<63>(row)], state)
}

/// See [`super::rests`]: a segment of an open connection that opens and closes nothing.
#[inline(always)]
pub const fn rests(state: u8, event: Event) -> bool {
    state == TcpState::Established as u8 && event.0 == ACK.0
}

/// Does a connection in this state count as active?
#[inline(always)]
pub const fn active(state: u8) -> bool {
    const ACTIVE: u32 = 1 << TcpState::Established as u32
        | 1 << TcpState::SynSent as u32
        | 1 << TcpState::SynRecv as u32
        | 1 << TcpState::SynAck as u32;
    state < 32 && ACTIVE >> (state & 31) & 1 != 0
}

/// Seconds a connection in this state is kept, unless `--set` says otherwise.
#[inline(always)]
pub fn default_timeout(state: u8) -> u32 {
    TIMEOUTS[(state & 15) as usize] as u32
}

/// As listings show it.
pub fn name(state: u8) -> &'static str {
    STATES.get(state as usize).map_or("ERR!", |(_, _, name)| name)
}

/// What a table says: for INPUT, OUTPUT and INPUT-ONLY, the rows syn, fin, ack, rst.
type Table = [[&'static str; 4]; 3];

#[rustfmt::skip]
const NORMAL: Table = [
    //NO ES SS SR FW TW CL CW LA LI SA
    ["SR ES ES SR SR SR SR SR SR SR SR",
     "CL CW SS TW TW TW CL CW LA LI TW",
     "ES ES SS ES FW TW CL CW CL LI ES",
     "CL CL CL SR CL CL CL CL LA LI SR"],
    ["SS ES SS SR SS SS SS SS SS LI SR",
     "TW FW SS TW FW TW CL TW LA LI TW",
     "ES ES SS ES FW TW CL CW LA ES ES",
     "CL CL SS CL CL TW CL CL CL CL CL"],
    ["SR ES ES SR SR SR SR SR SR SR SR",
     "CL FW SS TW FW TW CL CW LA LI TW",
     "ES ES SS ES FW TW CL CW CL LI ES",
     "CL CL CL SR CL CL CL CL LA LI CL"],
];

/// secure_tcp: a client is taken for open only once the dest has answered, or, where the dest is not seen, once the
/// client has answered what it cannot have guessed.
#[rustfmt::skip]
const SECURE: Table = [
    //NO ES SS SR FW TW CL CW LA LI SA
    ["SR ES ES SR SR SR SR SR SR SR SA",
     "CL CW SS TW TW TW CL CW LA LI SA",
     "ES ES SS SR FW TW CL CW CL LI SA",
     "CL CL CL SR CL CL CL CL LA LI CL"],
    ["SS ES SS SA SS SS SS SS SS LI SA",
     "TW FW SS TW FW TW CL TW LA LI TW",
     "ES ES SS ES FW TW CL CW LA ES ES",
     "CL CL SS CL CL TW CL CL CL CL CL"],
    ["SA ES ES SR SA SA SA SA SA SA SA",
     "CL FW SS TW FW TW CL CW LA LI TW",
     "ES ES SS ES FW TW CL CW CL LI ES",
     "CL CL CL SR CL CL CL CL LA LI CL"],
];

/// Both tables: row `secure << 5 | direction << 3 | event`.
static ROWS: [u64; 64] = rows();

static TIMEOUTS: [u16; 16] = {
    let mut timeouts = [STATES[0].1; 16];
    let mut state = 0;
    while state < STATES.len() {
        timeouts[state] = STATES[state].1;
        state += 1;
    }
    timeouts
};

const fn rows() -> [u64; 64] {
    // CLOSE everywhere: the answer to NOTHING.
    let mut rows = [pack(&[TcpState::Close as u8; 16]); 64];
    let mut at = 0;
    while at < 24 {
        let (secure, direction, event) = (at / 12, at / 4 % 3, at % 4);
        let table = if secure == 0 { NORMAL } else { SECURE };
        rows[secure << 5 | direction << 3 | event] = row(table[direction][event]);
        at += 1;
    }
    rows
}

/// A row from its letters.
const fn row(text: &str) -> u64 {
    let text = text.as_bytes();
    assert!(text.len() == 11 * 3 - 1);
    let mut states = [TcpState::Close as u8; 16];
    let mut at = 0;
    while at < 11 {
        states[at] = letters(text[3 * at], text[3 * at + 1]) as u8;
        at += 1;
    }
    pack(&states)
}

#[allow(clippy::panic, reason = "at compile time only")]
const fn letters(a: u8, b: u8) -> TcpState {
    match [a, b] {
        [b'N', b'O'] => TcpState::None,
        [b'E', b'S'] => TcpState::Established,
        [b'S', b'S'] => TcpState::SynSent,
        [b'S', b'R'] => TcpState::SynRecv,
        [b'F', b'W'] => TcpState::FinWait,
        [b'T', b'W'] => TcpState::TimeWait,
        [b'C', b'L'] => TcpState::Close,
        [b'C', b'W'] => TcpState::CloseWait,
        [b'L', b'A'] => TcpState::LastAck,
        [b'L', b'I'] => TcpState::Listen,
        [b'S', b'A'] => TcpState::SynAck,
        _ => panic!("no such state"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// The tables as the reference prints them.
    const REFERENCE: &str = "
normal            NO ES SS SR FW TW CL CW LA LI SA
INPUT       syn   SR ES ES SR SR SR SR SR SR SR SR
            fin   CL CW SS TW TW TW CL CW LA LI TW
            ack   ES ES SS ES FW TW CL CW CL LI ES
            rst   CL CL CL SR CL CL CL CL LA LI SR
OUTPUT      syn   SS ES SS SR SS SS SS SS SS LI SR
            fin   TW FW SS TW FW TW CL TW LA LI TW
            ack   ES ES SS ES FW TW CL CW LA ES ES
            rst   CL CL SS CL CL TW CL CL CL CL CL
INPUT-ONLY  syn   SR ES ES SR SR SR SR SR SR SR SR
            fin   CL FW SS TW FW TW CL CW LA LI TW
            ack   ES ES SS ES FW TW CL CW CL LI ES
            rst   CL CL CL SR CL CL CL CL LA LI CL

secure_tcp        NO ES SS SR FW TW CL CW LA LI SA
INPUT       syn   SR ES ES SR SR SR SR SR SR SR SA
            fin   CL CW SS TW TW TW CL CW LA LI SA
            ack   ES ES SS SR FW TW CL CW CL LI SA
            rst   CL CL CL SR CL CL CL CL LA LI CL
OUTPUT      syn   SS ES SS SA SS SS SS SS SS LI SA
            fin   TW FW SS TW FW TW CL TW LA LI TW
            ack   ES ES SS ES FW TW CL CW LA ES ES
            rst   CL CL SS CL CL TW CL CL CL CL CL
INPUT-ONLY  syn   SA ES ES SR SA SA SA SA SA SA SA
            fin   CL FW SS TW FW TW CL CW LA LI TW
            ack   ES ES SS ES FW TW CL CW CL LI ES
            rst   CL CL CL SR CL CL CL CL LA LI CL
";
    const LETTERS: [&str; 11] = ["NO", "ES", "SS", "SR", "FW", "TW", "CL", "CW", "LA", "LI", "SA"];

    #[test]
    fn every_cell() {
        let (mut secure, mut direction, mut cells) = (false, Direction::Input, 0);
        for line in REFERENCE.lines().filter(|l| !l.is_empty()) {
            let mut words: Vec<&str> = line.split_whitespace().collect();
            match words[0] {
                head @ ("normal" | "secure_tcp") => {
                    assert_eq!(words[1..], LETTERS);
                    secure = head == "secure_tcp";
                    continue;
                }
                "INPUT" => direction = Direction::Input,
                "OUTPUT" => direction = Direction::Output,
                "INPUT-ONLY" => direction = Direction::InputOnly,
                _ => words.insert(0, ""),
            }
            let event = match words[1] {
                "syn" => event(flags::SYN),
                "fin" => event(flags::FIN),
                "ack" => event(flags::ACK),
                _ => event(flags::RST),
            };
            for (state, expected) in words[2..].iter().enumerate() {
                let next = next(secure, state as u8, direction, event);
                assert_eq!(LETTERS[next as usize], *expected, "secure {secure}, {line}, column {state}");
                cells += 1;
            }
        }
        assert_eq!(cells, 264);
    }

    #[test]
    fn events() {
        use flags::*;
        for (flags, expected) in [
            (RST | ACK, super::RST),
            (RST | SYN | FIN | ACK, super::RST),
            (SYN | ACK, super::SYN),
            (SYN | FIN, super::SYN),
            (FIN | ACK, super::FIN),
            (ACK | 8, super::ACK),
            (0, NOTHING),
            (8 | 32 | 64 | 128, NOTHING),
        ] {
            assert_eq!(event(flags), expected, "flags {flags:#x}");
        }
        for state in 0..11 {
            for direction in [Direction::Input, Direction::Output, Direction::InputOnly] {
                for secure in [false, true] {
                    assert_eq!(next(secure, state, direction, NOTHING), TcpState::Close as u8);
                }
            }
        }
    }

    #[test]
    fn timeouts_names_activity() {
        for (state, name, timeout, active) in [
            (0, "NONE", 2, false),
            (1, "ESTABLISHED", 900, true),
            (2, "SYN_SENT", 120, true),
            (3, "SYN_RECV", 60, true),
            (4, "FIN_WAIT", 120, false),
            (5, "TIME_WAIT", 120, false),
            (6, "CLOSE", 10, false),
            (7, "CLOSE_WAIT", 60, false),
            (8, "LAST_ACK", 30, false),
            (9, "LISTEN", 120, false),
            (10, "SYNACK", 120, true),
        ] {
            assert_eq!(super::name(state), name);
            assert_eq!(default_timeout(state), timeout, "{name}");
            assert_eq!(super::active(state), active, "{name}");
            assert_eq!(STATES[state as usize].0 as u8, state);
        }
    }

    /// Segments in the order in which they pass, and the state each leaves.
    fn life(steps: &[(Direction, u8, TcpState)]) {
        let mut state = 0;
        for (at, (direction, flags, expected)) in steps.iter().enumerate() {
            state = next(false, state, *direction, event(*flags));
            assert_eq!(state, *expected as u8, "step {at}");
        }
    }

    #[test]
    fn typical_lives() {
        use Direction::*;
        use TcpState::*;
        use flags::*;
        life(&[
            (InputOnly, SYN, SynRecv),
            (InputOnly, ACK, Established),
            (InputOnly, FIN | ACK, FinWait),
            (InputOnly, ACK, FinWait),
        ]);
        life(&[(InputOnly, SYN, SynRecv), (InputOnly, ACK, Established), (InputOnly, RST, Close)]);
        let open = [(Input, SYN, SynRecv), (Output, SYN | ACK, SynRecv), (Input, ACK, Established)];
        let closing = [
            [(Output, FIN | ACK, FinWait), (Input, FIN | ACK, TimeWait)],
            [(Input, FIN | ACK, CloseWait), (Output, FIN | ACK, TimeWait)],
        ];
        for close in closing {
            life(&[open.as_slice(), &close].concat());
        }
        // A client's RST does not shorten a half-open connection.
        life(&[(Input, SYN, SynRecv), (Input, RST, SynRecv)]);
    }
}
