//! Nanoseconds of a packet by what there is of connections, dests and services; commands, sweep and memory as shares of what
//! they may be.

use std::path::Path as File;

use anyhow::{Context as _, Result};
use plotters::prelude::*;

use super::Figure;
use crate::bench::plot::{Bar, Line, bars, nanoseconds};

/// Draws what there is.
pub fn draw(figures: &[Figure], file: &File) -> Result<()> {
    let whole = SVGBackend::new(file, (1200, 840)).into_drawing_area();
    whole.fill(&WHITE)?;
    let (above, below) = whole.split_vertically(420);
    for (area, axis) in above.split_evenly((1, 3)).iter().zip(["connections", "dests", "services"]) {
        let mut lines: Vec<Line<'_>> = Vec::new();
        for figure in figures {
            let Some(size) = figure.size.filter(|_| figure.name.contains(axis)) else { continue };
            let point = (f64::from(size), figure.value);
            match lines.iter_mut().find(|(name, _)| *name == figure.name) {
                Some((_, points)) => points.push(point),
                None => lines.push((&figure.name, vec![point])),
            }
        }
        nanoseconds(area, "", axis, lines)?;
    }
    bars(&below, "what has a limit", "percent of it", figures.iter().filter_map(share))?;
    whole.present().with_context(|| format!("writing {}", file.display()))
}

/// How much of what it may be a figure is.
fn share(figure: &Figure) -> Option<Bar> {
    let Figure { name, value, unit, most, .. } = figure;
    let most = (*most)?;
    let label = format!("{name}: {value:.2} {unit} of {most}");
    Some(Bar { label, value: value / most * 100.0, part: 0.0, ours: true })
}
