//! What the kernel says about routes, addresses, NICs and neighbours, as it happens, and handing it on to the tables.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use rtnetlink::MulticastGroup;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{debug, info, warn};

use crate::bpf::clients::Clients;
use crate::bpf::follow::{Follower, Neighbour, News};
use crate::bpf::route::destination;

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
];

/// What comes within this time is looked at together: a NIC that goes down takes all its routes and neighbours along.
const TOGETHER: Duration = Duration::from_millis(30);

/// A link address.
type Link = Vec<u8>;
/// Those of neighbours, as far as the kernel has said them.
type Links = HashMap<Neighbour, Link>;

/// Follows the network for the instance with its pins in `dir`, until the process ends.
pub async fn follow(dir: PathBuf) -> Result<()> {
    let (connection, _handle, mut messages) =
        rtnetlink::new_multicast_connection(&GROUPS).context("listening to the kernel's routing")?;
    tokio::spawn(connection);
    let (mut follower, mut links) = (Follower::new(dir), Links::new());
    let mut news = News::everything();
    loop {
        if !news.is_empty() {
            follower = bring(follower, std::mem::take(&mut news)).await?;
        }
        let (first, _) = messages.next().await.context("the kernel's routing says nothing more")?;
        take(first, &mut news, &mut links);
        let until = Instant::now() + TOGETHER;
        while let Ok(Some((more, _))) = timeout_at(until, messages.next()).await {
            take(more, &mut news, &mut links);
        }
    }
}

/// Has the kernel find out link addresses of clients that servers' answers cannot be sent to for want of them.
pub async fn look_after_clients(dir: PathBuf) -> Result<()> {
    /// From one look to the next.
    const PAUSE: Duration = Duration::from_millis(200);
    let mut clients = Clients::new(dir);
    loop {
        sleep(PAUSE).await;
        let look = tokio::task::spawn_blocking(move || {
            match clients.look() {
                Ok(0) => {}
                Ok(count) => {
                    info!("link addresses are missing: the kernel is to ask for those of {count} clients")
                }
                Err(why) => {
                    warn!("link addresses are missing, but clients could not be asked for theirs: {why:#}")
                }
            }
            clients
        });
        clients = look.await.context("looking after clients")?;
    }
}

/// The tables may have to be waited for.
async fn bring(mut follower: Follower, news: News) -> Result<Follower> {
    let work = tokio::task::spawn_blocking(move || {
        match follower.follow(&news) {
            Ok(count) => debug!("{news:?}: the way to {count} dests is asked for anew"),
            Err(why) => warn!("the network has changed, but the ways to dests could not be renewed: {why:#}"),
        }
        follower
    });
    work.await.context("renewing the ways to dests")
}

fn take(message: NetlinkMessage<RouteNetlinkMessage>, news: &mut News, links: &mut Links) {
    match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(found)) => {
            let Some((neighbour, Some(link))) = neighbour(&found) else { return };
            // States come and go; what counts is who it is.
            if links.insert(neighbour, link.clone()).as_ref() != Some(&link) {
                news.neighbours.insert(neighbour);
            }
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelNeighbour(gone)) => {
            if let Some((neighbour, _)) = neighbour(&gone) {
                links.remove(&neighbour);
                news.neighbours.insert(neighbour);
            }
        }
        // A message lost may have been any.
        NetlinkPayload::InnerMessage(_) | NetlinkPayload::Overrun(_) => news.ways = true,
        _ => {}
    }
}

/// Whom a message is about, and the link address if it is known.
fn neighbour(message: &NeighbourMessage) -> Option<(Neighbour, Option<Link>)> {
    let link = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(link) => Some(link.clone()),
        _ => None,
    });
    Some(((message.header.ifindex, destination(message)?), link))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_route::neighbour::NeighbourAddress;
    use std::net::IpAddr;

    fn said(link: Option<&[u8]>) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 3;
        let addr = NeighbourAddress::Inet([10, 0, 0, 1].into());
        message.attributes.push(NeighbourAttribute::Destination(addr));
        message.attributes.extend(link.map(|link| NeighbourAttribute::LinkLayerAddress(link.to_vec())));
        message
    }

    #[test]
    fn only_another_link_address_is_news() {
        let (mut news, mut links) = (News::default(), Links::new());
        let mut hear = |message: RouteNetlinkMessage| {
            take(NetlinkMessage::from(message), &mut news, &mut links);
            std::mem::take(&mut news)
        };
        let new = |link| RouteNetlinkMessage::NewNeighbour(said(link));
        assert!(hear(new(None)).is_empty());
        let it = [(3, IpAddr::from([10, 0, 0, 1]))].into();
        let changed = News { ways: false, neighbours: it };
        assert_eq!(hear(new(Some(&[1; 6]))), changed);
        assert!(hear(new(Some(&[1; 6]))).is_empty());
        assert_eq!(hear(new(Some(&[2; 6]))), changed);
        assert_eq!(hear(RouteNetlinkMessage::DelNeighbour(said(None))), changed);
        assert_eq!(hear(new(Some(&[2; 6]))), changed);
        assert!(hear(RouteNetlinkMessage::NewLink(Default::default())).ways);
    }
}
