//! The five-tuple of a connection, always seen from the client: client, virtual address, protocol.

use crate::addr::{Port, Proto};

/// Who talks to what. A reply has the same flow as its request.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Flow<A> {
    /// Client address.
    pub client: A,
    /// Virtual address: what the client sends to.
    pub vaddr: A,
    /// Client port.
    pub cport: Port,
    /// Virtual port.
    pub vport: Port,
    /// Transport protocol; 0 for templates of mark services.
    pub proto: Proto,
}

impl<A> Flow<A> {
    /// Both ports in one word, as the table keeps them.
    #[inline(always)]
    pub fn ports(&self) -> u32 {
        self.cport.wire() as u32 | (self.vport.wire() as u32) << 16
    }
}
