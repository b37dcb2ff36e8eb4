//! Reports as pictures.

use std::path::Path;

use plotters::prelude::*;

use crate::failure::Failure;
use crate::report::{Report, Row};
use crate::subject::SubjectName;

/// Of one panel, in pixels.
const PANEL: (u32, u32) = (460, 320);

/// Draws a panel for each load and number of nodes: operations per second of every subject over the
/// number of clients, both by their orders of magnitude.
pub(crate) fn draw(report: &Report, file: &Path) -> Result<(), Failure> {
    paint(report, file).map_err(|error| {
        let what = format!("cannot draw {}: {error}", file.display());
        Failure::new(what, "look at where it goes")
    })
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
        panel(rows, report.unit, &area)?;
    }
    root.present()?;
    Ok(())
}

fn panel(
    rows: &[Row],
    unit: &str,
    area: &DrawingArea<SVGBackend, plotters::coord::Shift>,
) -> Result<(), Box<dyn std::error::Error>> {
    let values =
        rows.iter().flat_map(|row| SubjectName::ALL.into_iter().filter_map(|s| row.ops_s(s)));
    let (low, high) = values
        .fold((f64::MAX, 1.0), |(low, high): (f64, f64), value| (low.min(value), high.max(value)));
    let clients = |row: &Row| f64::from(row.point.clients);
    let first = rows.iter().map(clients).fold(f64::MAX, f64::min);
    let last = rows.iter().map(clients).fold(1.0, f64::max);
    let point = rows[0].point;
    let caption = format!(
        "{}, {} node{}",
        point.load.as_str(),
        point.nodes,
        if point.nodes == 1 { "" } else { "s" }
    );
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (first * 0.8..last * 1.25).log_scale(),
            (low * 0.5..high * 2.0).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("clients")
        .y_desc(format!("{unit}/s"))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()?;
    for (at, subject) in SubjectName::ALL.into_iter().enumerate() {
        let color = [BLUE, RED, RGBColor(150, 150, 150)][at % 3];
        let measured: Vec<(f64, f64)> =
            rows.iter().filter_map(|row| Some((clients(row), row.ops_s(subject)?))).collect();
        if measured.is_empty() {
            continue;
        }
        let line = LineSeries::new(measured, color.stroke_width(2)).point_size(3);
        chart
            .draw_series(line)?
            .label(subject.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}
