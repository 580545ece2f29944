//! rtnetlink by the crates made for it, for commands that ask one thing after the other: a runtime of one thread that
//! runs only while an answer is awaited.

use std::io;
use std::time::Duration;

use futures_util::StreamExt as _;
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::Handle;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// The kernel answers at once. An answer the crates cannot read would otherwise be waited for until the end of time.
const PATIENCE: Duration = Duration::from_secs(5);

/// The socket, and what waits on it.
#[derive(Debug)]
pub struct Netlink {
    /// There until the end.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Netlink {
    /// Opens one, in the network namespace of this thread.
    pub fn open() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let (mut connection, handle, _) = {
            let _inside = runtime.enter();
            rtnetlink::new_connection()?
        };
        // A request without an answer ends with an acknowledgement, which is how `ask` knows that it did.
        connection.set_forward_ack(true);
        runtime.spawn(connection);
        Ok(Self { runtime: Some(runtime), handle })
    }

    /// Asks, and collects the answers. `flags`: `NLM_F_DUMP` for all there are, `NLM_F_ACK` to know whether it worked.
    pub fn ask(&mut self, question: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut message = NetlinkMessage::from(question);
        message.header.flags = NLM_F_REQUEST | flags;
        let Self { runtime: Some(runtime), handle } = self else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        runtime.block_on(async {
            // The clock starts inside the runtime.
            timeout(PATIENCE, answers(handle, message, flags & NLM_F_ACK != 0))
                .await
                .map_err(io::Error::from)?
        })
    }
}

impl Drop for Netlink {
    /// It may end inside another runtime, which does not let this one be waited for.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn answers(
    handle: &mut Handle,
    message: NetlinkMessage<RouteNetlinkMessage>,
    acknowledged: bool,
) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut stream = handle.request(message).map_err(io::Error::other)?;
    let (mut answers, mut ended) = (Vec::new(), false);
    while let Some(message) = stream.next().await {
        match message.payload {
            NetlinkPayload::Error(error) => match error.code {
                Some(_) => return Err(error.to_io()),
                None => ended = true,
            },
            NetlinkPayload::InnerMessage(answer) => answers.push(answer),
            _ => {}
        }
    }
    // The stream also ends when the socket does.
    if acknowledged && !ended { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answers) }
}
