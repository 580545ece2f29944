//! Figures as a picture: frames a second above, pages a second as a share of those without a balancer below.

use std::path::Path;

use anyhow::{Context as _, Result};
use plotters::prelude::*;

use super::Figures;
use crate::bench::plot::{Bar, bars};

/// Points of a bar.
const ROW: u32 = 34;
/// Points of a chart without its bars.
const EDGE: u32 = 100;

/// Draws them.
pub fn draw(figures: &Figures, file: &Path) -> Result<()> {
    let heights = [figures.frames.len(), figures.pages.len()].map(|bars| bars as u32 * ROW + EDGE);
    let whole = SVGBackend::new(file, (900, heights[0] + heights[1])).into_drawing_area();
    whole.fill(&WHITE)?;
    let (above, below) = whole.split_vertically(heights[0]);
    let frames = figures.frames.iter().map(|figure| Bar {
        label: format!("{}: {:.2} M", figure.through.name(), figure.frames / 1e6),
        value: figure.frames / 1e6,
        part: 0.0,
        ours: figure.through.is_ours(),
    });
    bars(&above, "frames through a veth card, one processor doing all", "million frames a second", frames)?;
    let pages = figures.pages.iter().map(|figure| Bar {
        label: format!(
            "{}: {:.0} of {:.0} a second; p99 {:.1} ms, without {:.1} ms",
            figure.name(),
            figure.through.rate,
            figure.direct.rate,
            figure.through.p99,
            figure.direct.p99
        ),
        value: figure.ratio() * 100.0,
        part: 0.0,
        ours: true,
    });
    bars(&below, "HTTP pages through the balancer", "percent of those without a balancer", pages)?;
    whole.present().with_context(|| format!("writing {}", file.display()))
}
