//! Tables and progress bars: how results look on a screen.

use indicatif::{ProgressBar, ProgressStyle};

/// Bytes that come, of which nobody knows how many there are; on stderr, if that is a terminal.
pub(crate) fn bytes_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {bytes} at {bytes_per_sec}")
        .expect("the template is fixed");
    ProgressBar::no_length().with_style(style)
}

/// A bar on stderr; hidden where that is no terminal.
pub(crate) fn bar(what: impl Into<String>, count: usize) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg:<28} [{bar:32}] {human_pos}/{human_len} {per_sec} {elapsed}",
    )
    .expect("a template that is constant");
    let bar = ProgressBar::new(count as u64).with_style(style.progress_chars("=> "));
    bar.set_message(what.into());
    bar
}

/// Rows under headings, each column as wide as its widest cell.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut table = line(&mut headings.iter().copied());
    for row in rows {
        table.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "long".into()], vec!["wider".into(), "b".into()]];
        assert_eq!(table(&["id", "x"], &rows), "id     x\na      long\nwider  b\n");
    }
}
