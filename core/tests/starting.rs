//! Starting a node: what is refused, in which words, and that nothing is left behind.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use quorate::testing::Counter;
use quorate::{
    Config, Host, InProcess, LogReader, MemoryDisk, MemoryStorage, Raft, RaftStorage,
    SnapshotStore, StartError, StorageError,
};
use quorate_engine::HardState;
use quorate_storage::{Recovered, WriteBatch, WriteDone};

async fn refused(builder: quorate::Builder<Counter>) -> StartError {
    match builder.start().await {
        Ok(_) => panic!("it started"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn without_a_storage_it_says_what_to_call() {
    let error = refused(Raft::builder(1, Counter::default())).await;
    assert!(matches!(error, StartError::NoStorage));
    assert!(error.to_string().contains("call data_dir(path), storage(..) or in_memory()"));
    let host = Host::builder(1).start().await.unwrap();
    let error = host.group(1, Counter::default()).start().await.err().unwrap();
    assert!(matches!(error, StartError::NoStorage));
}

#[tokio::test]
async fn listen_and_network_contradict_each_other() {
    let builder = Raft::builder(1, Counter::default())
        .in_memory()
        .listen("127.0.0.1:0")
        .network(Arc::new(InProcess::new()));
    let error = refused(builder).await;
    assert!(error.to_string().contains("both listen(..) and network(..)"), "{error}");
}

#[tokio::test]
async fn timing_that_cannot_work_is_refused_before_anything_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    type Change = fn(&mut Config);
    let changes: [(Change, &str); 6] = [
        (|c| c.heartbeat_interval = Duration::from_millis(400), "3 heartbeat intervals"),
        (|c| c.election_timeout_max = c.election_timeout_min, "candidates collide"),
        (|c| c.heartbeat_interval = Duration::ZERO, "heartbeat_interval is zero"),
        (|c| c.uncommitted_bytes = 0, "max_uncommitted_bytes is zero"),
        (|c| c.unapplied_bytes = 0, "max_unapplied_bytes is zero"),
        (|c| c.caller_spin = Duration::from_millis(2), "caller_spin is over a millisecond"),
    ];
    for (change, words) in changes {
        let path = dir.path().join("node");
        let builder = Raft::builder(1, Counter::default()).data_dir(&path).config(config(change));
        let error = refused(builder).await;
        assert!(error.to_string().contains(words), "{error}");
        assert!(!path.exists());
    }
    let error = refused(Raft::builder(0, Counter::default()).in_memory()).await;
    assert!(error.to_string().contains("ids begin at 1"), "{error}");
}

#[tokio::test]
async fn a_port_in_use_is_named_and_the_directory_is_free_again() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let builder = || Raft::builder(1, Counter::default()).data_dir(dir.path()).listen(&address);
    let error = refused(builder()).await;
    assert!(matches!(error, StartError::Listen(_)));
    assert!(error.to_string().contains(&address), "{error}");
    drop(taken);
    builder().start().await.unwrap().shutdown().await;
}

#[tokio::test]
async fn another_nodes_directory_is_refused_and_unharmed() {
    let dir = tempfile::tempdir().unwrap();
    let builder = |id| Raft::builder(id, Counter::default()).data_dir(dir.path());
    let raft = builder(1).start().await.unwrap();
    raft.initialize([(1, "")]).await.unwrap();
    raft.write(5).await.unwrap();
    raft.shutdown().await;
    let error = refused(builder(2)).await;
    assert!(matches!(error, StartError::OtherNode { found: 1, wanted: 2 }));
    assert!(error.to_string().contains("belongs to node 1, not to node 2"), "{error}");
    let raft = builder(1).start().await.unwrap();
    assert_eq!(raft.read(|c| c.total).await.unwrap(), 5);
    raft.shutdown().await;
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_its_user_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let builder = || Raft::builder(1, Counter::default()).data_dir(dir.path());
    let raft = builder().start().await.unwrap();
    raft.initialize([(1, "")]).await.unwrap();
    let error = refused(builder()).await;
    assert!(matches!(error, StartError::Storage(StorageError::InUse(_))), "{error}");
    raft.write(5).await.unwrap();
    raft.shutdown().await;
}

#[tokio::test]
async fn a_group_that_runs_on_the_host_is_refused_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    for host in [Host::builder(1).in_memory(), Host::builder(1).data_dir(dir.path())] {
        let host = host.start().await.unwrap();
        let group = host.group(7, Counter::default()).start().await.unwrap();
        group.initialize([(1, "")]).await.unwrap();
        let error = host.group(7, Counter::default()).start().await.err().unwrap();
        assert!(matches!(error, StartError::GroupExists(7)), "{error}");
        group.write(5).await.unwrap();
        group.shutdown().await;
        // Its place is free now.
        let group = host.group(7, Counter::default()).start().await.unwrap();
        group.shutdown().await;
        host.shutdown().await;
    }
}

#[tokio::test]
async fn a_single_voter_without_a_network_keeps_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let mut total = 0;
    for round in 1..=3 {
        let raft = Raft::builder(1, Counter::default()).data_dir(dir.path()).start().await.unwrap();
        // What was recovered shows at once.
        assert_eq!(raft.metrics().membership.is_some(), round > 1);
        raft.initialize([(1, "")]).await.unwrap();
        assert_eq!(raft.read(|c| c.total).await.unwrap(), total);
        for n in 1..=100 {
            total += n * round;
            assert_eq!(raft.write(n * round).await.unwrap(), total);
        }
        raft.shutdown().await;
    }
}

/// Hazard: a missing meta file is read as term 0.
#[tokio::test]
async fn a_log_without_its_term_and_vote_is_refused() {
    struct Amnesiac(MemoryStorage);

    impl RaftStorage for Amnesiac {
        fn recover(&mut self) -> Result<Recovered, StorageError> {
            Ok(Recovered { hard_state: HardState::default(), ..self.0.recover()? })
        }

        fn submit(&mut self, batch: WriteBatch, done: WriteDone) {
            self.0.submit(batch, done);
        }

        fn reader(&self) -> Arc<dyn LogReader> {
            self.0.reader()
        }

        fn snapshots(&self) -> Arc<dyn SnapshotStore> {
            self.0.snapshots()
        }
    }

    let disk = MemoryDisk::new();
    let raft = Raft::builder(1, Counter::default()).storage(disk.open()).start().await.unwrap();
    raft.initialize([(1, "")]).await.unwrap();
    raft.write(1).await.unwrap();
    raft.shutdown().await;
    let error = refused(Raft::builder(1, Counter::default()).storage(Amnesiac(disk.open()))).await;
    assert!(error.to_string().contains("the stored term and vote are lost"), "{error}");
}
