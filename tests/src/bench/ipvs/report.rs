//! Figures as a table for people and as JSON for programs.

use serde_json::{Value, json};

use super::figure::{Cost, Figure};

/// What is taken off, in the JSON's words.
const SUBTRACTED: [&str; 2] = [
    "the same packets, by the same driver program, given to a program that swaps MAC addresses and sends",
    "the same packets, by the same driver program, given to the stack under an Ethernet type that nobody listens to",
];

/// The table's first line.
pub fn heading() -> String {
    format!(
        "{:<24} {:>7} {:>6} {:>8} {:>6} {:>7} {:>5}",
        "instructions a packet", "ours", "noise", "ipvs", "noise", "ratio", "aim"
    )
}

/// A figure's line.
pub fn line(figure: &Figure) -> String {
    let Figure { case, aim, ours, ipvs, .. } = figure;
    format!(
        "{case:<24} {:>7.0} {:>6.1} {:>8.0} {:>6.1} {:>7.1} {aim:>5.0}{}{}",
        ours.own(),
        ours.noise,
        ipvs.own(),
        ipvs.noise,
        figure.ratio(),
        if figure.ratio() < *aim { "  missed" } else { "" },
        figure.most.filter(|_| figure.is_over()).map_or_else(String::new, |most| format!("  over {most:.0}")),
    )
}

/// All figures. Instructions for a packet.
pub fn json(figures: &[Figure]) -> Value {
    figures.iter().map(row).collect()
}

fn row(figure: &Figure) -> Value {
    let [ours, ipvs] = [figure.ours, figure.ipvs];
    json!({
        "case": figure.case,
        "ours": tenth(ours.own()),
        "ipvs": tenth(ipvs.own()),
        "ratio": tenth(figure.ratio()),
        "aim": figure.aim,
        "most": figure.most,
        "packets": figure.packets,
        "noise": {"ours": tenth(ours.noise), "ipvs": tenth(ipvs.noise)},
        "subtracted": {"ours": taken(ours, SUBTRACTED[0]), "ipvs": taken(ipvs, SUBTRACTED[1])},
    })
}

fn taken(cost: Cost, what: &str) -> Value {
    json!({"instructions": tenth(cost.floor), "what": what})
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::super::figure::tests::example;
    use super::*;

    #[test]
    fn a_row_has_the_difference_and_what_was_taken_off() {
        let rows = json(&[example()]);
        assert_eq!((&rows[0]["ours"], &rows[0]["ipvs"]), (&json!(250.0), &json!(3000.0)));
        assert_eq!(rows[0]["subtracted"]["ipvs"]["instructions"], json!(1000.0));
        assert!(!line(&example()).contains("missed") && !line(&example()).contains("over"));
        assert!(line(&Figure { most: Some(240.0), ..example() }).ends_with("  over 240"));
    }
}
