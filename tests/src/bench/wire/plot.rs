//! Figures as a picture: frames a second above, pages a second as a share of those without a balancer below.

use std::path::Path;

use anyhow::{Context as _, Result};
use plotters::prelude::*;

use super::Figures;
use crate::bench::plot::Area;

const OURS: RGBColor = RGBColor(31, 119, 180);
const OTHERS: RGBColor = RGBColor(127, 127, 127);
/// Points of a bar.
const ROW: u32 = 34;
/// Points of a chart without its bars.
const EDGE: u32 = 100;

struct Bar {
    label: String,
    value: f64,
    ours: bool,
}

/// Draws them.
pub fn draw(figures: &Figures, file: &Path) -> Result<()> {
    let heights = [figures.frames.len(), figures.pages.len()].map(|bars| bars as u32 * ROW + EDGE);
    let whole = SVGBackend::new(file, (900, heights[0] + heights[1])).into_drawing_area();
    whole.fill(&WHITE)?;
    let (above, below) = whole.split_vertically(heights[0]);
    let frames = figures.frames.iter().map(|figure| Bar {
        label: format!("{}: {:.2} M", figure.through.name(), figure.frames / 1e6),
        value: figure.frames / 1e6,
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
        ours: true,
    });
    bars(&below, "HTTP pages through the balancer", "percent of those without a balancer", pages)?;
    whole.present().with_context(|| format!("writing {}", file.display()))
}

fn bars(area: &Area<'_>, title: &str, unit: &str, bars: impl Iterator<Item = Bar>) -> Result<()> {
    let bars: Vec<Bar> = bars.collect();
    let right = bars.iter().map(|bar| bar.value).fold(0.1, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .build_cartesian_2d(0.0..right, 0.0..bars.len().max(1) as f64)?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().x_desc(unit).draw()?;
    for (row, bar) in bars.iter().rev().enumerate() {
        let row = row as f64;
        let colour = if bar.ours { OURS } else { OTHERS };
        let corners = [(0.0, row + 0.1), (bar.value, row + 0.9)];
        chart.draw_series([Rectangle::new(corners, colour.mix(0.5).filled())])?;
        chart.draw_series([Text::new(bar.label.clone(), (right * 0.005, row + 0.65), ("sans-serif", 13))])?;
    }
    Ok(())
}
