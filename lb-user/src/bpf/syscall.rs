//! bpf(2) where aya has no call for it, and three other system calls that have no safe wrapper.

#![expect(unsafe_code, reason = "the system calls themselves")]

use std::ffi::CString;
use std::io;
use std::mem::{MaybeUninit, size_of, size_of_val};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use lb_common::mark::MarkRule;
use lb_common::probe::ProbeKey;
use lb_common::sched::CacheKey;
use lb_common::service::{Service, ServiceKey};
use lb_common::sip::Call;
use lb_common::tables::Counters;

use super::types;

/// Values the kernel may copy in and out: no padding, and every bit pattern means something.
///
/// # Safety
/// Exactly that.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: integers, and structs of integers without padding (asserted where they are defined).
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for ServiceKey {}
// SAFETY: as above.
unsafe impl Plain for Service {}
// SAFETY: as above.
unsafe impl Plain for Counters {}
// SAFETY: as above.
unsafe impl Plain for CacheKey {}
// SAFETY: as above: 88 bytes of integers, all named.
unsafe impl Plain for MarkRule {}
// SAFETY: as above: 280 bytes, all named.
unsafe impl Plain for Call {}
// SAFETY: as above: 24 bytes, all named.
unsafe impl Plain for ProbeKey {}
// SAFETY: an array of the same.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

mod command {
    pub const MAP_CREATE: libc::c_int = 0;
    pub const MAP_LOOKUP: libc::c_int = 1;
    pub const MAP_UPDATE: libc::c_int = 2;
    pub const MAP_DELETE: libc::c_int = 3;
    pub const MAP_NEXT_KEY: libc::c_int = 4;
    pub const PROG_LOAD: libc::c_int = 5;
    pub const OBJ_PIN: libc::c_int = 6;
    pub const OBJ_GET: libc::c_int = 7;
    pub const PROG_TEST_RUN: libc::c_int = 10;
    pub const OBJ_INFO: libc::c_int = 15;
    pub const BTF_LOAD: libc::c_int = 18;
    pub const MAP_LOOKUP_BATCH: libc::c_int = 24;
    pub const MAP_UPDATE_BATCH: libc::c_int = 26;
    pub const LINK_CREATE: libc::c_int = 28;
    pub const LINK_UPDATE: libc::c_int = 29;
    pub const LINK_DETACH: libc::c_int = 34;
}

/// The argument block of every command: words, zero where a command does not look.
#[repr(C, align(8))]
struct Attr([u64; 16]);

fn bpf(command: libc::c_int, attr: &mut Attr) -> io::Result<i64> {
    // SAFETY: the block is as long as said; what its pointers lead to is each caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.0.as_mut_ptr(), size_of::<Attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn fd(map: BorrowedFd<'_>) -> u64 {
    map.as_raw_fd() as u64
}

fn at<T>(value: &T) -> u64 {
    std::ptr::from_ref(value) as u64
}

fn element<K, V>(map: BorrowedFd<'_>, key: &K, value: *const V, flags: u64) -> Attr {
    let mut attr = Attr([0; 16]);
    attr.0[..4].copy_from_slice(&[fd(map), at(key), value as u64, flags]);
    attr
}

/// `None` for "no such element".
fn or_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        other => other.map(Some),
    }
}

/// Creates a hash map.
pub fn create_hash(name: &str, key: u32, value: u32, entries: u32) -> io::Result<OwnedFd> {
    const HASH: u32 = 1;
    const NO_PREALLOC: u32 = 1;
    create(HASH, name, [key, value, entries, NO_PREALLOC], None)
}

/// Makes types known to the kernel ([`types`]).
pub fn load_types(types: &[u32]) -> io::Result<OwnedFd> {
    let mut attr = Attr([0; 16]);
    attr.0[0] = types.as_ptr() as u64;
    attr.0[2] = size_of_val(types) as u64;
    bpf(command::BTF_LOAD, &mut attr).map(new_descriptor)
}

/// Creates a map of a kind, with sizes of keys and values, how many of them, and `BPF_F_` flags; of these types, if any are
/// given: [`types::KEY`] and [`types::VALUE`] of them.
pub fn create(
    kind: u32,
    name: &str,
    [key, value, entries, flags]: [u32; 4],
    types: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    create_with(kind, name, [key, value, entries, flags], types, None)
}

