//! Whatever comes as a sync message, reading it ends, all of it is accounted for, and what can be used is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lb_user::sync::backup::Backup;
use lb_user::sync::tables::Tables;
use lb_user::sync::wire::{self, Message, Writer};

fuzz_target!(|bytes: &[u8]| {
    // With nothing attached: the way of a datagram as far as the tables.
    let mut backup = Backup::new(0, Tables::new(None));
    let taken = backup.hear(bytes);
    let counts = backup.to_json();
    let faults: u64 = counts["faults"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
    let records = counts["not_attached"].as_u64().unwrap_or(0);
    let read = wire::read(bytes, 0);
    assert_eq!(taken, read.is_ok());
    let Ok(Message { records: found, faults: wrong }) = read else {
        return assert_eq!((faults, counts["messages"].as_u64()), (1, Some(0)), "{counts}");
    };
    assert_eq!((records, faults), (found.len() as u64, wrong.len() as u64), "{counts}");
    for version in [0, 1] {
        let mut writer = Writer::new(version, 7, u16::MAX);
        let mut again: Vec<Vec<u8>> = found.iter().filter_map(|record| writer.push(record)).collect();
        again.extend(writer.finish());
        let back: Vec<_> = again.iter().map(|bytes| wire::read(bytes, 7).expect("a message of ours")).collect();
        assert!(back.iter().all(|message| message.faults.is_empty()), "{back:?}");
        let back = back.into_iter().flat_map(|message| message.records);
        assert!(version == 0 || back.eq(found.iter().cloned()), "{found:?}");
    }
});
