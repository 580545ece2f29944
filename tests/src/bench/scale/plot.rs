//! Nanoseconds of a packet by what there is of connections, dests and services.

use std::path::Path as File;

use anyhow::{Context as _, Result};
use plotters::prelude::*;

use super::Figure;

const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(44, 160, 44), RGBColor(148, 103, 189)];

/// Draws what there is.
pub fn draw(figures: &[Figure], file: &File) -> Result<()> {
    let whole = SVGBackend::new(file, (1200, 420)).into_drawing_area();
    whole.fill(&WHITE)?;
    for (area, axis) in whole.split_evenly((1, 3)).iter().zip(["connections", "dests", "services"]) {
        let mut lines: Vec<(&str, Vec<(f64, f64)>)> = Vec::new();
        for figure in figures {
            let Some(size) = figure.size.filter(|_| figure.name.contains(axis)) else { continue };
            let point = (f64::from(size), figure.value);
            match lines.iter_mut().find(|(name, _)| *name == figure.name) {
                Some((_, points)) => points.push(point),
                None => lines.push((&figure.name, vec![point])),
            }
        }
        let points = || lines.iter().flat_map(|(_, points)| points);
        let right = points().map(|(size, _)| *size).fold(10.0, f64::max);
        let top = points().map(|(_, ns)| *ns).fold(10.0, f64::max) * 1.2;
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(50)
            .build_cartesian_2d((1.0..right).log_scale(), 0.0..top)?;
        chart
            .configure_mesh()
            .x_desc(axis)
            .y_desc("ns above the floor")
            .x_label_formatter(&|size| format!("{size:.0}"))
            .draw()?;
        for ((name, points), colour) in lines.into_iter().zip(COLOURS) {
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(3))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .border_style(BLACK.mix(0.3))
            .draw()?;
    }
    whole.present().with_context(|| format!("writing {}", file.display()))
}