/// Creates an array of maps that are like this one.
pub fn create_of_maps(name: &str, entries: u32, like: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const ARRAY_OF_MAPS: u32 = 12;
    create_with(ARRAY_OF_MAPS, name, [4, 4, entries, 0], None, Some(like))
}

fn create_with(
    kind: u32,
    name: &str,
    [key, value, entries, flags]: [u32; 4],
    types: Option<BorrowedFd<'_>>,
    inner: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let mut attr = Attr([0; 16]);
    if let Some(types) = types {
        attr.0[6] = fd(types) | u64::from(types::KEY) << 32;
        attr.0[7] = u64::from(types::VALUE);
    }
    attr.0[0] = u64::from(kind) | u64::from(key) << 32;
    attr.0[1] = u64::from(value) | u64::from(entries) << 32;
    attr.0[2] = u64::from(flags) | inner.map_or(0, fd) << 32;
    let mut text = [0u8; 16];
    for (to, from) in text.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    // The name stands at byte 28.
    let mut words = [0u8; 24];
    words[4..20].copy_from_slice(&text);
    for (word, bytes) in attr.0[3..6].iter_mut().zip(words.chunks_exact(8)) {
        *word = bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    }
    bpf(command::MAP_CREATE, &mut attr).map(new_descriptor)
}

/// An element's value. The caller has checked that the map's key and value are as long as `K` and `V`.
pub fn lookup<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    let found = bpf(command::MAP_LOOKUP, &mut element(map, key, value.as_ptr(), 0));
    let _ = &mut value;
    // SAFETY: the kernel has filled it.
    Ok(or_none(found)?.map(|_| unsafe { value.assume_init() }))
}

/// An element's values, one per possible CPU. `V` is a multiple of 8 bytes long.
pub fn lookup_per_cpu<K: Plain, V: Plain + Default>(
    map: BorrowedFd<'_>,
    key: &K,
    values: &mut [V],
) -> io::Result<bool> {
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    let found = bpf(command::MAP_LOOKUP, &mut element(map, key, values.as_mut_ptr(), 0));
    Ok(or_none(found)?.is_some())
}

/// Values of an array's elements from number `from` on, one per possible CPU each: as many elements as `numbers` has room
/// for. How many there were. `V` is a multiple of 8 bytes long.
pub fn lookup_per_cpu_many<V: Plain + Default>(
    map: BorrowedFd<'_>,
    from: u32,
    numbers: &mut [u32],
    values: &mut [V],
) -> io::Result<usize> {
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    let (before, mut last) = (from.checked_sub(1), 0u32);
    let mut attr = Attr([0; 16]);
    attr.0[0] = before.as_ref().map_or(0, at);
    attr.0[1] = &raw mut last as u64;
    attr.0[2] = numbers.as_mut_ptr() as u64;
    attr.0[3] = values.as_mut_ptr() as u64;
    attr.0[4] = numbers.len() as u64 | fd(map) << 32;
    // At the end of the array fewer come, with this error.
    or_none(bpf(command::MAP_LOOKUP_BATCH, &mut attr))?;
    Ok((attr.0[4] as u32 as usize).min(numbers.len()))
}

/// Writes an element: all of it, for readers either the old value or the new one.
pub fn update<K: Plain, V: Plain>(map: BorrowedFd<'_>, key: &K, value: &V) -> io::Result<()> {
    bpf(command::MAP_UPDATE, &mut element(map, key, value, 0)).map(drop)
}

/// Writes per-CPU elements, one value per possible CPU for each. `V` is a multiple of 8 bytes long.
pub fn update_per_cpu<K: Plain, V: Plain>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    let cpus = values.len() / keys.len().max(1);
    update_batches(map, keys, |done| values[done * cpus..].as_ptr())
}

/// Deletes an element, if it is there.
pub fn delete<K: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    or_none(bpf(command::MAP_DELETE, &mut element(map, key, std::ptr::null::<u8>(), 0))).map(drop)
}

