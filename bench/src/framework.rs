//! `bench framework`: what the framework itself costs.
//!
//! Three nodes in one process, memory for a disk, calls for a network, empty commands, a state
//! machine that does nothing: all that is left is the framework. Rounds visit every number of
//! clients, and there every subject in turn, the first of them another one each time, so that
//! neither a slow minute of the machine nor what the one before left in its caches falls on one
//! subject alone.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;
use crate::measure::{Control, Measured};
use crate::report::{Report, Row};
use crate::subject::{Floor, Openraft, Quorate, SubjectName};

/// What to measure, and how the result is written.
#[derive(Args)]
pub(crate) struct Options {
    /// Measured seconds of each point, after a warm-up.
    #[arg(long, default_value = "5", value_parser = seconds)]
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
    clients: Vec<u32>,

    /// Measure only this subject. May be given more than once.
    #[arg(long)]
    subject: Vec<SubjectName>,

    /// Print one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

/// Reads a positive number of seconds, fractions allowed.
fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|length| !length.is_zero())
        .ok_or_else(|| "not a positive number of seconds".to_owned())
}

impl Options {
    /// The chosen subjects, in the order of the reports.
    fn subjects(&self) -> Vec<SubjectName> {
        let chosen = |s: &SubjectName| self.subject.is_empty() || self.subject.contains(s);
        SubjectName::value_variants().iter().copied().filter(chosen).collect()
    }

    /// On standard error, if someone is looking at it.
    fn progress(&self, points: usize) -> ProgressBar {
        if self.json || !stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  eta {eta}  {msg}")
            .expect("the template is well-formed");
        ProgressBar::new(points as u64).with_style(style)
    }
}

/// Measures one point of one subject.
fn point(
    control: &mut Control,
    subject: SubjectName,
    clients: u32,
    length: Duration,
) -> Result<Measured, Failure> {
    let clients = clients as usize;
    match subject {
        SubjectName::Quorate => control.measure::<Quorate>(clients, length),
        SubjectName::Openraft => control.measure::<Openraft>(clients, length),
        SubjectName::Floor => control.measure::<Floor>(clients, length),
    }
}

/// Measures all of it and prints the report.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let subjects = options.subjects();
    let mut rows: Vec<Row> =
        options.clients.iter().map(|&clients| Row::new(clients, &subjects)).collect();
    let progress = options.progress(options.rounds as usize * rows.len() * subjects.len());
    let mut control = Control::new()?;

    let measured = (|| {
        for round in 0..options.rounds as usize {
            for (at, row) in rows.iter_mut().enumerate() {
                for turn in 0..subjects.len() {
                    let subject = subjects[(round + at + turn) % subjects.len()];
                    progress.set_message(format!("{subject}, {} clients", row.clients()));
                    let measured = point(&mut control, subject, row.clients(), options.seconds)?;
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

    let report = Report { rounds: options.rounds, length: options.seconds, rows };
    report.print(options.json).map_err(|error| {
        Failure::new(format!("cannot print the results: {error}"), "look at where they go")
    })
}
