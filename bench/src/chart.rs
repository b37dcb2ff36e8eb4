//! Reports as pictures.

use std::path::Path;

use plotters::prelude::*;

use crate::failure::Failure;
use crate::report::{Report, Row};
use crate::subject::SubjectName;

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Of one panel, in pixels.
const PANEL: (u32, u32) = (460, 320);

/// Draws a panel for each load and number of nodes: operations per second of every subject over the
/// number of clients, both by their orders of magnitude.
pub(crate) fn draw(report: &Report, file: &Path) -> Result<(), Failure> {
    paint(report, file).map_err(|error| undrawn(file, &*error))
}

fn paint(report: &Report, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let panels: Vec<&[Row]> = report
        .rows
        .chunk_by(|a, b| (a.point.load, a.point.nodes) == (b.point.load, b.point.nodes))
        .collect();
    let columns = panels.len().clamp(1, 2);
    let lines = panels.len().div_ceil(columns);
    let size = (PANEL.0 * columns as u32, PANEL.1 * lines as u32);
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE)?;
    for (rows, area) in panels.into_iter().zip(root.split_evenly((lines, columns))) {
        of_rows(rows, report.unit, &area)?;
    }
    root.present()?;
    Ok(())
}

/// The lines of a panel: each subject's name, and its (clients, operations per second).
pub(crate) type Lines = [(&'static str, Vec<(f64, f64)>)];

/// Draws a single panel.
pub(crate) fn draw_lines(
    file: &Path,
    caption: &str,
    unit: &str,
    lines: &Lines,
) -> Result<(), Failure> {
    let paint = || -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::new(file, PANEL).into_drawing_area();
        root.fill(&WHITE)?;
        panel(caption, unit, lines, &root)?;
        root.present()?;
        Ok(())
    };
    paint().map_err(|error| undrawn(file, &*error))
}

fn undrawn(file: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::new(format!("cannot draw {}: {error}", file.display()), "look at where it goes")
}

fn of_rows(rows: &[Row], unit: &str, area: &Area) -> Result<(), Box<dyn std::error::Error>> {
    let point = rows[0].point;
    let caption = format!(
        "{}, {} node{}",
        point.load.as_str(),
        point.nodes,
        if point.nodes == 1 { "" } else { "s" }
    );
    let lines = SubjectName::ALL.map(|subject| {
        let measured = |row: &Row| Some((row.point.clients.into(), row.ops_s(subject)?));
        (subject.as_str(), rows.iter().filter_map(measured).collect())
    });
    panel(&caption, unit, &lines, area)
}

fn panel(
    caption: &str,
    unit: &str,
    lines: &Lines,
    area: &Area,
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let least = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(f64::MAX, f64::min);
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (least(|p| p.0) * 0.8..most(|p| p.0) * 1.25).log_scale(),
            (least(|p| p.1) * 0.5..most(|p| p.1) * 2.0).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("clients")
        .y_desc(format!("{unit}/s"))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    for (at, (name, points)) in lines.iter().enumerate() {
        let color = [BLUE, RED, RGBColor(150, 150, 150)][at % 3];
        if points.is_empty() {
            continue;
        }
        let line = LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(3);
        chart
            .draw_series(line)?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}
