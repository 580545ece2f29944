//! What grows with the work: `cargo xtask bench scale` (docs/performance.md).
//!
//! - [`packets`]: nanoseconds of a packet by connections, dests and services.
//! - [`two_cpus`]: how much more two CPUs carry than one, by [`turn`]s; [`line_way`]: how far it is from one to the other.
//! - [`commands`]: what people and the sweep wait for, and the memory it takes.
//! - [`plot`]: the picture.

pub mod commands;
pub mod line_way;
pub mod packets;
pub mod plot;
pub mod turn;
pub mod two_cpus;

use serde_json::{Value, json};

/// A figure with the goal it has, if any.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// How much of what is varied there is, if anything is.
    pub size: Option<u32>,
    /// The figure.
    pub value: f64,
    /// What it is in.
    pub unit: &'static str,
    /// Not to be exceeded.
    pub most: Option<f64>,
    /// What is behind a ratio of two CPUs.
    pub detail: Option<two_cpus::Detail>,
}

impl Figure {
    /// For people.
    pub fn line(&self) -> String {
        let Self { name, size, value, unit, most, detail } = self;
        let size = size.map_or_else(String::new, |size| size.to_string());
        let goal = match most {
            Some(most) if value <= most => format!("  (at most {most})"),
            Some(most) => format!("  MORE than {most}"),
            None => String::new(),
        };
        let detail = detail.as_ref().map_or_else(String::new, two_cpus::Detail::text);
        format!("{name:<36} {size:>9} {value:>9.2} {unit}{goal}{detail}")
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let Self { name, size, value, unit, most, detail } = self;
        let value = (value * 100.0).round() / 100.0;
        let mut row = json!({ "case": name, "size": size, "value": value, "unit": unit, "most": most });
        if let Some(detail) = detail {
            row["detail"] = detail.json();
        }
        row
    }
}
