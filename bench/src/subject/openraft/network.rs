//! How the nodes reach one another: by calling.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, StreamExt};
use openraft::AnyError;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest,
    VoteResponse,
};

use super::{Raft, Types};

/// Knows every node of one cluster. Empty while the cluster is being built.
#[derive(Clone, Default)]
pub(crate) struct Router {
    nodes: Arc<Mutex<BTreeMap<u64, Raft>>>,
}

impl Router {
    /// From here on the nodes reach one another.
    pub(crate) fn connect(&self, nodes: BTreeMap<u64, Raft>) {
        *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    /// Forgets the nodes. Connections that are already open live on.
    pub(crate) fn disconnect(&self) {
        self.connect(BTreeMap::new());
    }
}

impl RaftNetworkFactory<Types> for Router {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _: &()) -> Connection {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        Connection { target: nodes.get(&target).cloned() }
    }
}

/// One node's way to another.
pub(crate) struct Connection {
    /// None if it was opened before [`Router::connect`] or after [`Router::disconnect`].
    target: Option<Raft>,
}

/// Says that the target is not there, or has stopped.
fn unreachable(error: &AnyError) -> Unreachable<Types> {
    Unreachable::new(error)
}

impl Connection {
    fn target(&self) -> Result<&Raft, Unreachable<Types>> {
        self.target.as_ref().ok_or_else(|| unreachable(&AnyError::error("not connected")))
    }
}

impl RaftNetworkV2<Types> for Connection {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let answer = self.target()?.append_entries(request).await;
        answer.map_err(|e| unreachable(&AnyError::new(&e)).into())
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.target()?.vote(request).await;
        answer.map_err(|e| unreachable(&AnyError::new(&e)).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: SnapshotOf<Types, ()>,
        _: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let answer = self.target()?.install_full_snapshot(vote, snapshot).await;
        answer.map_err(|e| unreachable(&AnyError::new(&e)).into())
    }

    /// Hands the stream over as it is, so that the target takes a request while it still answers
    /// the one before. What openraft would do by itself is to wait for each answer.
    fn stream_append<'s, S>(
        &'s mut self,
        requests: S,
        _: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            let answers = self.target()?.stream_append(requests);
            let answers =
                answers.map(|a| a.map_err(|e| RPCError::from(unreachable(&AnyError::new(&e)))));
            Ok(Box::pin(answers) as BoxStream<'s, _>)
        })
    }
}
