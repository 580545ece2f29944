//! Prometheus' text format, read strictly: what `promtool check metrics` would complain about is an error.

use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Page {
    /// Families: name and type, in their order.
    pub families: Vec<(String, String)>,
    /// Series: name, labels in the order of their names, value.
    pub series: BTreeMap<(String, Labels), f64>,
}

/// Names and values.
pub type Labels = BTreeMap<String, String>;

impl Page {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self> {
        let mut page = Self::default();
        let (mut helped, mut seen) = (None, BTreeSet::new());
        for line in text.lines() {
            let read = match line.split_once(' ').context("a line of one word") {
                Ok(("#", rest)) => page.comment(rest, &mut helped, &mut seen),
                Ok(_) => page.sample(line),
                Err(error) => Err(error),
            };
            read.with_context(|| format!("`{line}`"))?;
        }
        ensure!(text.ends_with('\n'), "the last line has no end");
        page.histograms()?;
        Ok(page)
    }

    /// The value of the one series with this name whose labels include these.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let fits = |found: &Labels| {
            labels.iter().all(|(name, value)| found.get(*name).is_some_and(|found| found == value))
        };
        let mut found = self.series.iter().filter(|((series, found), _)| series == name && fits(found));
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Ok(*value),
            (None, _) => bail!("no {name} with {labels:?}"),
            _ => bail!("several {name} with {labels:?}"),
        }
    }

    fn comment(
        &mut self,
        rest: &str,
        helped: &mut Option<String>,
        seen: &mut BTreeSet<String>,
    ) -> Result<()> {
        let mut words = rest.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("HELP"), Some(name), Some(help)) => {
                ensure!(!help.trim_end_matches('.').is_empty(), "no help");
                ensure!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
                ensure!(seen.insert(name.to_owned()), "a second time");
                *helped = Some(name.to_owned());
            }
            (Some("TYPE"), Some(name), Some(kind)) => {
                ensure!(helped.as_deref() == Some(name), "no help before it");
                ensure!(
                    (kind == "counter") == name.ends_with("_total"),
                    "counters, and only they, are totals"
                );
                ensure!(matches!(kind, "counter" | "gauge" | "histogram"), "an unknown type");
                for unit in ["_ms", "_milliseconds", "_minutes", "_kilobytes", "_percent"] {
                    ensure!(!name.ends_with(unit), "no base unit");
                }
                self.families.push((name.to_owned(), kind.to_owned()));
            }
            _ => bail!("neither help nor type"),
        }
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<()> {
        let (series, value) = line.rsplit_once(' ').context("no value")?;
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels_of(labels.strip_suffix('}').context("no end of labels")?)?),
            None => (series, Labels::new()),
        };
        let (family, kind) = self.families.last().context("no family before it")?;
        let rest = name.strip_prefix(family.as_str()).context("not of the family above")?;
        match kind.as_str() {
            "histogram" => ensure!(matches!(rest, "_bucket" | "_sum" | "_count")),
            _ => ensure!(rest.is_empty()),
        }
        let value: f64 = value.parse().context("no number")?;
        ensure!(kind != "counter" || value >= 0.0, "a negative count");
        ensure!(self.series.insert((name.to_owned(), labels), value).is_none(), "a second time");
        Ok(())
    }

    /// Buckets grow, and the last one has everything.
    fn histograms(&self) -> Result<()> {
        for family in self.families.iter().filter(|(_, kind)| kind == "histogram").map(|(name, _)| name) {
            let (bucket, count) = (format!("{family}_bucket"), format!("{family}_count"));
            let mut all: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
            for ((_, labels), value) in self.series.iter().filter(|((name, _), _)| *name == bucket) {
                let mut labels = labels.clone();
                let bound = labels.remove("le").context("a bucket without its bound")?;
                all.entry(labels).or_default().push((bound.parse()?, *value));
            }
            for (labels, mut buckets) in all {
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                ensure!(buckets.is_sorted_by(|a, b| a.1 <= b.1), "{family}: {buckets:?}");
                let last = buckets.last().context("no bucket")?;
                let total = self.series.get(&(count.clone(), labels));
                ensure!(last.0 == f64::INFINITY && Some(&last.1) == total, "{family}: {buckets:?}");
            }
        }
        Ok(())
    }
}

fn labels_of(text: &str) -> Result<Labels> {
    let (mut labels, mut rest) = (Labels::new(), text);
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").context("no value of a label")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().context("no end of a value")? {
                (_, '\\') => value.push(match chars.next().context("nothing after a backslash")?.1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    _ => bail!("an unknown escape"),
                }),
                (at, '"') => break at,
                (_, c) => value.push(c),
            }
        };
        ensure!(labels.insert(name.to_owned(), value).is_none(), "label {name} a second time");
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_total A.\n# TYPE a_total counter\na_total{b=\"x\\\"y\"} 3\na_total 1\n\
                        # HELP h H.\n# TYPE h histogram\nh_sum 1.5\nh_count 2\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\n";

    #[test]
    fn strict() -> Result<()> {
        let page = Page::parse(GOOD)?;
        assert_eq!(page.value("a_total", &[("b", "x\"y")])?, 3.0);
        assert_eq!(page.value("h_count", &[])?, 2.0);
        assert!(page.value("a_total", &[]).is_err());
        for (from, to) in [
            ("a_total 1", "a_total 1\na_total 1"),
            ("# HELP a_total A.\n", ""),
            ("counter", "gauge"),
            (" 3\n", " x\n"),
            ("\"} 3", "} 3"),
            ("h_bucket{le=\"1\"} 1", "h_bucket{le=\"1\"} 3"),
            ("\nh_sum", "\nz_sum"),
        ] {
            assert!(Page::parse(&GOOD.replacen(from, to, 1)).is_err(), "{from} → {to}");
        }
        Ok(())
    }
}
