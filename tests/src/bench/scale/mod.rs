//! What grows with the work: `cargo xtask bench scale` (docs/performance.md).
//!
//! - [`packets`]: nanoseconds of a packet by connections, dests and services, and on two CPUs at once.
//! - [`commands`]: what people and the sweep wait for, and the memory it takes.
//! - [`plot`]: the picture.

pub mod commands;
pub mod packets;
pub mod plot;

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
}

impl Figure {
    /// For people.
    pub fn line(&self) -> String {
        let Self { name, size, value, unit, most } = self;
        let size = size.map_or_else(String::new, |size| size.to_string());
        let goal = match most {
            Some(most) if value <= most => format!("  (at most {most})"),
            Some(most) => format!("  MORE than {most}"),
            None => String::new(),
        };
        format!("{name:<36} {size:>9} {value:>9.2} {unit}{goal}")
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let Self { name, size, value, unit, most } = self;
        json!({ "case": name, "size": size, "value": (value * 100.0).round() / 100.0, "unit": unit, "most": most })
    }
}
