//! Words of memory that several CPUs share.
//!
//! The tables live in BPF maps (or, for tests, in ordinary memory) and are read and written by many CPUs at once
//! without locks. Every shared word is a [`Cell32`] or [`Cell64`]: a plain word in memory, native byte order, with
//! the few atomic operations both worlds have. On the host they are `core::sync::atomic`; the BPF target lacks
//! most of those types, so there they are the compiler's intrinsics, which become single instructions.
//!
//! `load` and `store` are relaxed. `swap`, `compare_exchange` and the `fetch_*` whose result is used are full
//! barriers, so a value published with them is seen with everything written before it. An `add` whose result
//! nobody reads has a name of its own: with a used result, LLVM 22 turns a *relaxed* fetch_add into a plain add.

#[cfg(not(target_arch = "bpf"))]
mod imp {
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    /// Before each access: under shuttle, another thread may go on here. (Its `sleep` takes no time, and is nothing else.)
    fn others_first() {
        #[cfg(feature = "shuttle")]
        shuttle::thread::sleep(core::time::Duration::ZERO);
    }

    macro_rules! cell {
        ($(#[$doc:meta])* $name:ident, $atomic:ty, $word:ty) => {
            $(#[$doc])*
            #[repr(transparent)]
            #[derive(Debug, Default)]
            pub struct $name($atomic);

            impl $name {
                /// A cell holding `value`.
                pub const fn new(value: $word) -> Self {
                    Self(<$atomic>::new(value))
                }
                /// The word, relaxed.
                pub fn load(&self) -> $word {
                    others_first();
                    self.0.load(Ordering::Relaxed)
                }
                /// The word; what was published with it is seen too.
                pub fn load_acquire(&self) -> $word {
                    others_first();
                    self.0.load(Ordering::Acquire)
                }
                /// Writes the word, relaxed.
                pub fn store(&self, value: $word) {
                    others_first();
                    self.0.store(value, Ordering::Relaxed);
                }
                /// Writes the word and returns the old one; publishes everything written before.
                pub fn swap(&self, value: $word) -> $word {
                    others_first();
                    self.0.swap(value, Ordering::AcqRel)
                }
                /// Writes `new` if the word is `old`. True if it did.
                pub fn compare_exchange(&self, old: $word, new: $word) -> bool {
                    others_first();
                    self.0.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
                }
                /// Adds, wrapping, and returns the word before.
                pub fn fetch_add(&self, value: $word) -> $word {
                    others_first();
                    self.0.fetch_add(value, Ordering::AcqRel)
                }
                /// Subtracts, wrapping, and returns the word before.
                pub fn fetch_sub(&self, value: $word) -> $word {
                    others_first();
                    self.0.fetch_sub(value, Ordering::AcqRel)
                }
                /// Adds, wrapping; nobody needs the result.
                pub fn add(&self, value: $word) {
                    others_first();
                    self.0.fetch_add(value, Ordering::Relaxed);
                }
            }
        };
    }
    cell!(
        /// A shared 32-bit word.
        Cell32, AtomicU32, u32
    );
    cell!(
        /// A shared 64-bit word.
        Cell64, AtomicU64, u64
    );
}

#[cfg(target_arch = "bpf")]
mod imp {
    use core::cell::UnsafeCell;
    use core::intrinsics::{self, AtomicOrdering};

    macro_rules! cell {
        ($name:ident, $word:ty) => {
            /// A shared word; see the module's documentation.
            #[repr(transparent)]
            #[derive(Debug, Default)]
            pub struct $name(UnsafeCell<$word>);

            // SAFETY: every access is a single volatile or atomic instruction.
            unsafe impl Sync for $name {}

            impl $name {
                /// A cell holding `value`.
                pub const fn new(value: $word) -> Self {
                    Self(UnsafeCell::new(value))
                }
                /// The word, relaxed.
                #[inline(always)]
                pub fn load(&self) -> $word {
                    // SAFETY: the reference is valid and aligned.
                    unsafe { core::ptr::read_volatile(self.0.get()) }
                }
                /// The word; what was published with it is seen too.
                #[inline(always)]
                pub fn load_acquire(&self) -> $word {
                    self.load()
                }
                /// Writes the word, relaxed.
                #[inline(always)]
                pub fn store(&self, value: $word) {
                    // SAFETY: the reference is valid and aligned.
                    unsafe { core::ptr::write_volatile(self.0.get(), value) }
                }
                /// Writes the word and returns the old one; publishes everything written before.
                #[inline(always)]
                pub fn swap(&self, value: $word) -> $word {
                    // SAFETY: the reference is valid and aligned.
                    unsafe {
                        intrinsics::atomic_xchg::<$word, { AtomicOrdering::AcqRel }>(self.0.get(), value)
                    }
                }
                /// Writes `new` if the word is `old`. True if it did.
                #[inline(always)]
                pub fn compare_exchange(&self, old: $word, new: $word) -> bool {
                    // SAFETY: the reference is valid and aligned.
                    unsafe {
                        intrinsics::atomic_cxchg::<
                            $word,
                            { AtomicOrdering::AcqRel },
                            { AtomicOrdering::Acquire },
                        >(self.0.get(), old, new)
                        .1
                    }
                }
                /// Adds, wrapping, and returns the word before.
                #[inline(always)]
                pub fn fetch_add(&self, value: $word) -> $word {
                    // SAFETY: the reference is valid and aligned.
                    unsafe {
                        intrinsics::atomic_xadd::<$word, $word, { AtomicOrdering::AcqRel }>(
                            self.0.get(),
                            value,
                        )
                    }
                }
                /// Subtracts, wrapping, and returns the word before.
                #[inline(always)]
                pub fn fetch_sub(&self, value: $word) -> $word {
                    self.fetch_add(value.wrapping_neg())
                }
                /// Adds, wrapping; nobody needs the result.
                #[inline(always)]
                pub fn add(&self, value: $word) {
                    // SAFETY: the reference is valid and aligned.
                    unsafe {
                        intrinsics::atomic_xadd::<$word, $word, { AtomicOrdering::Relaxed }>(
                            self.0.get(),
                            value,
                        );
                    }
                }
            }
        };
    }
    cell!(Cell32, u32);
    cell!(Cell64, u64);
}

pub use imp::{Cell32, Cell64};

/// Copies a value of whole words, word by word: left to itself the compiler calls a `memmove` for BPF that takes it
/// byte by byte.
#[inline(always)]
pub fn copy<T: Copy>(from: &T, to: &mut T) {
    use core::mem::{MaybeUninit, size_of};
    const { assert!(size_of::<T>().is_multiple_of(4) && align_of::<T>() >= 4) };
    let (from, to) = (&raw const *from as *const MaybeUninit<u32>, &raw mut *to as *mut MaybeUninit<u32>);
    let mut i = 0;
    while i < size_of::<T>() / 4 {
        // SAFETY: within the values, aligned, and bytes of any kind; volatile, so that it stays as it stands.
        unsafe { to.add(i).write_volatile(from.add(i).read_volatile()) };
        i += 1;
    }
}

/// `index` under `MASK`, where the kernel's verifier sees it: the compiler leaves out a mask that changes nothing, and the
/// verifier does not know that it would not.
#[inline(always)]
pub fn masked<const MASK: u32>(index: u32) -> usize {
    let index = index as u64;
    #[cfg(target_arch = "bpf")]
    {
        let mut index = index;
        // SAFETY: an `and`; what it leaves is within the mask.
        unsafe {
            core::arch::asm!("{0} &= {1}", inout(reg) index, const MASK, options(pure, nomem, nostack));
            core::hint::assert_unchecked(index <= MASK as u64);
        }
        index as usize
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        (index & MASK as u64) as usize
    }
}

/// The same word, which the compiler does not make ahead of where this stands, nor know.
#[inline(always)]
pub fn not_ahead(word: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let late: u64;
        // SAFETY: a copy. (No instruction at all would leave a line of debug information without one, which the kernel refuses.)
        unsafe { core::arch::asm!("{0} = {1}", out(reg) late, in(reg) word, options(pure, nomem, nostack)) };
        late
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        word
    }
}

static ZERO: Cell32 = Cell32::new(0);

/// A zero the verifier does not know to be one.
///
/// Kernels before 6.7 (and 6.1 with them) follow the callback of a loop once, with what its accumulator holds at the
/// start. A branch that this decides counts as decided for every turn, and the other side is taken out of the program:
/// "no candidate yet" would hold for each candidate. What such a branch asks has to start from here.
#[inline(always)]
pub fn unknown_zero() -> u32 {
    ZERO.load()
}
