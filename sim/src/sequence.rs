//! A picture of who said what to whom: the last steps before a failure, as text or SVG.
//!
//! Knows nothing of engines or nodes. Whoever runs a simulation records [`Event`]s and asks for the
//! picture: a column for each node, a row for each event, time going down.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write;

use crate::trace::TraceMode;

/// Something that happened, with its place in the picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message was received, or was not.
    Message {
        /// When it was sent, in nanoseconds.
        sent: u64,
        /// The sender.
        from: u64,
        /// The receiver.
        to: u64,
        /// What became of it.
        fate: Fate,
        /// What it says.
        label: String,
    },
    /// Something else happened at a node: a crash, a start, another role.
    Note {
        /// When, in nanoseconds.
        at: u64,
        /// Where; 0 means everywhere.
        node: u64,
        /// What.
        text: String,
    },
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrived at this moment.
    Arrived(u64),
    /// It never did.
    Lost,
    /// It was still under way when the recording ended.
    UnderWay,
}

impl Event {
    /// The moment that decides its row.
    pub fn at(&self) -> u64 {
        match self {
            Event::Message { fate: Fate::Arrived(at), .. } => *at,
            Event::Message { sent, .. } => *sent,
            Event::Note { at, .. } => *at,
        }
    }
}

/// Events in order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    events: Vec<Event>,
}

/// Keeps the last events of a run.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    keep: usize,
    events: VecDeque<Event>,
}

impl Recorder {
    /// A recorder of the last `keep` events; of 0 it records nothing.
    pub fn new(keep: usize) -> Self {
        Self { keep, events: VecDeque::new() }
    }

    /// A recorder for a run with such a trace. Longer pictures are not looked at.
    pub(crate) fn of(trace: TraceMode) -> Self {
        Self::new(match trace {
            TraceMode::Off | TraceMode::Hash => 0,
            TraceMode::Tail(lines) => lines.min(40),
            TraceMode::Print => 40,
        })
    }

    /// Whether anything is recorded: if not, nobody need put labels together.
    pub fn is_on(&self) -> bool {
        self.keep > 0
    }

    /// Takes note of an event.
    pub fn record(&mut self, event: Event) {
        if self.events.len() == self.keep {
            self.events.pop_front();
        }
        if self.keep > 0 {
            self.events.push_back(event);
        }
    }

    /// What was recorded, and what was still `under_way` since the oldest of it.
    pub fn sequence(&self, under_way: impl IntoIterator<Item = Event>) -> Sequence {
        let Some(oldest) = self.events.front().map(Event::at) else { return Sequence::default() };
        let recent = under_way.into_iter().filter(|event| event.at() >= oldest);
        Sequence::new(self.events.iter().cloned().chain(recent))
    }
}

const COLUMN: usize = 14;

impl Sequence {
    /// Puts events in order of time.
    pub fn new(events: impl IntoIterator<Item = Event>) -> Self {
        let mut events: Vec<Event> = events.into_iter().collect();
        events.sort_by_key(Event::at);
        Self { events }
    }

