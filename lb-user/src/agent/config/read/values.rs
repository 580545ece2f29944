//! Numbers, times, flags and addresses, each with its complaint.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Reader;
use crate::agent::config::tree::Statement;
use crate::control::model::Port;

impl Reader<'_> {
    /// The word after the keyword as a value; what is none is said, and the default stays.
    pub(super) fn value<T>(
        &mut self,
        statement: &Statement,
        wanted: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let word = statement.word(1);
        let value = word.and_then(read);
        if value.is_none() {
            let keyword = statement.keyword();
            let found = word.map_or_else(|| "nothing".to_owned(), |word| format!("'{word}'"));
            self.warn(statement, format!("{keyword}: {wanted} is wanted, not {found}; the default is used"));
        }
        value
    }

    /// A number in a range.
    pub(super) fn number(&mut self, statement: &Statement, range: RangeInclusive<u32>) -> Option<u32> {
        let wanted = format!("a number from {} to {}", range.start(), range.end());
        self.value(statement, &wanted, |word| number(word).filter(|number| range.contains(number)))
    }

    /// Seconds.
    pub(super) fn timer(&mut self, statement: &Statement, least: Duration) -> Option<Duration> {
        let wanted =
            if least.is_zero() { "a time in seconds, 0 or more," } else { "a time in seconds, above 0," };
        self.value(statement, wanted, |word| timer(word).filter(|time| *time >= least))
    }

    /// `true`, or the word after it.
    pub(super) fn flag(&mut self, statement: &Statement) -> Option<bool> {
        match statement.word(1) {
            None => Some(true),
            Some(_) => self.value(statement, "true, on, yes, false, off or no", boolean),
        }
    }

    /// The word after the keyword.
    pub(super) fn text(&mut self, statement: &Statement) -> Option<String> {
        self.value(statement, "a word", |word| Some(word.to_owned()))
    }

    /// An address; without it the block cannot be had.
    pub(super) fn address(&mut self, statement: &Statement, nth: usize) -> Option<IpAddr> {
        let word = statement.word(nth).unwrap_or_default();
        let address = word.parse().ok();
        if address.is_none() {
            self.error(statement, format!("'{word}' is no IP address (names are not looked up)"));
        }
        address
    }

    /// A port, if there is a word for it. The outer `None` is a word that is no port.
    pub(super) fn port(&mut self, statement: &Statement, nth: usize) -> Option<Option<Port>> {
        let Some(word) = statement.word(nth) else { return Some(None) };
        match word.parse::<u16>() {
            Ok(port) => Some(Some(Port::new(port)).filter(|port| !port.is_zero())),
            Err(_) => {
                self.error(statement, format!("'{word}' is no port (0 to 65535; names are not looked up)"));
                None
            }
        }
    }
}

/// Decimal, unsigned.
pub(super) fn number(word: &str) -> Option<u32> {
    word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok())?
}

/// Seconds with up to six decimals.
pub(super) fn timer(word: &str) -> Option<Duration> {
    let (whole, part) = word.split_once('.').unwrap_or((word, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || whole.len() + part.len() == 0 || part.len() > 6 {
        return None;
    }
    let seconds: u32 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let micros: u32 = format!("{part:0<6}").parse().ok()?;
    Some(Duration::new(seconds.into(), micros * 1000))
}

/// In lower case only.
pub(super) fn boolean(word: &str) -> Option<bool> {
    match word {
        "true" | "on" | "yes" => Some(true),
        "false" | "off" | "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (word, millis) in [("3", 3000), ("1.5", 1500), (".25", 250), ("0", 0), ("4.", 4000)] {
            assert_eq!(timer(word), Some(Duration::from_millis(millis)), "{word}");
        }
        for word in ["", ".", "-1", "1s", "1.1234567", "99999999999"] {
            assert_eq!(timer(word), None, "{word}");
        }
    }
}
