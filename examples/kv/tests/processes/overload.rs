//! More writes than there is room for: some are refused at once, none is lost or left waiting.

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::support::{Cluster, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_refused_at_once_and_the_rest_is_done() {
    let mut cluster = Cluster::prepared(3);
    for command in cluster.commands.values_mut() {
        command.more = ["--quota-bytes", "16KiB"].map(str::to_owned).to_vec();
    }
    cluster.up_all();
    cluster.complete().await;
    let mut round = 0;
    let refused = async || {
        round += 1;
        let mut writes = JoinSet::new();
        for n in 0..200 {
            let (client, server) = (cluster.client.clone(), cluster.server(n % 3 + 1));
            let key = format!("{round}-{n}");
            writes.spawn(async move {
                (key.clone(), client.put(&server, &key, Bytes::from(vec![7; 2048])).await)
            });
        }
        let mut refused = 0;
        while let Some(write) = writes.join_next().await {
            let (key, outcome) = write.unwrap();
            let value = cluster.client.get(&cluster.server(1), &key).await.unwrap();
            match outcome {
                Ok(_) => assert!(value.is_some(), "{key} was acknowledged"),
                Err(error) => {
                    assert_eq!(error.word(), "overloaded", "{error}");
                    assert!(value.is_none(), "{key} was refused");
                    refused += 1;
                }
            }
        }
        (refused > 0).then_some(())
    };
    eventually("a write that is refused", refused).await;
    // There is room again.
    cluster.client.put(&cluster.server(2), "later", Bytes::from(vec![7; 2048])).await.unwrap();
}
