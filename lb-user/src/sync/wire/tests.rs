#![allow(clippy::unwrap_used, reason = "a failing test should say so where it happens")]

use proptest::prelude::*;

use super::*;

/// Bytes of a hex dump; blanks as you like.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn record(client: &str, virt: &str, dest: &str) -> Record {
    let end = |text: &str| {
        let socket: std::net::SocketAddr = text.parse().unwrap();
        (socket.ip(), Port::new(socket.port()))
    };
    Record {
        proto: Proto::TCP,
        flags: 0,
        state: 1,
        client: end(client),
        virt: end(virt),
        dest: end(dest),
        mark: 0,
        timeout: 900,
        call: None,
    }
}

/// A message of kernel 6.1: an established NAT connection.
const CAPTURED: &str = "00 05 00 2c 01 01 00 00  00 06 00 24 00 00 00 00 00 01 13 88 00 50 1f 90 00 00 00 00
    00 00 03 84 c0 a8 01 0a 0a 00 00 01 0a 02 00 01";

/// A message around records of the kernel's.
fn around(records: &[&str]) -> Vec<u8> {
    let mut bytes = vec![0; HEAD];
    for one in records {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(hex(one));
    }
    let size = (bytes.len() as u16).to_be_bytes();
    bytes[..HEAD].copy_from_slice(&[0, 5, size[0], size[1], records.len() as u8, 1, 0, 0]);
    bytes
}

const V6: &str = "01 06 00 48 00 00 00 00 00 01 13 89 00 50 1f 90 00 00 00 00 00 00 03 84
    20010db8000000000000000000000001 fd000000000000000000000000000001 fd020000000000000000000000000001";
const TEMPLATE: &str = "00 06 00 24 00 00 11 83 00 01 00 00 00 51 00 51 00 00 00 00 00 00 00 64
    c0 a8 01 0a 0a 00 00 01 0a 02 00 01";
const BY_MARK: &str = "00 00 00 24 00 00 11 83 00 01 00 00 00 00 00 00 00 00 00 05 00 00 00 64
    c0 a8 01 0a 00 00 00 05 0a 02 00 01";
const UDP: &str = "00 11 00 24 00 00 01 82 00 00 13 8b 00 35 00 35 00 00 00 00 00 00 01 2c
    c0 a8 01 0a 0a 00 00 01 0a 02 00 01";
const CALL: &str = "00 11 00 30 00 00 11 83 00 01 00 00 13 c4 13 c4 00 00 00 00 00 00 00 64
    c0 a8 01 0a 0a 00 00 01 0a 02 00 01 02 05 61 62 63 40 68 03 03 73 69 70";
const SHIFTED: &str = "00 06 00 3e 00 00 07 20 00 07 13 88 00 15 00 15 00 00 00 00 00 00 00 64
    c0 a8 01 0a 0a 00 00 01 0a 02 00 01 01 18 01 02 03 04 00 00 00 05 00 00 00 02 0a 0b 0c 0d 00 00 00 07
    00 00 00 03";

#[test]
fn what_the_kernel_sends_is_read() {
    let expected = record("192.168.1.10:5000", "10.0.0.1:80", "10.2.0.1:8080");
    let first = read(&hex(CAPTURED), 5).unwrap();
    assert_eq!(first, Message { records: vec![expected], faults: vec![] });

    let message = read(&around(&[V6, TEMPLATE, BY_MARK, UDP, CALL]), 0).unwrap();
    assert_eq!(message.faults, []);
    let [v6, template, mark, udp, call] = &message.records[..] else { panic!("{message:?}") };
    assert_eq!(*v6, record("[2001:db8::1]:5001", "[fd00::1]:80", "[fd02::1]:8080"));
    assert_eq!(
        *template,
        Record { flags: 0x1183, timeout: 100, ..record("192.168.1.10:0", "10.0.0.1:81", "10.2.0.1:81") }
    );
    assert_eq!(
        *mark,
        Record {
            flags: 0x1183,
            timeout: 100,
            proto: Proto::IP,
            mark: 5,
            ..record("192.168.1.10:0", "0.0.0.5:0", "10.2.0.1:0")
        }
    );
    assert_eq!((udp.proto, udp.flags, udp.state, udp.timeout), (Proto::UDP, 0x182, 0, 300));
    assert_eq!(call.call.as_deref(), Some(&b"abc@h"[..]));
}

