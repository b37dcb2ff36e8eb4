//! Points of several subjects, measured in turns.
//!
//! Rounds visit every point, and there every subject in turn, the first of them another one each
//! time, so that neither a slow minute of the machine nor what the one before left in its caches
//! falls on one subject alone.

use std::time::Duration;

use clap::Args;

use crate::failure::Failure;
use crate::measure::{Control, Measured, Point};
use crate::output::Output;
use crate::report::{Report, Row};
use crate::subject::{Floor, Openraft, Quorate, SubjectName};

/// How points are measured, and how the result is written.
#[derive(Args)]
pub(crate) struct Rounds {
    /// Measured seconds of each point, after a warm-up.
    #[arg(long, default_value = "2", value_parser = seconds)]
    seconds: Duration,

    /// Times that each point is measured. The medians are reported.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Numbers of concurrent clients, each a point.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,64,256,1024,4096",
        value_parser = clap::value_parser!(u32).range(1..=65_536)
    )]
    pub(crate) clients: Vec<u32>,

    /// Measure only this subject. May be given more than once.
    #[arg(long)]
    subject: Vec<SubjectName>,

    #[command(flatten)]
    output: Output,
}

/// Reads a positive number of seconds, fractions allowed.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|length| !length.is_zero())
        .ok_or_else(|| "not a positive number of seconds".to_owned())
}

impl Rounds {
    /// Measures all of it, prints the report, draws the chart.
    pub(crate) fn run(
        &self,
        title: &'static str,
        unit: &'static str,
        points: &[Point],
    ) -> Result<(), Failure> {
        let chosen = |s: &SubjectName| self.subject.is_empty() || self.subject.contains(s);
        let subjects: Vec<SubjectName> = SubjectName::ALL.into_iter().filter(chosen).collect();
        let mut rows: Vec<Row> = points.iter().map(|&point| Row::new(point, &subjects)).collect();
        let steps = self.rounds as usize * rows.len() * subjects.len();
        let progress = self.output.progress(steps as u64);
        let mut control = Control::new()?;

        let measured = (|| {
            for round in 0..self.rounds as usize {
                for (at, row) in rows.iter_mut().enumerate() {
                    for turn in 0..subjects.len() {
                        let subject = subjects[(round + at + turn) % subjects.len()];
                        let Point { load, clients, nodes } = row.point;
                        progress.set_message(format!(
                            "{subject}, {}, {nodes} nodes, {clients} clients",
                            load.as_str()
                        ));
                        let measured = measure(&mut control, subject, row.point, self.seconds)?;
                        row.add(subject, measured);
                        progress.inc(1);
                    }
                }
            }
            Ok(())
        })();
        // Also when it failed: what follows on the terminal begins on a clean line.
        progress.finish_and_clear();
        measured?;

        let report = Report { title, unit, rounds: self.rounds, length: self.seconds, rows };
        self.output.end(report.print(self.output.json), &report.panels())
    }
}

/// Measures one point of one subject.
fn measure(
    control: &mut Control,
    subject: SubjectName,
    point: Point,
    length: Duration,
) -> Result<Measured, Failure> {
    match subject {
        SubjectName::Quorate => control.measure::<Quorate>(point, length),
        SubjectName::Openraft => control.measure::<Openraft>(point, length),
        SubjectName::Floor => control.measure::<Floor>(point, length),
    }
}
