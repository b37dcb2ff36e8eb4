//! Reports as pictures.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

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
pub(crate) trait Picture {
    fn paint(&self, area: &Area) -> Result<(), Box<dyn Error>>;
}

/// Lines over something that grows.
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

/// Bars beside names, from above to below.
pub(crate) struct Bars {
    pub(crate) title: String,
    /// What is told from left to right.
    pub(crate) x: &'static str,
    /// Of the bars of each group, in their order.
    pub(crate) legend: &'static [&'static str],
    pub(crate) groups: Vec<Group>,
}

/// The bars of one name.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) bars: Vec<Bar>,
    /// What they are to be at most.
    pub(crate) limit: Option<f64>,
}

/// Its length, and between what it was.
pub(crate) type Bar = (f64, Option<Range<f64>>);

/// Draws the pictures into one file, two beside each other.
pub(crate) fn draw(pictures: &[impl Picture], file: &Path) -> Result<(), Failure> {
    paint(pictures, file).map_err(|error| {
        Failure::new(format!("cannot draw {}: {error}", file.display()), "look at where it goes")
    })
}

fn paint(pictures: &[impl Picture], file: &Path) -> Result<(), Box<dyn Error>> {
    let columns = pictures.len().clamp(1, 2);
    let lines = pictures.len().div_ceil(columns).max(1);
    let size = (PANEL.0 * columns as u32, PANEL.1 * lines as u32);
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE)?;
    for (picture, area) in pictures.iter().zip(root.split_evenly((lines, columns))) {
        picture.paint(&area)?;
    }
    root.present()?;
    Ok(())
}

/// What is around every picture.
fn titled<'a, 'b>(
    area: &'a Area<'b>,
    title: &str,
    left: u32,
) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(left);
    builder
}

/// Says what is what.
fn explain<'a, 'b: 'a, X: Ranged, Y: Ranged>(
    chart: &mut ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>,
) -> Result<(), Box<dyn Error>> {
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}

impl Picture for Panel {
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
}

impl Panel {
    fn paint_on<X, Y>(&self, area: &Area, x: X, y: Y) -> Result<(), Box<dyn Error>>
    where
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
        Y::CoordDescType: ValueFormatter<f64>,
        X::CoordDescType: Ranged<ValueType = f64>,
        Y::CoordDescType: Ranged<ValueType = f64>,
    {
        let mut chart = titled(area, &self.title, 72).build_cartesian_2d(x, y)?;
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
        explain(&mut chart)
    }
}

impl Picture for Bars {
    fn paint(&self, area: &Area) -> Result<(), Box<dyn Error>> {
        let ends = |group: &Group| -> Vec<f64> {
            let of_bar = |(length, spread): &Bar| spread.as_ref().map_or(*length, |s| s.end);
            group.bars.iter().map(of_bar).chain(group.limit).collect()
        };
        // To the right of the longest bar is room for the legend.
        let wide = span(self.groups.iter().flat_map(ends)).end * 1.4;
        // The first is at the top. Each has one unit of height around its place.
        let last = self.groups.len() as f64 - 1.0;
        let places: Vec<f64> = (0..self.groups.len()).map(|at| last - at as f64).collect();
        let high = -0.5..last.max(0.0) + 0.5;
        let mut chart = titled(area, &self.title, 100).build_cartesian_2d(0.0..wide, high)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .disable_y_mesh()
            .x_desc(self.x)
            .x_label_formatter(&|x| label(*x))
            .y_labels(0)
            .draw()?;
        let right = Pos::new(HPos::Right, VPos::Center);
        let style = TextStyle::from(("sans-serif", 12)).pos(right);
        chart.draw_series(self.groups.iter().zip(&places).map(|(group, place)| {
            EmptyElement::at((0.0, *place)) + Text::new(group.name.clone(), (-8, 0), style.clone())
        }))?;
        let thick = 0.8 / self.legend.len() as f64;
        for (at, name) in self.legend.iter().enumerate() {
            let color = COLORS[at % COLORS.len()];
            let bars = self.groups.iter().zip(&places).filter_map(|(group, place)| {
                let top = place + 0.4 - thick * at as f64;
                Some((group.bars.get(at)?, top))
            });
            let solid = bars.clone().map(|((length, _), top)| {
                Rectangle::new([(0.0, top), (*length, top - thick)], color.mix(0.7).filled())
            });
            chart.draw_series(solid)?.label(*name).legend(move |(x, y)| {
                Rectangle::new([(x, y - 5), (x + 16, y + 5)], color.mix(0.7).filled())
            });
            let spreads = bars.filter_map(|((_, spread), top)| {
                let (Range { start, end }, middle) = (spread.clone()?, top - thick / 2.0);
                Some(PathElement::new([(start, middle), (end, middle)], BLACK))
            });
            chart.draw_series(spreads)?;
        }
        let limits: Vec<PathElement<(f64, f64)>> = self
            .groups
            .iter()
            .zip(&places)
            .filter_map(|(group, place)| {
                let limit = group.limit?;
                let ends = [(limit, place - 0.5), (limit, place + 0.5)];
                Some(PathElement::new(ends, BLACK.stroke_width(2)))
            })
            .collect();
        if !limits.is_empty() {
            chart.draw_series(limits)?.label("limit").legend(|(x, y)| {
                PathElement::new([(x + 8, y - 6), (x + 8, y + 6)], BLACK.stroke_width(2))
            });
        }
        explain(&mut chart)
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
        svg(Panel { title: "a title".into(), x: "clients", y: "writes/s".into(), lines })
    }

    fn bars(groups: Vec<Group>) -> String {
        svg(Bars { title: "a title".into(), x: "times", legend: &["p99", "p99.9"], groups })
    }

    fn svg(picture: impl Picture) -> String {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("chart.svg");
        draw(&[picture], &file).unwrap();
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
    fn bars_have_names_and_a_legend_that_tells_of_a_limit_where_there_is_one() {
        let group = |limit| Group {
            name: "a trouble".into(),
            bars: vec![(1.5, Some(1.0..3.0)), (2.5, None)],
            limit,
        };
        let limited = bars(vec![group(Some(2.0)), group(None)]);
        for text in ["a title", "times", "p99.9", "a trouble", "limit"] {
            assert!(limited.contains(&format!("\n{text}\n")), "{text:?} in {limited}");
        }
        assert!(!bars(vec![group(None)]).contains("limit"));
        bars(Vec::new());
    }

    #[test]
    fn where_nothing_can_be_written_it_says_so() {
        let failure = draw(&[] as &[Panel], Path::new("/nowhere/at/all.svg")).unwrap_err();
        assert!(failure.to_string().starts_with("cannot draw /nowhere/at/all.svg: "), "{failure}");
    }
}