#[test]
fn what_the_kernel_sends_is_written() {
    let mut writer = Writer::new(1, 5, 1472);
    assert_eq!(writer.push(&record("192.168.1.10:5000", "10.0.0.1:80", "10.2.0.1:8080")), None);
    assert_eq!(writer.finish().unwrap(), hex(CAPTURED));
    assert_eq!(writer.finish(), None);
    let all = around(&[V6, TEMPLATE, BY_MARK, UDP, CALL]);
    for one in read(&all, 0).unwrap().records {
        assert_eq!(writer.push(&one), None);
    }
    assert_eq!(writer.finish().unwrap(), all);
    assert_eq!(read(&writer.empty(), 5), Ok(Message::default()));
    assert_eq!(writer.empty(), [0, 5, 0, 8, 0, 1, 0, 0]);
}

#[test]
fn version_0() {
    let captured = hex("01 05 00 1c 00 06 1c 20 00 50 1f 90 c0 a8 01 0a 0a 00 00 01 0a 02 00 01 00 00 00 01");
    let message = read(&captured, 5).unwrap();
    let expected = Record { timeout: 0, ..record("192.168.1.10:7200", "10.0.0.1:80", "10.2.0.1:8080") };
    assert_eq!(message, Message { records: vec![expected.clone()], faults: vec![] });
    let mut writer = Writer::new(0, 5, 1472);
    assert_eq!(writer.push(&record("[2001:db8::1]:5001", "[fd00::1]:80", "[fd02::1]:8080")), None);
    assert_eq!(writer.push(&expected), None);
    assert_eq!(writer.finish().unwrap(), captured);
    // Flags that sequence data comes with are not written without it.
    assert_eq!(writer.push(&Record { flags: 0x600, ..expected.clone() }), None);
    assert_eq!(read(&writer.finish().unwrap(), 5).unwrap().records, [expected]);
    // Sequence data that shifts nothing is passed over.
    let mut long = hex("01 05 00 34 00 06 1c 20 00 50 1f 90 c0 a8 01 0a 0a 00 00 01 0a 02 00 01 06 00 00 01");
    long.extend([0; SEQUENCE]);
    assert_eq!(read(&long, 5).unwrap().records.len(), 1);
    long[28 + 4] = 1;
    assert_eq!(read(&long, 5).unwrap().faults, [Fault::Shifted]);
}

#[test]
fn messages_are_as_long_as_they_may_be() {
    let one = record("192.168.1.10:5000", "10.0.0.1:80", "10.2.0.1:8080");
    let lengths = |maxlen: u16, records: usize| {
        let mut writer = Writer::new(1, 0, maxlen);
        let mut all: Vec<Vec<u8>> = (0..records).filter_map(|_| writer.push(&one)).collect();
        all.extend(writer.finish());
        let read: usize = all.iter().map(|bytes| read(bytes, 0).unwrap().records.len()).sum();
        assert_eq!(read, records);
        all.iter().map(Vec::len).collect::<Vec<_>>()
    };
    // As seen of the kernel: 40 records are 1448 bytes.
    assert_eq!(lengths(1472, 41), [1448, 44]);
    assert_eq!(lengths(100, 3), [80, 44]);
    // A byte counts them.
    assert_eq!(lengths(65_507, 256), [HEAD + 255 * RECORD, 44]);
    // One that fits nowhere goes alone.
    assert_eq!(lengths(1, 2), [44, 44]);
}

#[test]
fn faults() {
    let whole = hex(CAPTURED);
    assert_eq!(read(&[], 0), Err(Fault::Short));
    assert_eq!(read(&[0, 5, 0], 0), Err(Fault::Short));
    assert_eq!(read(&whole[..43], 0), Err(Fault::Length));
    assert_eq!(read(&whole, 4), Err(Fault::Syncid));
    let changed = |changes: &[(usize, u8)]| {
        let mut bytes = whole.clone();
        changes.iter().for_each(|(at, byte)| bytes[*at] = *byte);
        read(&bytes, 0).unwrap()
    };
    for (changes, fault) in [
        (&[(10, 0x10)][..], Fault::Unknown),
        (&[(8, 2)], Fault::Unknown),
        (&[(8, 1)], Fault::Truncated),
        (&[(11, 35)], Fault::Truncated),
        (&[(11, 37)], Fault::Truncated),
        (&[(9, 1)], Fault::Protocol),
        (&[(17, 11)], Fault::State),
        (&[(16, 1)], Fault::State),
        (&[(9, 17)], Fault::State),
        (&[(14, 0x20)], Fault::Unwanted),
        (&[(14, 0x18)], Fault::Unwanted),
        (&[(14, 0x10), (17, 2)], Fault::State),
    ] {
        let expected = Message { records: vec![], faults: vec![fault] };
        assert_eq!(changed(changes), expected, "{changes:?}");
    }
    // More announced than there are, and fewer.
    assert_eq!(changed(&[(4, 2)]).faults, [Fault::Truncated]);
    assert_eq!(changed(&[(4, 2)]).records.len(), 1);
    assert_eq!(changed(&[(4, 0)]), Message::default());
    assert_eq!(read(&around(&[SHIFTED, UDP]), 0).unwrap().faults, [Fault::Shifted]);
}

