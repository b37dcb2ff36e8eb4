//! One connection of a client to a node: a task that opens it, writes calls and reads answers, until it
//! breaks or the client lets go of it.

use std::sync::Arc;

use quorate_engine::GroupId;
use quorate_network::tcp::{CallReceiver, CallSender, ClientConnection, ClientError, TcpOptions};
use quorate_network::{Call, Called};
use tokio::sync::mpsc;

use crate::env::Env;

/// Calls in one write.
const BATCH: usize = 256;

/// What the task of a connection tells the client, in this order.
#[derive(Debug)]
pub(super) enum Heard {
    /// It is open.
    Opened,
    /// There is no connection.
    Failed(ClientError),
    /// Answers have come.
    Answers(Vec<Called>),
    /// It has ended. No byte of these calls was ever written; of all others the node may have heard.
    Ended { unsent: Vec<u64> },
}

/// What the task works with.
pub(super) struct LinkTask {
    /// Tells this connection from others.
    pub(super) id: u64,
    pub(super) address: String,
    pub(super) cluster: Arc<str>,
    pub(super) group: GroupId,
    pub(super) options: TcpOptions,
    pub(super) env: Arc<dyn Env>,
    /// From the client; closed when it lets go. As many as the client lets be in flight.
    pub(super) calls: mpsc::UnboundedReceiver<Call>,
    /// To the client. As many as there are calls, and a few.
    pub(super) heard: mpsc::UnboundedSender<(u64, Heard)>,
}

impl LinkTask {
    pub(super) async fn run(mut self) {
        let opening = ClientConnection::open(&self.address, &self.cluster, &self.options);
        let connection = match opening.await {
            Ok(connection) => connection,
            Err(error) => return self.tell(Heard::Failed(error)),
        };
        let node = connection.node();
        self.tell(Heard::Opened);
        let (to, from) = connection.split(self.group);
        let LinkTask { id, address, options, env, calls, heard, .. } = &mut self;
        let ended = tokio::select! { biased;
            error = read(*id, from, heard) => Some(error),
            ended = write(calls, to, &**env, options) => ended.err(),
        };
        if let Some(error) = ended {
            tracing::debug!(node, address, %error, "the connection to a node ended");
        }
        // A call is in the queue until it is about to be written; none can enter any more.
        self.calls.close();
        let mut unsent = Vec::new();
        while let Ok(call) = self.calls.try_recv() {
            unsent.push(call.token);
        }
        self.tell(Heard::Ended { unsent });
    }

    fn tell(&self, heard: Heard) {
        // A client that is gone does not want to know.
        drop(self.heard.send((self.id, heard)));
    }
}

async fn read(
    id: u64,
    mut from: CallReceiver,
    heard: &mpsc::UnboundedSender<(u64, Heard)>,
) -> ClientError {
    loop {
        match from.next().await {
            Ok(answers) => drop(heard.send((id, Heard::Answers(answers)))),
            Err(error) => return error,
        }
    }
}

/// Writes what is to be sent, until nothing will be any more.
async fn write(
    calls: &mut mpsc::UnboundedReceiver<Call>,
    mut to: CallSender,
    env: &dyn Env,
    options: &TcpOptions,
) -> Result<(), ClientError> {
    let mut batch = Vec::new();
    let mut probe = env.sleep(options.probe_interval);
    loop {
        // Probes first: they are what tells a node that is busy from one that is gone.
        tokio::select! { biased;
            () = &mut probe => {
                probe = env.sleep(options.probe_interval);
                to.probe().await?;
            }
            count = calls.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return Ok(());
                }
                to.send(std::mem::take(&mut batch)).await?;
            }
        }
    }
}