    /// The events, in order of time.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    fn nodes(&self) -> Vec<u64> {
        let mut nodes = BTreeSet::new();
        for event in &self.events {
            match event {
                Event::Message { from, to, .. } => nodes.extend([*from, *to]),
                Event::Note { node, .. } => nodes.extend(Some(*node).filter(|node| *node > 0)),
            }
        }
        nodes.into_iter().collect()
    }

    /// Rows of characters, each line ended by a newline; empty if nothing was recorded.
    ///
    /// ```
    /// use quorate_sim::sequence::{Event, Fate, Sequence};
    ///
    /// let message = |sent, from, to, fate, label: &str| {
    ///     Event::Message { sent, from, to, fate, label: label.into() }
    /// };
    /// let picture = Sequence::new([
    ///     message(1_000_000, 1, 3, Fate::Arrived(2_500_000), "vote for me"),
    ///     Event::Note { at: 3_000_000, node: 2, text: "crashes".into() },
    ///     message(4_000_000, 3, 1, Fate::Lost, "you have it"),
    /// ]);
    /// let rows = [
    ///     "     time ms  1             2             3",
    ///     "       2.500  o-------------+------------>|  vote for me (sent 1.000)",
    ///     "       3.000  |             *             |  2: crashes",
    ///     "       4.000  | x-----------+-------------o  you have it (lost)",
    /// ];
    /// assert_eq!(picture.to_text().lines().collect::<Vec<_>>(), rows);
    /// ```
    pub fn to_text(&self) -> String {
        let nodes = self.nodes();
        let mut text = String::new();
        if self.events.is_empty() {
            return text;
        }
        let header: String = nodes.iter().map(|id| format!("{id:<COLUMN$}")).collect();
        text += &format!("{:>12}  {}\n", "time ms", header.trim_end());
        let width = nodes.len().saturating_sub(1) * COLUMN + 1;
        let column = |id: u64| nodes.iter().position(|n| *n == id).map_or(0, |n| n * COLUMN);
        for event in &self.events {
            let mut row: Vec<char> = vec![' '; width];
            row.iter_mut().step_by(COLUMN).for_each(|c| *c = '|');
            let label = match event {
                Event::Note { node, text, .. } => {
                    let everywhere = *node == 0;
                    for id in nodes.iter().filter(|id| everywhere || *id == node) {
                        row[column(*id)] = '*';
                    }
                    if everywhere { text.clone() } else { format!("{node}: {text}") }
                }
                Event::Message { sent, from, to, fate, label } => {
                    draw_arrow(&mut row, column(*from), column(*to), *fate);
                    match fate {
                        Fate::Arrived(_) => format!("{label} (sent {})", millis(*sent)),
                        Fate::Lost => format!("{label} (lost)"),
                        Fate::UnderWay => format!("{label} (under way)"),
                    }
                }
            };
            let row: String = row.into_iter().collect();
            text += &format!("{:>12}  {row}  {label}\n", millis(event.at()));
        }
        text
    }

    /// The same as a picture, complete with its XML header.
    pub fn to_svg(&self) -> String {
        const ROW: f64 = 22.0;
        const TOP: f64 = 50.0;
        let nodes = self.nodes();
        let x = |id: u64| {
            let place = nodes.iter().position(|n| *n == id).unwrap_or(0);
            120.0 + place as f64 * 130.0
        };
        let times: Vec<u64> = self.events.iter().map(Event::at).collect();
        // A moment between two rows has its place between them.
        let y = |at: u64| {
            let row = times.partition_point(|t| *t < at);
            let below = times.get(row).copied().unwrap_or(at);
            let above = row.checked_sub(1).map_or(below, |row| times[row]);
            let part = (at - above.min(at)) as f64 / (below - above).max(1) as f64;
            TOP + ROW * (row as f64 - 1.0 + part.min(1.0)).max(-0.8)
        };
        let bottom = TOP + ROW * self.events.len() as f64;
        let labels = 120.0 + nodes.len() as f64 * 130.0 - 90.0;
        let width = labels + 700.0;
        let mut svg = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{}\" \
             font-family=\"monospace\" font-size=\"11\">\n\
             <defs><marker id=\"tip\" markerWidth=\"8\" markerHeight=\"8\" refX=\"7\" refY=\"3\" \
             orient=\"auto\"><path d=\"M0,0 L7,3 L0,6 z\"/></marker></defs>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
            bottom + 20.0
        );
        let mut line = |text: String| {
            svg += &text;
            svg.push('\n');
        };
        for id in &nodes {
            let x = x(*id);
            line(format!(
                "<text x=\"{x}\" y=\"20\" text-anchor=\"middle\" font-size=\"14\">{id}</text>\n\
                 <line x1=\"{x}\" y1=\"28\" x2=\"{x}\" y2=\"{bottom}\" stroke=\"#bbb\"/>"
            ));
        }
        for (row, event) in self.events.iter().enumerate() {
            let at = TOP + ROW * row as f64;
            let text = |x: f64, y: f64, text: &str| {
                format!("<text x=\"{x}\" y=\"{}\">{}</text>", y + 4.0, escaped(text))
            };
            line(text(10.0, at, &millis(event.at())));
            match event {
                Event::Note { node, text: note, .. } => {
                    let everywhere = *node == 0;
                    for id in nodes.iter().filter(|id| everywhere || *id == node) {
                        let x = x(*id);
                        line(format!("<circle cx=\"{x}\" cy=\"{at}\" r=\"5\" fill=\"#c33\"/>"));
                    }
                    let who = if everywhere { String::new() } else { format!("{node}: ") };
                    line(text(labels, at, &format!("{who}{note}")));
                }
                Event::Message { sent, from, to, fate, label } => {
                    let (x1, x2) = (x(*from), x(*to));
                    let (y1, end, style) = match fate {
                        Fate::Arrived(_) => (y(*sent), x2, "stroke=\"black\""),
                        Fate::Lost => {
                            (at, x1 + (x2 - x1) * 0.7, "stroke=\"#c33\" stroke-dasharray=\"2,3\"")
                        }
                        Fate::UnderWay => {
                            (at, x1 + (x2 - x1) * 0.7, "stroke=\"#666\" stroke-dasharray=\"6,3\"")
                        }
                    };
                    let tip = if *fate == Fate::Lost { "" } else { " marker-end=\"url(#tip)\"" };
                    line(format!(
                        "<line x1=\"{x1}\" y1=\"{y1:.1}\" x2=\"{end:.1}\" y2=\"{at}\" {style}{tip}/>"
                    ));
                    if *fate == Fate::Lost {
                        line(text(end - 3.0, at, "x"));
                    }
                    line(text(labels, at, label));
                }
            }
        }
        svg += "</svg>\n";
        svg
    }
}