#[test]
fn options() {
    let with = |options: &str| {
        let length = RECORD + hex(options).len();
        let one = format!("00 06 00 {length:02x} {} {options}", &TEMPLATE[12..]);
        let message = read(&around(&[&one, UDP]), 0).unwrap();
        (message.faults, message.records.len())
    };
    assert_eq!(with("02 01 61 03 03 73 69 70"), (vec![], 2));
    assert_eq!(with("03 03 73 69 70 02 01 61"), (vec![], 2));
    // Without its name, with another's, without data: this record only.
    assert_eq!(with("02 01 61"), (vec![Fault::Engine], 1));
    assert_eq!(with("02 01 61 03 03 73 69 71"), (vec![Fault::Engine], 1));
    assert_eq!(with("03 03 73 69 70"), (vec![Fault::Engine], 1));
    assert_eq!(with("05 01 61"), (vec![Fault::Mandatory], 1));
    assert_eq!(with("45 01 61"), (vec![], 2));
    // What ends the message.
    for options in [
        "02 00",
        "02 02 61",
        "02",
        "02 01 61 02 01 61",
        "01 01 00",
        "03 11 0000000000000000000000000000000000",
    ] {
        assert_eq!(with(options), (vec![Fault::Options], 0), "{options}");
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    let end = |v6: bool| {
        let addr = if v6 {
            any::<u128>().prop_map(|a| IpAddr::V6(Ipv6Addr::from(a))).boxed()
        } else {
            any::<u32>().prop_map(|a| IpAddr::V4(Ipv4Addr::from(a))).boxed()
        };
        (addr, any::<u16>().prop_map(Port::new))
    };
    let call = prop::option::of(prop::collection::vec(any::<u8>(), 1..=255));
    let kind = (prop::sample::select(vec![Proto::TCP, Proto::UDP, Proto::SCTP]), any::<bool>(), any::<u32>());
    any::<bool>().prop_flat_map(move |v6| {
        (kind.clone(), end(v6), end(v6), end(v6), any::<u32>(), any::<u32>(), call.clone()).prop_map(
            |((proto, template, bits), client, virt, dest, mark, timeout, call)| Record {
                proto,
                flags: bits & (0x107) | if template { flags::TEMPLATE } else { 0 },
                state: 0,
                client,
                virt,
                dest,
                mark,
                timeout,
                call: call.filter(|_| template),
            },
        )
    })
}

/// Every record a message announces is read, or there is a fault for it, unless the rest is dropped for one.
fn accounted(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(message) = read(bytes, 0) else { return Ok(()) };
    let first = bytes[0];
    let announced =
        if bytes.len() >= HEAD && (first, &bytes[5..8]) == (0, &[1, 0, 0]) { bytes[4] } else { first };
    let found = message.records.len() + message.faults.len();
    let ends: Vec<bool> = message.faults.iter().map(|fault| fault.ends_message()).collect();
    let dropped = ends.last() == Some(&true);
    prop_assert!(ends.iter().rev().skip(1).all(|ends| !ends), "{:?}", message);
    prop_assert!(found <= announced.into() && (dropped || found == usize::from(announced)), "{:?}", message);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), size: bool, first: bool) {
        let mut bytes = bytes;
        if size && bytes.len() >= 8 {
            let length = (bytes.len() as u16).to_be_bytes();
            bytes[2..4].copy_from_slice(&length);
            if first {
                (bytes[0], bytes[5], bytes[6], bytes[7]) = (0, 1, 0, 0);
            }
        }
        accounted(&bytes)?;
    }

    #[test]
    fn damaged_messages_are_survived(at in 0usize..1000, byte: u8, cut in 0usize..1000) {
        let mut bytes = around(&[V6, TEMPLATE, CALL, BY_MARK, SHIFTED, UDP]);
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.truncate(bytes.len() - cut % bytes.len());
        if bytes.len() >= 4 {
            let length = (bytes.len() as u16).to_be_bytes();
            bytes[2..4].copy_from_slice(&length);
        }
        accounted(&bytes)?;
    }

    #[test]
    fn what_is_written_is_read(records in prop::collection::vec(any_record(), 1..300), maxlen in 80u16..) {
        let mut writer = Writer::new(1, 7, maxlen);
        let mut all: Vec<Vec<u8>> = records.iter().filter_map(|record| writer.push(record)).collect();
        all.extend(writer.finish());
        let mut back = Vec::new();
        for bytes in &all {
            let message = read(bytes, 7).unwrap();
            prop_assert_eq!(message.faults, []);
            prop_assert!(bytes.len() <= usize::from(maxlen) || message.records.len() == 1);
            back.extend(message.records);
        }
        prop_assert_eq!(back, records);
    }
}
