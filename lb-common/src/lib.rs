//! What the kernel program and user space share: the pass over a packet, the tables, the schedulers.
//!
//! | module | owns |
//! |---|---|
//! | [`pipeline`] | the pass over a packet: read this first |
//! | [`parse`], [`wire`], [`packet`] | from bytes to what the pass needs to know; headers; the trait over a frame |
//! | [`ip`] | IPv4 and IPv6 behind one trait |
//! | [`admit`], [`persist`] | a packet without a connection: service, template, scheduler, new entry |
//! | [`recent`] | services found lately, by each CPU for itself |
//! | [`conn_out`], [`servers`] | connections that servers begin; dests by their address |
//! | [`text`], [`sip`] | payloads read as text; the Call-ID of persistence engine sip |
//! | [`ftp`] | FTP under NAT: control connections are read, data connections follow them |
//! | [`table`], [`conn`] | the connection table: its protocol, its layout |
//! | [`forward`] | header edits: direct routing, NAT, tunnels, ICMP errors, link layer |
//! | [`related`] | ICMP errors about connections |
//! | [`slow`] | what few packets need, a program of its own in the kernel |
//! | [`upkeep`] | packets of connections whose dest is deleted or was found dead, another such program |
//! | [`probe`] | checks that take the way of clients' packets, another |
//! | [`output`] | what the machine itself sends |
//! | [`local`] | clients on the balancer itself |
//! | [`mark`] | rules that mark packets, for services by mark |
//! | [`sched`] | which dest gets a new connection, one file per scheduler |
//! | [`state`] | (state, direction, event) → state, and timeouts |
//! | [`service`], [`dest`], [`settings`] | map values the control side writes |
//! | [`defence`] | what happens when room for connections runs low |
//! | [`account`] | a dest's connection counts |
//! | [`tables`] | the trait over maps, clock, routes |
//! | [`pieces`] | maps that grow |
//! | [`reason`] | every outcome by name |
//! | [`until`] | until when something holds |
//! | [`keyed`] | the connection table's hash |
//! | [`addr`], [`flow`], [`checksum`], [`crc32c`], [`siphash`] | the small change |
//! | [`cell`] | shared words and their atomics: the only unsafe code but for byte casts |
//! | [`host`] | the engine over ordinary memory, for tests and for `lb-user explain` |

#![no_std]
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics, asm_experimental_arch),
    allow(internal_features, reason = "32-bit atomics, and masks, on BPF")
)]

#[cfg(any(test, feature = "host"))]
extern crate std;

pub mod account;
pub mod addr;
pub mod admit;
pub mod cell;
pub mod checksum;
pub mod conn;
pub mod conn_out;
pub mod crc32c;
pub mod defence;
pub mod dest;
pub mod estimate;
pub mod flow;
pub mod forward;
pub mod fragments;
pub mod ftp;
#[cfg(any(test, feature = "host"))]
pub mod host;
pub mod ip;
pub mod keyed;
pub mod local;
pub mod mark;
pub mod outer;
pub mod output;
pub mod packet;
pub mod parse;
pub mod persist;
pub mod pieces;
pub mod pipeline;
pub mod probe;
pub mod reason;
pub mod recent;
pub mod related;
pub mod request;
pub mod sched;
pub mod servers;
pub mod service;
pub mod settings;
pub mod sip;
pub mod siphash;
pub mod slow;
pub mod state;
pub mod sync;
pub mod table;
pub mod tables;
pub mod text;
pub mod until;
pub mod upkeep;
pub mod wire;
