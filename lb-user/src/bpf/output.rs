//! Replies of NAT dests on the balancer itself: a classifier where packets leave by a NIC, in the NIC's `clsact` qdisc.
//! The kernel holds it there, with nothing pinned; it goes with the NIC.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption,
};

use super::netlink::Netlink;

/// The program, and the filter's name.
pub const PROGRAM: &str = "lb_output";
/// Of the filter: nobody else's.
const PRIORITY: u32 = 0x6c62;
const HANDLE: TcHandle = TcHandle { major: 0, minor: 0x6c62 };
/// ETH_P_ALL, in wire order.
const ALL_PROTOCOLS: u16 = 3_u16.to_be();

const KIND: &str = "clsact";
const QDISC: TcHandle = TcHandle { major: u16::MAX, minor: 0 };
const INGRESS: TcHandle = TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS };
const EGRESS: TcHandle = TcHandle { major: u16::MAX, minor: TcHandle::MIN_EGRESS };

/// The NICs' classifiers, and the socket to ask for them.
#[derive(Debug)]
pub struct Output {
    netlink: Netlink,
}

impl Output {
    /// Opens the socket.
    pub fn open() -> Result<Self> {
        Ok(Self { netlink: Netlink::open().context("opening a netlink socket")? })
    }

    /// Puts the program on a NIC, in the place of an earlier one. True: the qdisc was made for it.
    pub fn attach(&mut self, program: BorrowedFd<'_>, nic: u32) -> io::Result<bool> {
        let made = match self
            .netlink
            .ask(Message::NewQueueDiscipline(qdisc(nic)), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)
        {
            Ok(_) => true,
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => false,
            Err(error) => return Err(error),
        };
        let put = Message::NewTrafficFilter(filter(nic, Some(program)));
        self.netlink.ask(put, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)?;
        Ok(made)
    }

    /// Takes it off, if it is there.
    pub fn detach(&mut self, nic: u32) -> io::Result<()> {
        match self.netlink.ask(Message::DelTrafficFilter(filter(nic, None)), NLM_F_ACK) {
            // EINVAL: there is no such qdisc.
            Err(error)
                if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Takes the qdisc off too, unless others have come to use it.
    pub fn remove_qdisc(&mut self, nic: u32) -> io::Result<()> {
        for parent in [INGRESS, EGRESS] {
            let mut question = TcMessage::default();
            question.header = header(nic, TcHandle::UNSPEC, parent);
            if !self.netlink.ask(Message::GetTrafficFilter(question), NLM_F_DUMP)?.is_empty() {
                return Ok(());
            }
        }
        self.netlink.ask(Message::DelQueueDiscipline(qdisc(nic)), NLM_F_ACK).map(drop)
    }
}

fn header(nic: u32, handle: TcHandle, parent: TcHandle) -> TcHeader {
    TcHeader { index: nic as i32, handle, parent, ..TcHeader::default() }
}

fn qdisc(nic: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header = header(nic, QDISC, TcHandle::CLSACT);
    message.attributes = vec![TcAttribute::Kind(KIND.to_owned())];
    message
}

/// The filter, with a program to put there or to be named only.
fn filter(nic: u32, program: Option<BorrowedFd<'_>>) -> TcMessage {
    let mut message = TcMessage::default();
    message.header = header(nic, HANDLE, EGRESS);
    message.header.info = PRIORITY << 16 | u32::from(ALL_PROTOCOLS);
    message.attributes = vec![TcAttribute::Kind(TcFilterBpf::KIND.to_owned())];
    if let Some(program) = program {
        let options = [
            TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32),
            TcFilterBpfOption::ProgName(PROGRAM.to_owned()),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        message.attributes.push(TcAttribute::Options(options.map(TcOption::Bpf).to_vec()));
    }
    message
}
