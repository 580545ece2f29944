//! Figures as a table for people and as JSON for programs.

use serde_json::{Value, json};

use super::aims;
use super::measure::{Figure, median};

/// The table's first line. `beside`: with another build's columns.
pub fn heading(beside: bool) -> String {
    format!(
        "{:<28} {:>8} {:>8} {:>8} {:>6} {:>5} {:>7} {:>7} {:>6}{}  verdicts",
        "case",
        "floor",
        "raw",
        "delta",
        "line",
        "aim",
        "best",
        "noise",
        "ratio",
        if beside { format!(" {:>7} {:>7}", "dearer", "noise") } else { String::new() }
    )
}

/// A figure's line.
pub fn line(figure: &Figure) -> String {
    let counted: Vec<String> = figure.verdicts.iter().map(|(name, n)| format!("{name} {n}")).collect();
    let whole = |ns: Option<f64>| ns.map_or_else(|| "-".to_owned(), |ns| format!("{ns:.0}"));
    let beside = figure
        .beside
        .map_or_else(String::new, |beside| format!(" {:>7.1} {:>7.1}", beside.dearer_ns, beside.noise_ns));
    format!(
        "{:<28} {:>8.1} {:>8.1} {:>8.1} {:>6} {:>5} {:>7.1} {:>7.1} {:>6.2}{beside}  {}{}",
        figure.subject.name(),
        figure.floor_ns,
        figure.raw_ns,
        figure.delta_ns(),
        whole(figure.line_ns),
        whole(aims::of(&figure.subject.case)),
        figure.best_ns,
        figure.noise_ns,
        figure.ratio(),
        counted.join(", "),
        if figure.right { "" } else { "  WRONG" },
    )
}

/// By how much a packet is dearer than with the build beside: the median of all cases, if there is one.
pub fn dearer(figures: &[Figure]) -> Option<f64> {
    let all: Vec<f64> = figures.iter().filter_map(|figure| Some(figure.beside?.dearer_ns)).collect();
    (!all.is_empty()).then(|| median(all))
}

/// All figures. Nanoseconds for a packet.
pub fn json(figures: &[Figure]) -> Value {
    figures.iter().map(row).collect()
}

fn row(figure: &Figure) -> Value {
    let tenth = |ns: f64| (ns * 10.0).round() / 10.0;
    json!({
        "case": figure.subject.name(),
        "floor_ns": tenth(figure.floor_ns),
        "raw_ns": tenth(figure.raw_ns),
        "delta_ns": tenth(figure.delta_ns()),
        "line_ns": figure.line_ns.map(tenth),
        "aim_ns": aims::of(&figure.subject.case),
        "best_ns": tenth(figure.best_ns),
        "noise_ns": tenth(figure.noise_ns),
        "ratio": (figure.ratio() * 100.0).round() / 100.0,
        "dearer_ns": figure.beside.map(|beside| tenth(beside.dearer_ns)),
        "dearer_noise_ns": figure.beside.map(|beside| tenth(beside.noise_ns)),
        "packets": figure.packets,
        "verdicts": figure.verdicts,
    })
}
