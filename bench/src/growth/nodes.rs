//! What a write costs in clusters of more nodes: in one process, with a memory log.

use super::Bench;
use super::report::{Part, Row};
use crate::chart::Panel;
use crate::failure::Failure;
use crate::measure::{Control, Point};
use crate::subject::{Load, Quorate};

/// Of each cluster. The others stand beside the first.
const NODES: [u32; 4] = [3, 5, 7, 9];

const CLIENTS: [u32; 2] = [1, 256];

/// Measured in each round.
pub(super) const POINTS: usize = NODES.len() * CLIENTS.len();

pub(super) fn measure(bench: &Bench<'_>) -> Result<Part, Failure> {
    let mut control = Control::new()?;
    let points = CLIENTS.into_iter().flat_map(|clients| NODES.map(|nodes| (clients, nodes)));
    let mut rows: Vec<Row> = points
        .map(|(clients, nodes)| Row {
            load: "growth_nodes",
            size: nodes.into(),
            clients,
            nodes: nodes.into(),
            peer: "3_nodes",
            ..Row::default()
        })
        .collect();
    for _ in 0..bench.options.rounds {
        let mut smallest = f64::NAN;
        for row in &mut rows {
            let (clients, nodes) = (row.clients, row.nodes as u32);
            bench.progress.set_message(format!("{nodes} nodes, {clients} clients"));
            let point = Point { load: Load::Write, clients, nodes };
            let measured = control.measure::<Quorate>(point, bench.options.seconds)?;
            let cost = measured.processor_us.unwrap_or(f64::NAN);
            if nodes == NODES[0] {
                smallest = cost;
            }
            row.values.push(cost);
            row.peer_values.push(smallest);
            row.add("writes_s", measured.ops_s);
            row.add("p50_us", measured.p50_us);
            bench.progress.inc(1);
        }
    }
    let panel = |y: &str, of: fn(&Row) -> f64| Panel {
        title: "a write in larger clusters".into(),
        x: "nodes",
        y: y.into(),
        lines: CLIENTS
            .map(|clients| {
                let of_clients = rows.iter().filter(|row| row.clients == clients);
                let plural = if clients == 1 { "" } else { "s" };
                let points = of_clients.map(|row| (row.nodes as f64, of(row))).collect();
                (format!("{clients} client{plural}"), points)
            })
            .to_vec(),
    };
    let panels = vec![
        panel("us of processors a write", Row::value),
        panel("p50 us", |row| row.more("p50_us")),
    ];
    let title =
        "Nodes in one process, memory log: processor time of a write, the client's included.";
    Ok(Part {
        title,
        measured: bench.options.rounds,
        unit: "us/write",
        grows: "cluster",
        rows,
        panels,
    })
}
