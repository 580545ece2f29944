//! The tables in the kernel: pinned BPF maps, the programs over them, and the kernel's routing beside them.
//!
//! | module | owns |
//! |---|---|
//! | [`bpffs`] | where pins are: the BPF file system and the instance's directory |
//! | [`lock`] | one command at a time |
//! | [`pins`] | what maps there are, and whether a pinned one is what it should be |
//! | [`sizes`] | how large they are made |
//! | [`pieces`] | those that grow |
//! | [`buckets`] | the connections' first buckets, those of IPv6 made when they are needed |
//! | [`create`] | the object file: creating maps, loading programs |
//! | [`memory`], [`syscall`] | the only unsafe code: shared memory and bpf(2) |
//! | [`table`] | services, dests and lists in memory, as the maps have them |
//! | [`lists`] | room in the `lists` map |
//! | [`trees`] | records and opening of trees |
//! | [`dests`], [`trash`] | a dest's slot; what becomes of deleted ones |
//! | [`caches`] | which dests lblc and lblcr remember |
//! | [`marks`] | mark rules, and which addresses they make worth a look |
//! | [`sysctls`] | sysctls in the settings |
//! | [`change`], [`publish`] | changes held in memory; from there to the maps |
//! | [`stats`] | counters, and what they are relative to |
//! | [`said`] | what the program says about a request that failed |
//! | [`conns`] | reading the connection table |
//! | [`sync`] | what the sync daemons read, and hand over |
//! | [`store`] | all of it behind [`crate::control::store::Store`] |
//! | [`netlink`], [`route`] | asking the kernel about NICs, routes and neighbours |
//! | [`follow`] | ways to dests when the network changes |
//! | [`clients`] | link addresses of clients whose answers come through here |
//! | [`attach`], [`status`] | what the verbs do |
//! | [`announce`] | addresses for a routing daemon to tell of |
//! | [`probes`] | sockets of checks that take the way of clients' packets |
//! | [`local`], [`output`] | hooks for clients and for servers on the balancer itself |
//! | [`fragments`] | the loop for fragments that come before their first |
//! | [`reap`] | instances whose namespace is gone |

pub mod announce;
pub mod attach;
pub mod bpffs;
pub mod buckets;
pub mod caches;
pub mod change;
pub mod clients;
pub mod clock;
pub mod conns;
pub mod create;
pub mod dests;
pub mod follow;
pub mod fragments;
pub mod lists;
pub mod local;
pub mod lock;
pub mod marks;
pub mod memory;
pub mod netlink;
pub mod output;
pub mod pieces;
pub mod pins;
pub mod probes;
pub mod publish;
pub mod reap;
pub mod route;
pub mod said;
pub mod sizes;
pub mod stats;
pub mod status;
pub mod store;
pub mod sync;
pub mod syscall;
pub mod sysctls;
pub mod table;
pub mod trash;
pub mod trees;
pub mod types;
