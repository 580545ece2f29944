//! `HTTP_GET` and `SSL_GET`.

use std::time::Duration;

use super::Reader;
use super::check::{Common, path};
use super::timing::Timing;
use super::values::number;
use crate::agent::config::model::{Http, HttpProtocol, Pace, Probe, Regex, Tls, Url};
use crate::agent::config::tree::Statement;

impl Reader<'_> {
    pub(super) fn http(
        &mut self,
        statement: &Statement,
        common: &mut Common,
        outer: &Timing,
        tls: bool,
    ) -> Option<(Probe, Pace)> {
        let (mut urls, mut protocol, mut fast_recovery) = (Vec::new(), HttpProtocol::default(), false);
        let mut how = Tls { sni: false, ..self.ssl.clone() };
        for line in self.block(statement) {
            match line.keyword() {
                "url" => urls.extend(self.url(line)),
                "http_protocol" => {
                    protocol = self.value(line, "1.0, 1.0C or 1.1", http_protocol).unwrap_or(protocol);
                }
                "fast_recovery" => fast_recovery = self.flag(line).unwrap_or(false),
                "enable_sni" => how.sni = self.flag(line).unwrap_or(false),
                "sni_name" if tls => {
                    how.sni_name = self.text(line);
                    how.sni = true;
                }
                // rustls ends sessions as the standard has it.
                "tls_compliant" if tls => drop(self.flag(line)),
                // Ours.
                "verify" if tls => how.verify = self.flag(line).unwrap_or(true),
                "ca" if tls => how.ca = self.text(line).map(|text| path(&text)),
                "nb_get_retry" => {
                    common.timing.retry = self.number(line, 0..=u32::MAX).or(common.timing.retry);
                }
                _ if self.common(line, common) => {}
                _ => self.unknown(line),
            }
        }
        if urls.is_empty() {
            self.error(statement, format!("{}: no url with a path", statement.keyword()));
            return None;
        }
        let timing = common.timing.within(outer);
        for url in &mut urls {
            url.virtualhost = url.virtualhost.take().or_else(|| timing.virtualhost.clone());
        }
        let target = self.target(statement, common, outer)?;
        let tls = tls.then_some(how);
        let http = Http { target, urls, protocol, fast_recovery, tls };
        Some((Probe::Http(http), timing.pace(1, Duration::from_secs(3))))
    }

    fn url(&mut self, statement: &Statement) -> Option<Url> {
        let mut url =
            Url { path: String::new(), digest: None, status: Vec::new(), virtualhost: None, regex: None };
        let (mut pattern, mut no_match, mut options, mut offsets) = (None, false, String::new(), (0, None));
        for line in self.block(statement) {
            match line.keyword() {
                "path" => url.path = self.text(line).unwrap_or_default(),
                "digest" => url.digest = self.value(line, "32 hexadecimal digits", digest),
                "status_code" => url.status = self.status_codes(line),
                "virtualhost" => url.virtualhost = self.text(line),
                "regex" => {
                    pattern = self.quoted(line).map(|pattern| (line, pattern));
                }
                "regex_no_match" => no_match = true,
                "regex_options" => options = self.regex_options(line),
                "regex_min_offset" => offsets.0 = self.number(line, 0..=u32::MAX).unwrap_or(0) as usize,
                "regex_max_offset" => {
                    offsets.1 = self.number(line, 1..=u32::MAX).map(|offset| offset as usize);
                }
                // PCRE's own memory.
                "regex_stack" => {}
                "tls_compliant" => drop(self.flag(line)),
                _ => self.unknown(line),
            }
        }
        if let Some((line, pattern)) = pattern {
            url.regex = self.regex(line, &format!("{options}{pattern}"), no_match, offsets);
        }
        if url.path.is_empty() {
            self.error(statement, "url: no path");
            return None;
        }
        Some(url)
    }

    fn regex(
        &mut self,
        line: &Statement,
        pattern: &str,
        no_match: bool,
        offsets: (usize, Option<usize>),
    ) -> Option<Regex> {
        match fancy_regex::Regex::new(pattern) {
            Ok(_) => Some(Regex { pattern: pattern.to_owned(), no_match, offsets }),
            Err(error) => {
                self.error(line, format!("regex: {error}"));
                None
            }
        }
    }

    /// The options that change what matches, as the expression itself has them.
    fn regex_options(&mut self, line: &Statement) -> String {
        let mut inside = String::new();
        for word in line.rest() {
            match word.as_str() {
                "caseless" => inside.push('i'),
                "multiline" => inside.push('m'),
                "dotall" => inside.push('s'),
                "extended" => inside.push('x'),
                "ungreedy" => inside.push('U'),
                "utf" | "ucp" | "no_utf_check" | "no_auto_capture" | "no_start_optimize" => {}
                other => self.warn(line, format!("regex_options: '{other}' has no effect here")),
            }
        }
        if inside.is_empty() { inside } else { format!("(?{inside})") }
    }

    fn status_codes(&mut self, line: &Statement) -> Vec<(u16, u16)> {
        let mut ranges = Vec::new();
        for word in line.rest() {
            let (from, to) = word.split_once('-').unwrap_or((word, word));
            let code = |text: &str| number(text).filter(|code| (100..=599).contains(code));
            match code(from).zip(code(to)).filter(|(from, to)| from <= to) {
                Some((from, to)) => ranges.push((from as u16, to as u16)),
                None => self.warn(line, format!("status_code: '{word}' is no code or range (200, 200-299)")),
            }
        }
        ranges
    }
}

fn http_protocol(word: &str) -> Option<HttpProtocol> {
    match word {
        "1.0" => Some(HttpProtocol::V10),
        "1.0C" | "1.0c" => Some(HttpProtocol::V10Close),
        "1.1" => Some(HttpProtocol::V11),
        _ => None,
    }
}

fn digest(word: &str) -> Option<[u8; 16]> {
    let number = u128::from_str_radix(word, 16).ok().filter(|_| word.len() == 32)?;
    Some(number.to_be_bytes())
}