fn draw_arrow(row: &mut [char], from: usize, to: usize, fate: Fate) {
    if from == to {
        row[from] = '@';
        return;
    }
    let (low, high) = (from.min(to), from.max(to));
    for (at, c) in row.iter_mut().enumerate().take(high).skip(low + 1) {
        *c = match fate {
            _ if *c == '|' => '+',
            Fate::UnderWay if at % 2 == 0 => ' ',
            _ => '-',
        };
    }
    row[from] = 'o';
    let head = if from < to { to - 1 } else { to + 1 };
    let before = if from < to { to - 2 } else { to + 2 };
    match fate {
        Fate::Arrived(_) => row[head] = if from < to { '>' } else { '<' },
        Fate::UnderWay => row[head] = ' ',
        Fate::Lost => {
            row[head] = ' ';
            row[before] = 'x';
        }
    }
}

fn millis(nanos: u64) -> String {
    let mut text = String::new();
    let written = write!(text, "{}.{:03}", nanos / 1_000_000, nanos / 1_000 % 1_000);
    written.expect("a string takes everything");
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(sent: u64, from: u64, to: u64, fate: Fate) -> Event {
        Event::Message { sent, from, to, fate, label: "a<b & c".into() }
    }

    #[test]
    fn the_last_events_are_kept_and_what_is_under_way_is_added() {
        let mut recorder = Recorder::new(2);
        for at in 1..=5 {
            recorder.record(Event::Note { at, node: 1, text: at.to_string() });
        }
        let old = message(3, 1, 2, Fate::UnderWay);
        let new = message(4, 2, 1, Fate::UnderWay);
        let sequence = recorder.sequence([old, new.clone()]);
        let note = |at: u64| Event::Note { at, node: 1, text: at.to_string() };
        assert_eq!(sequence.events(), [note(4), new, note(5)]);

        let mut off = Recorder::new(0);
        off.record(note(1));
        assert!(!off.is_on());
        assert_eq!(off.sequence([]).to_text(), "");
    }

    #[test]
    fn svg_has_a_line_for_each_node_and_message_and_escapes_what_they_say() {
        let note = Event::Note { at: 9, node: 0, text: "power is lost".into() };
        let svg = Sequence::new([
            message(1_000, 1, 2, Fate::Arrived(5_000)),
            message(2_000, 2, 1, Fate::Lost),
            message(2_000, 2, 1, Fate::UnderWay),
            note,
        ])
        .to_svg();
        assert_eq!(svg.matches("<line").count(), 2 + 3);
        assert_eq!(svg.matches("<circle").count(), 2, "everywhere");
        assert_eq!(svg.matches("a&lt;b &amp; c").count(), 3);
        assert!(svg.starts_with("<?xml") && svg.ends_with("</svg>\n"));
    }
}
