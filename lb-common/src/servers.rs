//! NAT dests by the address they answer from. All dests are looked through: only packets that few servers send ask.

use core::ops::ControlFlow;

use crate::addr::{Addr, Port, Proto};
use crate::dest::Method;
use crate::ip::{Address, Ip};
use crate::tables::Tables;

/// What is looked for, and what was found.
#[repr(C, align(8))]
struct Search {
    addr: Addr,
    family: u32,
    port: Port,
    proto: Proto,
    /// The dest's number plus 1; 0 = none yet.
    found: u32,
    /// When that was added.
    born: u32,
}

/// The dest that answers from here; of several, in several services, the one added last.
#[inline(always)]
pub fn find<F: Ip, T: Tables>(t: &T, addr: &F::Addr, port: Port, proto: Proto) -> Option<u32> {
    search::<F, T>(t, addr, port, proto).checked_sub(1)
}

#[inline(never)]
fn search<F: Ip, T: Tables>(t: &T, addr: &F::Addr, port: Port, proto: Proto) -> u32 {
    let zero = crate::cell::unknown_zero();
    let mut search =
        Search { addr: addr.wide(), family: F::FAMILY as u32, port, proto, found: zero, born: zero };
    t.repeat(t.settings().dests_end.load(), &mut search, |t, search, number| {
        let Some(dest) = t.dest(number) else { return ControlFlow::Break(()) };
        let same = dest.available()
            && dest.method() == Method::Nat as u8
            && dest.port() == search.port
            && dest.family() as u32 == search.family
            && dest.serves(search.proto)
            && dest.address() == search.addr;
        if same && dest.born.load() >= search.born {
            (search.found, search.born) = (number.wrapping_add(1), dest.born.load());
        }
        ControlFlow::Continue(())
    });
    search.found
}
