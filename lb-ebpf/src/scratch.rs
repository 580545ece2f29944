//! Memory for what is too big for the stack.

use lb_common::cell;
use lb_common::ip::{Ip, V4, V6};
use lb_common::pipeline::Workspace;
use lb_common::table::{Birth, Insertion, Place, Wanted};
use lb_common::tables::Control;

use crate::fragments::Held;
use crate::maps::SCRATCH;

/// What is too big for the stack: arguments of [`crate::functions`]. One per CPU; nothing else runs there meanwhile.
#[repr(C, align(8))]
pub struct Scratch {
    /// What the pass works on.
    pub work: Workspace,
    /// A frame on its way into the map of those that wait.
    pub held: Held,
    /// An entry on its way into the table.
    pub insertion: AnyInsertion,
}

/// An insertion of either family.
#[repr(C)]
pub union AnyInsertion {
    /// IPv4.
    pub v4: Insertion<V4>,
    /// IPv6.
    pub v6: Insertion<V6>,
}

impl AnyInsertion {
    /// Puts one in.
    #[inline(always)]
    pub fn put<F: Ip>(&mut self, new: Insertion<F>) {
        let place = &raw mut *self;
        // SAFETY: the family says which type `F` is; the union has room for both.
        unsafe { *(place as *mut Insertion<F>) = new };
    }
}

/// Writes an insertion down in the scratch memory, where the functions that carry it out find it.
#[inline(always)]
pub fn insertion<F: Ip>(
    wanted: &Wanted<F>,
    place: Place,
    birth: Birth,
    control: Control,
) -> Option<&'static Insertion<F>> {
    let new = &raw mut scratch()?.insertion as *mut Insertion<F>;
    // SAFETY: the family says which type `F` is; the union has room for both, of any content.
    let new = unsafe { &mut *new };
    (new.birth, new.place, new.control) = (birth, place, control);
    cell::copy(wanted, &mut new.wanted);
    Some(new)
}

/// This CPU's.
#[inline(always)]
pub fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: this CPU's own copy.
    SCRATCH.get_ptr_mut(0).map(|s| unsafe { &mut *s })
}
