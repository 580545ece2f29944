//! BPF arrays as memory: the cells the packet path works on, seen from here.

#![expect(unsafe_code, reason = "maps kernel memory into the process")]

use std::io;
use std::mem::{align_of, size_of};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;

use lb_common::cell::{Cell32, Cell64};
use lb_common::conn::{Bucket4, Bucket6};
use lb_common::dest::Dest;
use lb_common::estimate::Rate;
use lb_common::service::SchedState;
use lb_common::settings::Settings;

/// What may lie in memory shared with the kernel: cells only, so that no write is ever undefined under a reader.
///
/// # Safety
/// Exactly that; every bit pattern has to be valid.
pub unsafe trait Shared: 'static {}

// SAFETY: cells only.
unsafe impl Shared for Settings {}
// SAFETY: cells only.
unsafe impl Shared for Dest {}
// SAFETY: cells only.
unsafe impl Shared for Rate {}
// SAFETY: cells only.
unsafe impl Shared for SchedState {}
// SAFETY: cells only.
unsafe impl Shared for Bucket4 {}
// SAFETY: cells only.
unsafe impl Shared for Bucket6 {}
// SAFETY: cells only.
unsafe impl Shared for Cell32 {}
// SAFETY: cells only.
unsafe impl Shared for Cell64 {}

/// May the memory be written?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A store would kill the process.
    Read,
    /// Yes.
    Write,
}

/// A BPF array of `T`, as long as this lives.
#[derive(Debug)]
pub struct Mapped<T: Shared> {
    place: NonNull<T>,
    count: usize,
}

// SAFETY: the mapping is the value's own, and any thread's as good; what lies in it is cells.
unsafe impl<T: Shared> Send for Mapped<T> {}
// SAFETY: cells may be read and written by any thread at any time.
unsafe impl<T: Shared> Sync for Mapped<T> {}

impl<T: Shared> Mapped<T> {
    /// Maps the first `count` elements of an mmapable array whose elements are `T`s. The caller has compared sizes.
    pub fn new(map: BorrowedFd<'_>, count: usize, access: Access) -> io::Result<Self> {
        let length =
            count.checked_mul(size_of::<T>()).filter(|l| *l > 0).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = match access {
            Access::Read => libc::PROT_READ,
            Access::Write => libc::PROT_READ | libc::PROT_WRITE,
        };
        // SAFETY: a new mapping at a place of the kernel's choosing.
        let place = unsafe {
            libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if place == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let place = NonNull::new(place.cast::<T>()).ok_or(io::ErrorKind::InvalidData)?;
        // Pages are aligned to more than any type here.
        debug_assert!((place.as_ptr() as usize).is_multiple_of(align_of::<T>()));
        Ok(Self { place, count })
    }

    /// The elements.
    pub fn all(&self) -> &[T] {
        // SAFETY: mapped, aligned, `count` long until dropped; cells only, so sharing it with the kernel is sound.
        unsafe { std::slice::from_raw_parts(self.place.as_ptr(), self.count) }
    }

    /// An element.
    pub fn get(&self, at: u32) -> Option<&T> {
        self.all().get(at as usize)
    }
}

impl<T: Shared> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; nobody can hold a reference into it any more.
        unsafe { libc::munmap(self.place.as_ptr().cast(), self.count * size_of::<T>()) };
    }
}

/// A bucket out of a hash map's value.
pub fn bucket<B: Shared>(bytes: &[u32; 64]) -> B {
    const { assert!(size_of::<B>() == 256) };
    // SAFETY: of the same size, and any words are a bucket.
    unsafe { std::ptr::from_ref(bytes).cast::<B>().read_unaligned() }
}
