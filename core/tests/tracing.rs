//! Every line of the log says which node, group and term it is about.

mod common;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use common::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

/// Names and values.
#[derive(Clone, Debug, Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

/// What is logged by this project's crates, each with the fields of its spans.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Fields>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Log {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        values.record(span.extensions_mut().get_mut::<Fields>().unwrap());
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        if !event.metadata().target().starts_with("quorate") {
            return;
        }
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            fields.0.extend(span.extensions().get::<Fields>().unwrap().0.clone());
        }
        event.record(&mut fields);
        fields.0.insert("level", event.metadata().level().to_string());
        self.0.lock().unwrap().push(fields);
    }
}

#[tokio::test(start_paused = true)]
async fn every_event_carries_node_group_and_term() {
    let log = Log::default();
    let subscriber = tracing_subscriber::registry().with(log.clone());
    let _default = tracing::subscriber::set_default(subscriber);

    let mut cluster = Cluster::new(3, config(|c| c.keep_entries = 0)).await;
    let leader = cluster.settle().await;
    let late = cluster.others(leader)[0];
    cluster.stop(late).await;
    for id in 0..5 {
        cluster.nodes[&leader].write(id).await.unwrap();
    }
    cluster.machines[&leader].inject(Fault::SnapshotFails);
    cluster.nodes[&leader].trigger().snapshot().await.unwrap_err();
    cluster.machines[&leader].open_gate();
    let last = cluster.nodes[&leader].trigger().snapshot().await.unwrap().meta.last;
    cluster.start(late).await;
    cluster.nodes[&late].wait(PATIENCE).applied(last.index).await.unwrap();
    cluster.nodes[&leader].transfer_leadership(Some(late), PATIENCE).await.unwrap();
    cluster.machines[&late].inject(Fault::Panic);
    cluster.nodes[&late].write(5).await.unwrap_err();
    cluster.shutdown().await;

    let log = log.0.lock().unwrap();
    let mut said = BTreeMap::new();
    for fields in log.iter() {
        for name in ["node", "group", "term"] {
            assert!(fields.0.contains_key(name), "{name} is missing: {fields:?}");
        }
        let message = fields.0.get("message").cloned().unwrap_or_default();
        said.insert(message, fields.clone());
    }
    for message in ["role", "membership", "snapshot", "sending a snapshot", "snapshot received"] {
        assert!(said.contains_key(message), "nobody said {message:?}: {:?}", said.keys());
    }
    assert_eq!(said["stopped"].0["level"], "ERROR");
    // A new leader says so in its own term.
    let roles = log.iter().filter(|fields| fields.0.get("role").is_some_and(|r| r == "leader"));
    let terms: Vec<u64> = roles.map(|fields| fields.0["term"].parse().unwrap()).collect();
    assert!(terms.len() >= 2 && terms.windows(2).all(|pair| pair[0] < pair[1]), "{terms:?}");
}
