//! Where results go: a table or an object on standard output, a chart into a file.

use std::io::{self, IsTerminal as _, stderr};
use std::path::PathBuf;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::chart::{self, Picture};
use crate::failure::Failure;

/// How results are written.
#[derive(Args)]
pub(crate) struct Output {
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,

    /// Draw a chart into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Output {
    /// A bar of so many steps on standard error, if someone is looking at it and a table is what they want.
    pub(crate) fn progress(&self, steps: u64) -> ProgressBar {
        if self.json || !stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len}  eta {eta}  {msg}")
            .expect("the template is well-formed");
        ProgressBar::new(steps).with_style(style)
    }

    /// What became of printing the results; then they are drawn, if that was asked for.
    pub(crate) fn end(
        &self,
        printed: io::Result<()>,
        pictures: &[impl Picture],
    ) -> Result<(), Failure> {
        self::printed(printed)?;
        self.svg.as_ref().map_or(Ok(()), |file| chart::draw(pictures, file))
    }
}

/// What became of printing the results.
pub(crate) fn printed(printed: io::Result<()>) -> Result<(), Failure> {
    printed.map_err(|error| {
        Failure::new(format!("cannot print the results: {error}"), "look at where they go")
    })
}
