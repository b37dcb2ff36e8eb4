//! What an operator sees of nodes that run: `/metrics`.

use hyper::Method;

use crate::support::Cluster;

#[tokio::test]
async fn metrics_are_openmetrics_text_of_what_the_node_did() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for n in 0..10 {
        let (server, key) = (cluster.server(leader), format!("key-{n}"));
        cluster.client.put(&server, &key, "value".into()).await.unwrap();
    }
    let answer =
        cluster.client.send(&cluster.server(leader), Method::GET, "/metrics", "").await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.ends_with("# EOF\n"));
    for line in [
        format!("quorate_role{{node=\"{leader}\",group=\"1\",role=\"leader\"}} 1"),
        format!("quorate_proposed_writes_total{{node=\"{leader}\",group=\"1\"}} 10"),
        format!(
            "quorate_write_seconds_count{{node=\"{leader}\",group=\"1\",stage=\"answered\"}} 10"
        ),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    cluster.end().await;
}
