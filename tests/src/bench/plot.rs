//! Figures as a picture: established connections by their number, new ones by their scheduler.

use std::collections::BTreeMap;
use std::path::Path as File;

use anyhow::{Context as _, Result};
use lb_common::addr::{Family, Proto};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::cases::{Case, Kind, Path};
use super::measure::{Figure, median};
use crate::case::FAMILIES;

/// A part of a picture.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// A line of a chart: its name, and sizes with nanoseconds.
pub type Line<'a> = (&'a str, Vec<(f64, f64)>);

const COLOURS: [RGBColor; 8] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(127, 127, 127),
    RGBColor(23, 190, 207),
    RGBColor(140, 86, 75),
];

const OURS: RGBColor = COLOURS[0];
const OTHERS: RGBColor = COLOURS[5];

/// Draws what there is of these figures.
pub fn draw(figures: &[Figure], file: &File) -> Result<()> {
    let whole = SVGBackend::new(file, (1700, 1000)).into_drawing_area();
    whole.fill(&WHITE)?;
    let (left, right) = whole.split_horizontally(1200);
    let charts =
        [Proto::TCP, Proto::UDP].into_iter().flat_map(|proto| FAMILIES.map(|family| (family, proto)));
    for (area, (family, proto)) in left.split_evenly((2, 2)).iter().zip(charts) {
        established(figures, family, proto, area)?;
    }
    new_connections(figures, &right)?;
    whole.present().with_context(|| format!("writing {}", file.display()))
}

fn established(figures: &[Figure], family: Family, proto: Proto, area: &Area<'_>) -> Result<()> {
    let by_path = Path::ALL.map(|path| (path.name(), points(figures, family, proto, path)));
    let one_line = ("one cold line", one_line(figures, family, proto));
    let own = own_table(figures, family, proto);
    let lines = by_path.into_iter().chain([one_line]).chain(own).collect();
    let version = if family == Family::V4 { 4 } else { 6 };
    let title = format!("established, IPv{version} {}", if proto == Proto::TCP { "TCP" } else { "UDP" });
    nanoseconds(area, &title, "flows", lines)
}

/// A chart of nanoseconds above the floor by the size of something; each line with its name.
pub fn nanoseconds(area: &Area<'_>, title: &str, axis: &str, lines: Vec<Line<'_>>) -> Result<()> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let right = points().map(|(size, _)| *size).fold(10.0, f64::max);
    // Above the lines there is room for their names.
    let room = 1.1 + 0.06 * lines.len() as f64;
    let top = points().map(|(_, ns)| *ns).fold(10.0, f64::max) * room;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        // Half of the last number.
        .margin_right(36)
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
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

fn points(figures: &[Figure], family: Family, proto: Proto, path: Path) -> Vec<(f64, f64)> {
    let of = |(by, flows, figure): (Path, u32, &Figure)| {
        (by == path).then(|| (f64::from(flows), figure.delta_ns()))
    };
    of_established(figures, family, proto).filter_map(of).collect()
}

/// What one line costs by the number of flows: the median over the paths, whose lines are alike.
fn one_line(figures: &[Figure], family: Family, proto: Proto) -> Vec<(f64, f64)> {
    let mut by_flows: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
    for (_, flows, figure) in of_established(figures, family, proto) {
        by_flows.entry(flows).or_default().extend(figure.line_ns);
    }
    by_flows.retain(|_, costs| !costs.is_empty());
    by_flows.into_iter().map(|(flows, costs)| (f64::from(flows), median(costs))).collect()
}

/// What was measured in a table of its own size: a point each.
fn own_table(figures: &[Figure], family: Family, proto: Proto) -> Vec<Line<'static>> {
    let named = [(Path::Dr, "dr, own table"), (Path::Ipip, "ipip, own table")];
    let all = named.map(|(path, name)| {
        let of = established_in(figures, family, proto, true).filter(|(by, ..)| *by == path);
        (name, of.map(|(_, flows, figure)| (f64::from(flows), figure.delta_ns())).collect())
    });
    all.into_iter().filter(|(_, points): &Line<'_>| !points.is_empty()).collect()
}

/// Figures of established connections in the large table: how they go on, their number.
fn of_established(
    figures: &[Figure],
    family: Family,
    proto: Proto,
) -> impl Iterator<Item = (Path, u32, &Figure)> {
    established_in(figures, family, proto, false)
}

/// The same in either table.
fn established_in(
    figures: &[Figure],
    family: Family,
    proto: Proto,
    own_table: bool,
) -> impl Iterator<Item = (Path, u32, &Figure)> {
    let all = figures.iter().filter(move |figure| figure.subject.own_table == own_table);
    all.filter_map(move |figure| match figure.subject.case {
        Case { family: f, proto: p, kind: Kind::Established(path, flows) } if (f, p) == (family, proto) => {
            Some((path, flows, figure))
        }
        _ => None,
    })
}

fn new_connections(figures: &[Figure], area: &Area<'_>) -> Result<()> {
    let bar = |figure: &Figure| Bar {
        label: format!("{}: {:.0}", figure.subject.case.name(), figure.delta_ns()),
        value: figure.delta_ns(),
        part: figure.line_ns.unwrap_or(0.0),
        ours: true,
    };
    let new = figures.iter().filter(|figure| matches!(figure.subject.case.kind, Kind::New(..) | Kind::Flood));
    bars(area, "new connections, IPIP; dark: one cold line", "ns above the floor", new.map(bar))
}

/// A bar of a chart.
#[derive(Debug)]
pub struct Bar {
    /// What is written on it.
    pub label: String,
    /// How long it is.
    pub value: f64,
    /// How much of it is darker.
    pub part: f64,
    /// Is it ours, or something to compare with?
    pub ours: bool,
}

/// A chart of bars, the first on top.
pub fn bars(area: &Area<'_>, title: &str, unit: &str, bars: impl Iterator<Item = Bar>) -> Result<()> {
    let bars: Vec<Bar> = bars.collect();
    let right = bars.iter().map(|bar| bar.value).fold(0.1, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .build_cartesian_2d(0.0..right, 0.0..bars.len().max(1) as f64)?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().x_desc(unit).draw()?;
    for (row, Bar { label, value, part, ours }) in bars.into_iter().rev().enumerate() {
        let row = row as f64;
        let bar = |to: f64, colour: RGBColor| {
            Rectangle::new([(0.0, row + 0.1), (to, row + 0.9)], colour.mix(0.5).filled())
        };
        chart.draw_series([bar(value, if ours { OURS } else { OTHERS }), bar(part, OTHERS)])?;
        chart.draw_series([Text::new(label, (right * 0.005, row + 0.65), ("sans-serif", 13))])?;
    }
    Ok(())
}
