//! Reports as pictures.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use crate::failure::Failure;
use crate::report::{grouped, rounded};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Of one panel, in pixels.
const PANEL: (u32, u32) = (460, 320);

/// An axis whose values differ by so many times or more is drawn by their orders of magnitude.
const MAGNITUDES: f64 = 10.0;

/// So many points of a line can be told apart, and have a dot each.
const FEW: usize = 20;

/// Of the lines of a panel, in their order.
const COLORS: [RGBColor; 4] = [BLUE, RED, RGBColor(150, 150, 150), RGBColor(0, 140, 80)];

/// One of the pictures of a chart.
#[derive(Clone)]
pub(crate) struct Panel {
    pub(crate) title: String,
    /// What is told from left to right.
    pub(crate) x: &'static str,
    /// What is told from below to above.
    pub(crate) y: String,
    pub(crate) lines: Vec<Line>,
}

/// Its name, and its points.
pub(crate) type Line = (String, Vec<(f64, f64)>);

/// Draws the panels into one file, two beside each other.
pub(crate) fn draw(panels: &[Panel], file: &Path) -> Result<(), Failure> {
    paint(panels, file).map_err(|error| {
        Failure::new(format!("cannot draw {}: {error}", file.display()), "look at where it goes")
    })
}

fn paint(panels: &[Panel], file: &Path) -> Result<(), Box<dyn Error>> {
    let columns = panels.len().clamp(1, 2);
    let lines = panels.len().div_ceil(columns).max(1);
    let size = (PANEL.0 * columns as u32, PANEL.1 * lines as u32);
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE)?;
    for (panel, area) in panels.iter().zip(root.split_evenly((lines, columns))) {
        panel.paint(&area)?;
    }
    root.present()?;
    Ok(())
}

impl Panel {
    /// Chooses the axes.
    fn paint(&self, area: &Area) -> Result<(), Box<dyn Error>> {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let (x, y) = (span(points().map(|p| p.0)), span(points().map(|p| p.1)));
        let many = |of: &Range<f64>| of.start > 0.0 && of.end >= MAGNITUDES * of.start;
        let (wide, high) = ((x.start * 0.8..x.end * 1.25), (y.start * 0.3..y.end * 2.0));
        // Heights on an even axis are told apart from nothing; what is wide begins where it begins.
        let margin = (x.end - x.start).max(1.0) / 20.0;
        let (even_x, even_y) = (x.start - margin..x.end + margin, 0.0..y.end * 1.2);
        match (many(&x), many(&y)) {
            (true, true) => self.paint_on(area, wide.log_scale(), high.log_scale()),
            (true, false) => self.paint_on(area, wide.log_scale(), even_y),
            (false, true) => self.paint_on(area, even_x, high.log_scale()),
            (false, false) => self.paint_on(area, even_x, even_y),
        }
    }

    fn paint_on<X, Y>(&self, area: &Area, x: X, y: Y) -> Result<(), Box<dyn Error>>
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y::CoordDescType: ValueFormatter<f64>,
        X::CoordDescType: Ranged<ValueType = f64>,
        Y::CoordDescType: Ranged<ValueType = f64>,
    {
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(72)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(self.x)
            .y_desc(&self.y)
            .x_label_formatter(&|x| label(*x))
            .y_label_formatter(&|y| label(*y))
            .draw()?;
        for (at, (name, points)) in self.lines.iter().enumerate() {
            let color = COLORS[at % COLORS.len()];
            if points.is_empty() {
                continue;
            }
            let dots = if points.len() > FEW { 0 } else { 3 };
            let line =
                LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(dots);
            chart.draw_series(line)?.label(name).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2))
            });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        Ok(())
    }
}

/// The least and the most of them; of none, something that can be drawn.
fn span(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (least, most) =
        values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
    if least <= most { least..most.max(least + f64::EPSILON) } else { 0.0..1.0 }
}

fn label(value: f64) -> String {
    match value.abs() {
        size if size >= 1e9 => format!("{} G", rounded(value / 1e9)),
        size if size >= 1e6 => format!("{} M", rounded(value / 1e6)),
        size if size >= 100.0 => grouped(value),
        _ => rounded(value).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(lines: Vec<Line>) -> String {
        let panel = Panel { title: "a title".into(), x: "clients", y: "writes/s".into(), lines };
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("chart.svg");
        draw(&[panel], &file).unwrap();
        std::fs::read_to_string(file).unwrap()
    }

    #[test]
    fn axes_go_by_magnitudes_where_values_differ_by_them() {
        let wide = drawn(vec![("ours".into(), vec![(1.0, 3.0), (10_000.0, 9.0), (2e6, 5.0)])]);
        for text in ["a title", "clients", "writes/s", "ours", "\n1\n", "\n10 000\n", "\n1 M\n"] {
            assert!(wide.contains(text), "{text:?} in {wide}");
        }
        let even = drawn(vec![("ours".into(), vec![(3.0, 3.0), (9.0, 9.0)])]);
        assert!(even.contains("\n0\n") && even.contains("\n5\n"), "{even}");
    }

    #[test]
    fn a_chart_of_nothing_or_of_a_single_point_can_be_drawn() {
        drawn(Vec::new());
        drawn(vec![("one".into(), vec![(1.0, 0.0)]), ("none".into(), Vec::new())]);
    }

    #[test]
    fn where_nothing_can_be_written_it_says_so() {
        let failure = draw(&[], Path::new("/nowhere/at/all.svg")).unwrap_err();
        assert!(failure.to_string().starts_with("cannot draw /nowhere/at/all.svg: "), "{failure}");
    }
}
