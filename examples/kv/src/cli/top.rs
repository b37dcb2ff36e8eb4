//! `kv top`: the nodes, live: who leads, who lags, how many writes, how long they take.

use std::io::IsTerminal as _;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use kv::client::{CallError, Client, Server};
use kv::error::Exit;
use kv::readings::Reading;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::commands::{no, print, print_json};
use super::{Target, asked_to_stop, report};

/// From one look at the nodes to the next: what rates and times are of.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct Top {
    #[command(flatten)]
    target: Target,
    /// Look twice, a second apart, print what was found, and end
    #[arg(long)]
    once: bool,
}

/// What a server said, or why it did not.
type Said = Result<Reading, String>;

/// A server's row: what it said, and what it said before.
struct Row<'a> {
    server: &'a Server,
    said: &'a Said,
    before: Option<&'a Reading>,
}

pub(crate) async fn run(args: Top) -> Result<(), Exit> {
    tokio::select! { biased;
        stopped = asked_to_stop() => stopped,
        ended = watch(&args) => ended,
    }
}

async fn watch(args: &Top) -> Result<(), Exit> {
    let (servers, json) = (&args.target.servers, args.target.json);
    // A node that hangs holds up the others' rows no longer than this.
    let client = Client::new(INTERVAL);
    let look = || futures::future::join_all(servers.iter().map(|server| read(&client, server)));
    let (mut looked_at, mut before) = (Instant::now(), look().await);
    loop {
        tokio::time::sleep_until(looked_at + INTERVAL).await;
        let now = Instant::now();
        let said = look().await;
        let past = now - looked_at;
        let rows: Vec<Row<'_>> = servers
            .iter()
            .zip(&said)
            .zip(&before)
            .map(|((server, said), before)| Row { server, said, before: before.as_ref().ok() })
            .collect();
        if json {
            let committed = most_committed(&said);
            let nodes: Vec<Value> = rows.iter().map(|row| row.json(committed, past)).collect();
            print_json(&json!({ "interval_ms": past.as_millis() as u64, "nodes": nodes }))?;
        } else {
            draw(&rows, most_committed(&said), past)?;
        }
        if args.once {
            let answered = said.iter().any(Result::is_ok);
            let none = || no(json, format!("none of {} servers answered", servers.len()));
            return if answered { Ok(()) } else { Err(none()) };
        }
        (looked_at, before) = (now, said);
    }
}

async fn read(client: &Client, server: &Server) -> Said {
    let answer = client.send(server, Method::GET, "/metrics", Bytes::new()).await;
    let answer = answer.map_err(|error: CallError| error.to_string())?;
    String::from_utf8_lossy(&answer.body).parse()
}

/// The furthest that any of them knows to be committed: the lag of each is counted from there.
fn most_committed(said: &[Said]) -> u64 {
    said.iter().flatten().map(|reading| reading.committed).max().unwrap_or_default()
}

impl Row<'_> {
    /// Writes per second, and quantiles of times since the last look.
    fn rates(&self, now: &Reading, past: Duration) -> Rates {
        let Some(before) = self.before else { return Rates::default() };
        let entries = now.entries.saturating_sub(before.entries);
        let answered = now.answered.since(&before.answered);
        let log_write = now.log_write.since(&before.log_write);
        Rates {
            writes_s: Some((entries as f64 / past.as_secs_f64()).round() as u64),
            p50_us: answered.quantile(0.5),
            p99_us: answered.quantile(0.99),
            log_p50_us: log_write.quantile(0.5),
            log_p99_us: log_write.quantile(0.99),
        }
    }

    fn json(&self, committed: u64, past: Duration) -> Value {
        let said = self.said.as_ref().ok();
        let rates = said.map_or_else(Rates::default, |reading| self.rates(reading, past));
        json!({
            "server": self.server.to_string(),
            "id": said.map(|r| r.id),
            "role": said.map(|r| &r.role),
            "term": said.map(|r| r.term),
            "committed": said.map(|r| r.committed),
            "applied": said.map(|r| r.applied),
            "lag": said.map(|r| committed.saturating_sub(r.applied)),
            "writes_s": rates.writes_s,
            "p50_us": rates.p50_us,
            "p99_us": rates.p99_us,
            "log_p50_us": rates.log_p50_us,
            "log_p99_us": rates.log_p99_us,
            "healthy": said.is_some_and(|r| r.healthy),
            "failed": said.is_some_and(|r| r.failed),
            "error": self.said.as_ref().err(),
        })
    }

    fn cells(&self, committed: u64, past: Duration) -> Vec<String> {
        let reading = match self.said {
            Ok(reading) => reading,
            Err(error) => {
                let mut cells = vec!["-".to_owned(); HEADINGS.len()];
                (cells[0], cells[HEADINGS.len() - 1]) = (self.server.to_string(), error.clone());
                return cells;
            }
        };
        let rates = self.rates(reading, past);
        let number = |n: Option<u64>| n.map_or_else(|| "-".into(), |n| n.to_string());
        let health = match reading {
            Reading { failed: true, .. } => "stopped",
            Reading { healthy: true, .. } => "ok",
            _ => "behind",
        };
        vec![
            self.server.to_string(),
            reading.id.to_string(),
            reading.role.clone(),
            reading.term.to_string(),
            reading.committed.to_string(),
            committed.saturating_sub(reading.applied).to_string(),
            number(rates.writes_s),
            time(rates.p50_us),
            time(rates.p99_us),
            time(rates.log_p50_us),
            time(rates.log_p99_us),
            health.into(),
        ]
    }
}

/// Of the time between two looks; `None` where there was nothing to measure.
#[derive(Default)]
struct Rates {
    writes_s: Option<u64>,
    p50_us: Option<u64>,
    p99_us: Option<u64>,
    log_p50_us: Option<u64>,
    log_p99_us: Option<u64>,
}

const HEADINGS: [&str; 12] = [
    "server",
    "id",
    "role",
    "term",
    "committed",
    "lag",
    "writes/s",
    "p50",
    "p99",
    "log p50",
    "log p99",
    "health",
];

fn time(micros: Option<u64>) -> String {
    match micros {
        None => "-".into(),
        Some(micros) if micros < 1000 => format!("{micros} us"),
        Some(micros) => format!("{:.1} ms", micros as f64 / 1000.0),
    }
}

/// The table; on a terminal, in the place of the last.
fn draw(rows: &[Row<'_>], committed: u64, past: Duration) -> Result<(), Exit> {
    let cells: Vec<Vec<String>> = rows.iter().map(|row| row.cells(committed, past)).collect();
    let table = report::table(&HEADINGS, &cells);
    // To the upper left corner, and nothing below.
    let clear = if std::io::stdout().is_terminal() { "\x1b[H\x1b[J" } else { "" };
    print(format!("{clear}{table}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_a_unit_that_fits() {
        let shown = [None, Some(7), Some(999), Some(1000), Some(12_345)].map(time);
        assert_eq!(shown, ["-", "7 us", "999 us", "1.0 ms", "12.3 ms"]);
    }
}
