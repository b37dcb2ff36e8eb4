//! One node of the service: a process with a key-value table behind the durable log and the TCP
//! transport, all settings as they are by default.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use quorate::{
    Committed, Config, Event, Events, Failure as Broken, Raft, Raw, RoleKind, Snapshot,
    StateMachine,
};
use tokio::time::sleep;

use super::cluster::Snapshots;
use super::runtime;
use crate::child::told;
use crate::failure::{Failure, asked_to_stop};

/// Of each key.
pub(super) const KEY_BYTES: usize = 16;

/// The state: what was put last under each key. A command is a key and a value.
#[derive(Default)]
pub(crate) struct Table {
    values: BTreeMap<[u8; KEY_BYTES], Box<[u8]>>,
}

impl Table {
    /// A key, and what follows it.
    fn split(command: &[u8]) -> Result<([u8; KEY_BYTES], &[u8]), Broken> {
        let (key, value) = command
            .split_first_chunk::<KEY_BYTES>()
            .ok_or_else(|| Broken::msg("a command is shorter than a key"))?;
        Ok((*key, value))
    }
}

#[async_trait]
impl StateMachine for Table {
    type Command = Bytes;
    type Response = ();
    type Codec = Raw;

    async fn apply(&mut self, entries: Vec<Committed<Bytes>>) -> Result<Vec<()>, Broken> {
        for entry in &entries {
            let (key, value) = Self::split(&entry.command)?;
            // Copied: the command shares the memory of its whole block.
            self.values.insert(key, value.into());
        }
        Ok(vec![(); entries.len()])
    }

    async fn snapshot(&mut self) -> Result<Snapshot, Broken> {
        let mut bytes = BytesMut::new();
        for (key, value) in &self.values {
            bytes.put_u32_le((KEY_BYTES + value.len()) as u32);
            bytes.put_slice(key);
            bytes.put_slice(value);
        }
        Ok(Snapshot::from_bytes(bytes.freeze()))
    }

    async fn restore(&mut self, snapshot: Snapshot) -> Result<(), Broken> {
        let bytes = snapshot.into_bytes()?;
        let mut rest = &bytes[..];
        self.values.clear();
        while let Some((length, more)) = rest.split_first_chunk() {
            let end = u32::from_le_bytes(*length) as usize;
            let pair = more.get(..end).ok_or_else(|| Broken::msg("a snapshot is cut off"))?;
            let (key, value) = Self::split(pair)?;
            self.values.insert(key, value.into());
            rest = &more[end..];
        }
        Ok(())
    }
}

/// What a node is asked, and says when it has applied all that was committed before.
pub(super) const LEVEL: &str = "level";

/// What a node says when it has become the leader, and then its term.
pub(super) const LEADS: &str = "leads";

/// Between two attempts to be level, when nobody leads yet.
const PAUSE: Duration = Duration::from_millis(5);

/// The work of the process: prints the address it listens on, and whenever it becomes the leader. It is told
/// the members, `ID=ADDRESS,..`, with which it begins the cluster, and [`LEVEL`]. Runs until its standard
/// input closes. Its data is thrown away then, so it does not hand over or flush first.
pub(super) fn run(id: u64, data: &Path, listen: &str, snapshots: Snapshots) -> Result<(), Failure> {
    let failed = |error: &dyn Display| {
        Failure::new(format!("node {id}: {error}"), "look at --dir and at what it says")
    };
    let mut config = Config::default();
    if snapshots == Snapshots::Never {
        config.snapshot_entries = None;
        config.snapshot_log_bytes = None;
    }
    runtime()?.block_on(async {
        let mut lines = told();
        let node = Raft::builder(id, Table::default())
            .data_dir(data)
            .listen(listen)
            .config(config)
            .start()
            .await
            .map_err(|e| failed(&e))?;
        let events = node.events();
        println!("{}", node.address());
        tokio::spawn(tell_when_leading(events));
        let obey = async {
            while let Some(line) = lines.recv().await {
                if line == LEVEL {
                    while node.ensure_linearizable().await.is_err() {
                        sleep(PAUSE).await;
                    }
                    println!("{LEVEL}");
                } else {
                    let members = line.split(',').filter_map(|member| {
                        let (id, address) = member.split_once('=')?;
                        Some((id.parse().ok()?, address.to_owned()))
                    });
                    node.initialize(members).await.map_err(|e| failed(&e))?;
                }
            }
            Ok(())
        };
        tokio::select! { biased;
            Ok(()) = asked_to_stop() => Ok(()),
            obeyed = obey => obeyed,
        }
    })
}

async fn tell_when_leading(mut events: Events) {
    while let Some(event) = events.next().await {
        if let Event::Role { role: RoleKind::Leader, term, .. } = event {
            println!("{LEADS} {term}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate::LogId;

    #[tokio::test(flavor = "current_thread")]
    async fn a_table_comes_back_from_its_snapshot() {
        let command = |key: u8, value: &[u8]| {
            let command = Bytes::from([&[key; KEY_BYTES][..], value].concat());
            Committed { id: LogId::new(1, 1), command }
        };
        let mut table = Table::default();
        let commands = vec![command(1, b"one"), command(2, b""), command(1, b"other")];
        assert_eq!(table.apply(commands).await.unwrap().len(), 3);
        let mut other = Table::default();
        other.apply(vec![command(3, b"gone")]).await.unwrap();
        other.restore(table.snapshot().await.unwrap()).await.unwrap();
        assert_eq!(other.values, table.values);
        assert_eq!(*other.values[&[1; KEY_BYTES]], *b"other");
        let short = Committed { id: LogId::new(1, 1), command: Bytes::from_static(b"short") };
        assert!(table.apply(vec![short]).await.is_err());
    }
}
