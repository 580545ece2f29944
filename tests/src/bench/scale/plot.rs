//! Nanoseconds of a packet by what there is of connections, dests and services.

use std::path::Path as File;

use anyhow::{Context as _, Result};
use plotters::prelude::*;

use super::Figure;
use crate::bench::plot::{Line, nanoseconds};

/// Draws what there is.
pub fn draw(figures: &[Figure], file: &File) -> Result<()> {
    let whole = SVGBackend::new(file, (1200, 420)).into_drawing_area();
    whole.fill(&WHITE)?;
    for (area, axis) in whole.split_evenly((1, 3)).iter().zip(["connections", "dests", "services"]) {
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
    whole.present().with_context(|| format!("writing {}", file.display()))
}
