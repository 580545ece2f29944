//! Services that packets asked for lately. The map they are in is a hash table, and a look into it costs as much as the
//! rest of finding service and dest; so each CPU remembers what it found, a row to a key, until services change.
//!
//! [`Settings::services_change`](crate::settings::Settings::services_change) is odd from before the first service is
//! changed until after the last: meanwhile, and after a change that was killed, nobody remembers. Room that changed services
//! leave is given to others only after that, and when no packet is under way that may have read the number before.

use crate::cell::{self, masked};
use crate::service::{Service, ServiceKey};
use crate::tables::Tables;

/// Rows, a power of two.
const ROWS: usize = 16;

/// What one CPU remembers.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Recent([Row; ROWS]);

/// A service found. One that is empty has the key of none.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    key: ServiceKey,
    /// `services_change` before it was looked up.
    change: u32,
    spare: u32,
    service: Service,
}

impl Recent {
    /// The service with this key, written to `into`. False: there is none, and `into` is as it was.
    #[inline(always)]
    pub fn service<T: Tables>(&mut self, t: &T, key: &ServiceKey, into: &mut Service) -> bool {
        let change = t.settings().services_change.load_acquire();
        let row = &mut self.0[masked::<{ ROWS as u32 - 1 }>(key.mix())];
        if row.change == change && row.key == *key {
            cell::copy(&row.service, into);
            return true;
        }
        let Some(service) = t.service(key) else { return false };
        cell::copy(service, into);
        if change & 1 == 0 {
            (row.key, row.change) = (*key, change);
            cell::copy(into, &mut row.service);
        }
        true
    }
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use crate::addr::{Addr, Family, Port, Proto};
    use crate::host::{HostTables, Memory, Sizes};

    fn key(port: u16) -> ServiceKey {
        ServiceKey::addr(Family::V4, Proto::TCP, Addr::v4([10, 9, 0, 1]), Port::new(port))
    }

    fn put(tables: &HostTables, port: u16, dests: u32) {
        tables.put_service(&key(port), Some(&Service { dests, ..Service::default() }));
    }

    fn settings(tables: &HostTables) -> &crate::settings::Settings {
        Tables::settings(tables)
    }

    /// How many dests the service has as far as is known.
    fn dests(recent: &mut Recent, tables: &HostTables, port: u16) -> Option<u32> {
        let mut service = Service::default();
        recent.service(tables, &key(port), &mut service).then_some(service.dests)
    }

    #[test]
    fn remembered_until_services_change() {
        let (tables, mut recent) = (HostTables::new(&Sizes::default()), Recent::default());
        assert_eq!(dests(&mut recent, &tables, 80), None);
        put(&tables, 80, 1);
        assert_eq!(dests(&mut recent, &tables, 80), Some(1));
        // Nobody is told.
        put(&tables, 80, 2);
        assert_eq!(dests(&mut recent, &tables, 80), Some(1));
        settings(&tables).services_change();
        assert_eq!(dests(&mut recent, &tables, 80), Some(2));
        tables.put_service(&key(80), None);
        settings(&tables).services_changed();
        assert_eq!(dests(&mut recent, &tables, 80), None);
    }

    #[test]
    fn nothing_is_remembered_of_a_change_that_was_killed() {
        let (tables, mut recent) = (HostTables::new(&Sizes::default()), Recent::default());
        settings(&tables).services_change();
        for count in 1..5 {
            put(&tables, 80, count);
            assert_eq!(dests(&mut recent, &tables, 80), Some(count));
        }
        // The next one ends it.
        settings(&tables).services_change();
        put(&tables, 80, 5);
        settings(&tables).services_changed();
        assert_eq!(dests(&mut recent, &tables, 80), Some(5));
        put(&tables, 80, 6);
        assert_eq!(dests(&mut recent, &tables, 80), Some(5));
    }

    #[test]
    fn many_share_the_rows() {
        let (tables, mut recent) = (HostTables::new(&Sizes::default()), Recent::default());
        let ports = 1..=200;
        ports.clone().for_each(|port| put(&tables, port, u32::from(port)));
        for _ in 0..2 {
            for port in ports.clone() {
                assert_eq!(dests(&mut recent, &tables, port), Some(u32::from(port)));
            }
        }
        let rows: std::collections::HashSet<usize> =
            ports.map(|port| masked::<{ ROWS as u32 - 1 }>(key(port).mix())).collect();
        assert_eq!(rows.len(), ROWS);
    }
}