fn next_key<K: Plain>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>> {
    let mut next = MaybeUninit::<K>::uninit();
    let mut attr = Attr([0; 16]);
    attr.0[..3].copy_from_slice(&[fd(map), key.map_or(0, at), next.as_mut_ptr() as u64]);
    // SAFETY: the kernel has filled it.
    Ok(or_none(bpf(command::MAP_NEXT_KEY, &mut attr))?.map(|_| unsafe { next.assume_init() }))
}

/// The kernel's own ENOTSUPP.
const NO_BATCH: i32 = 524;

/// All elements of a hash map, a batch at a time.
pub fn all<K: Plain, V: Plain>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    match all_batched(map) {
        // No batches for this kind of map, or a bucket longer than a batch: one by one.
        Err(error) if matches!(error.raw_os_error(), Some(NO_BATCH | libc::EINVAL | libc::ENOSPC)) => {
            all_singly(map)
        }
        other => other,
    }
}

fn all_singly<K: Plain, V: Plain>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    let mut key = next_key::<K>(map, None)?;
    while let Some(k) = key {
        if let Some(value) = lookup(map, &k)? {
            all.push((k, value));
        }
        key = next_key(map, Some(&k))?;
    }
    Ok(all)
}

fn all_batched<K: Plain, V: Plain>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    const BATCH: usize = 4096;
    let mut all = Vec::new();
    let mut keys: Vec<MaybeUninit<K>> = (0..BATCH).map(|_| MaybeUninit::uninit()).collect();
    let mut values: Vec<MaybeUninit<V>> = (0..BATCH).map(|_| MaybeUninit::uninit()).collect();
    // A hash map's place is a word; room for any other's.
    let (mut from, mut to) = ([0u64; 8], [0u64; 8]);
    let mut first = true;
    loop {
        let mut attr = Attr([0; 16]);
        attr.0[0] = if first { 0 } else { from.as_mut_ptr() as u64 };
        attr.0[1] = to.as_mut_ptr() as u64;
        attr.0[2] = keys.as_mut_ptr() as u64;
        attr.0[3] = values.as_mut_ptr() as u64;
        attr.0[4] = BATCH as u64 | fd(map) << 32;
        let more = match bpf(command::MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => true,
            // The end; the last ones come with it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
            Err(error) => return Err(error),
        };
        let count = (attr.0[4] as u32 as usize).min(BATCH);
        for (key, value) in keys.iter().zip(&values).take(count) {
            // SAFETY: the kernel has filled the first `count` of both.
            all.push(unsafe { (key.assume_init(), value.assume_init()) });
        }
        if !more {
            return Ok(all);
        }
        (from, first) = (to, false);
    }
}

/// Writes many elements of a hash map.
pub fn update_many<K: Plain, V: Plain>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    if keys.len() != values.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if let ([key], [value]) = (keys, values) {
        return update(map, key, value);
    }
    update_batches(map, keys, |done| values[done..].as_ptr())
}

/// Writes elements, whose values from a number on are where `values` says.
fn update_batches<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: impl Fn(usize) -> *const V,
) -> io::Result<()> {
    let mut done = 0;
    while done < keys.len() {
        let mut attr = Attr([0; 16]);
        attr.0[2] = keys[done..].as_ptr() as u64;
        attr.0[3] = values(done) as u64;
        attr.0[4] = (keys.len() - done) as u64 | fd(map) << 32;
        bpf(command::MAP_UPDATE_BATCH, &mut attr)?;
        let count = attr.0[4] as u32 as usize;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        done += count;
    }
    Ok(())
}

fn new_descriptor(fd: i64) -> OwnedFd {
    // SAFETY: the kernel has just made it, for us alone.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Pins an object: it lives as long as the file does.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Attr([0; 16]);
    attr.0[..2].copy_from_slice(&[path.as_ptr() as u64, fd(object)]);
    bpf(command::OBJ_PIN, &mut attr).map(drop)
}

/// Opens what is pinned: a map, a program or a link.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = Attr([0; 16]);
    attr.0[0] = path.as_ptr() as u64;
    bpf(command::OBJ_GET, &mut attr).map(new_descriptor)
}

/// Is it a map? A pin may be anything, and information about a program reads like that of a strange map.
pub fn is_map(object: BorrowedFd<'_>) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", object.as_raw_fd()));
    link.is_ok_and(|link| link.as_os_str().as_bytes().ends_with(b"bpf-map"))
}

