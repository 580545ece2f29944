//! Figures as a picture: two bars for each case, and how many times the shorter goes into the longer.

use std::path::Path;

use anyhow::{Context as _, Result};
use plotters::prelude::*;

use super::figure::Figure;

const OURS: RGBColor = RGBColor(31, 119, 180);
const IPVS: RGBColor = RGBColor(214, 39, 40);
/// Points of a case.
const ROW: u32 = 34;

/// Draws them.
pub fn draw(figures: &[Figure], file: &Path) -> Result<()> {
    let count = figures.len().max(1) as u32;
    let whole = SVGBackend::new(file, (1000, ROW * count + 110)).into_drawing_area();
    whole.fill(&WHITE)?;
    let right = figures.iter().map(|figure| figure.ipvs.own()).fold(10.0, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(&whole)
        .caption("instructions a packet: ours (blue), kernel IPVS (red)", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .build_cartesian_2d(0.0..right, 0.0..f64::from(count))?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().x_desc("instructions").draw()?;
    for (row, figure) in figures.iter().rev().enumerate() {
        let (row, ours, ipvs) = (row as f64, figure.ours.own(), figure.ipvs.own());
        for (long, low, colour) in [(ours, 0.32, OURS), (ipvs, 0.06, IPVS)] {
            let bar = [(0.0, row + low), (long, row + low + 0.24)];
            chart.draw_series([Rectangle::new(bar, colour.mix(0.7).filled())])?;
        }
        let label = format!("{}: {ours:.0} / {ipvs:.0} = 1 / {:.1}", figure.case, figure.ratio());
        chart.draw_series([Text::new(label, (right * 0.002, row + 0.95), ("sans-serif", 12))])?;
    }
    whole.present().with_context(|| format!("writing {}", file.display()))
}