/// Bytes of kernel memory a map takes.
pub fn map_memory(map: BorrowedFd<'_>) -> io::Result<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    line.and_then(|bytes| bytes.trim().parse().ok()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Attaches a program to a NIC; `flags` are `XDP_FLAGS_`. It stays while the link does.
pub fn create_link(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    const XDP: u64 = 37;
    let mut attr = Attr([0; 16]);
    attr.0[0] = fd(program) | u64::from(ifindex) << 32;
    attr.0[1] = XDP | u64::from(flags) << 32;
    bpf(command::LINK_CREATE, &mut attr).map(new_descriptor)
}

/// Replaces a link's program, between two packets.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attr([0; 16]);
    attr.0[0] = fd(link) | fd(program) << 32;
    bpf(command::LINK_UPDATE, &mut attr).map(drop)
}

/// Takes a link's program off its NIC, at once.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attr([0; 16]);
    attr.0[0] = fd(link);
    bpf(command::LINK_DETACH, &mut attr).map(drop)
}

/// What a link is about: (program id, ifindex). The index is 0 once the NIC is gone.
pub fn xdp_link(link: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let mut info = [0u32; 32];
    let mut attr = Attr([0; 16]);
    attr.0[0] = fd(link) | (size_of_val(&info) as u64) << 32;
    attr.0[1] = info.as_mut_ptr() as u64;
    bpf(command::OBJ_INFO, &mut attr)?;
    Ok((info[2], info[4]))
}

/// The packet path's clock now, in its ticks: a program of two instructions tells it.
pub fn ticks() -> io::Result<u32> {
    const XDP: u64 = 6;
    const JIFFIES64: u64 = 118;
    let code: [u64; 2] = [0x85 | JIFFIES64 << 32, 0x95];
    let licence = *b"GPL\0";
    let mut attr = Attr([0; 16]);
    attr.0[0] = XDP | (code.len() as u64) << 32;
    attr.0[1] = code.as_ptr() as u64;
    attr.0[2] = licence.as_ptr() as u64;
    let program = new_descriptor(bpf(command::PROG_LOAD, &mut attr)?);
    test_run(program.as_fd(), &[0; 64])
}

/// Gives a program a packet; its verdict.
pub fn test_run(program: BorrowedFd<'_>, packet: &[u8; 64]) -> io::Result<u32> {
    let mut attr = Attr([0; 16]);
    attr.0[0] = program.as_raw_fd() as u64;
    attr.0[1] = packet.len() as u64;
    attr.0[2] = packet.as_ptr() as u64;
    attr.0[4] = 1;
    bpf(command::PROG_TEST_RUN, &mut attr)?;
    Ok((attr.0[0] >> 32) as u32)
}

/// Gives a program a packet, which is as the program left it afterwards; its verdict.
pub fn test_run_back(program: BorrowedFd<'_>, packet: &mut [u8]) -> io::Result<u32> {
    let mut attr = Attr([0; 16]);
    let length = packet.len() as u64;
    attr.0[0] = program.as_raw_fd() as u64;
    attr.0[1] = length | length << 32;
    let place = packet.as_mut_ptr() as u64;
    // The kernel has copied what goes in before anything comes out.
    (attr.0[2], attr.0[3], attr.0[4]) = (place, place, 1);
    bpf(command::PROG_TEST_RUN, &mut attr)?;
    Ok((attr.0[0] >> 32) as u32)
}

/// Lets a socket's datagrams be fragmented on their way (IPv4).
pub fn no_path_mtu(socket: BorrowedFd<'_>) -> io::Result<()> {
    let dont = libc::IP_PMTUDISC_DONT;
    let length = size_of_val(&dont) as libc::socklen_t;
    // SAFETY: the option is an integer of that length.
    let result = unsafe {
        let value = (&raw const dont).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, value, length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The number of this process's network namespace; never given twice.
pub fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option writes at most `length` bytes to where it is told.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Returns when every packet that may have seen what was published before is done with it.
pub fn wait_for_readers() -> io::Result<()> {
    const GLOBAL: libc::c_int = 1;
    // SAFETY: takes numbers, touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
