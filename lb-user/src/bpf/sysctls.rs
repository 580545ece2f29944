//! Sysctls in the settings: as given in spare cells, as the packet path wants them in their own.

use lb_common::cell::Cell32;
use lb_common::defence;
use lb_common::settings::Settings;

use super::change::spare;
use crate::control::sysctl::{Sysctls, WORDS, find};

/// Which are set, as bits; then their values.
const CELLS: std::ops::Range<usize> = spare::SYSCTLS..spare::SYSCTLS + 1 + WORDS;
const _: () = assert!(WORDS <= 32);

/// The values that were given.
pub fn read(settings: &Settings) -> Sysctls {
    let mut all = Sysctls::default();
    if let Some((set, cells)) = settings.spare[CELLS].split_first() {
        let set = set.load();
        for (at, (value, cell)) in all.given.iter_mut().zip(cells).enumerate() {
            *value = (set >> at & 1 == 1).then(|| cell.load() as i32);
        }
    }
    // An automatic mode says by its value whether it is at work.
    for (name, cell) in modes(settings) {
        let Ok(at) = find(name) else { continue };
        if let Some(value @ (1 | 2)) = &mut all.given[at] {
            *value = cell.load() as i32;
        }
    }
    all
}

/// The defences whose modes the packet path moves.
fn modes(settings: &Settings) -> [(&'static str, &Cell32); 3] {
    [
        ("drop_entry", &settings.drop_entry),
        ("drop_packet", &settings.drop_packet),
        ("secure_tcp", &settings.secure_tcp_mode),
    ]
}

/// Keeps them, and puts them in force.
pub fn write(settings: &Settings, all: &Sysctls) {
    if let Some((set, cells)) = settings.spare[CELLS].split_first() {
        let mut bits = 0;
        for (at, (value, cell)) in all.given.iter().zip(cells).enumerate() {
            cell.store(value.unwrap_or(0) as u32);
            bits |= u32::from(value.is_some()) << at;
        }
        set.store(bits);
    }
    let plain: [(&str, &Cell32); 14] = [
        ("conn_reuse_mode", &settings.conn_reuse_mode),
        ("expire_nodest_conn", &settings.expire_nodest_conn),
        ("expire_quiescent_template", &settings.expire_quiescent_template),
        ("sloppy_tcp", &settings.sloppy_tcp),
        ("sloppy_sctp", &settings.sloppy_sctp),
        ("pmtu_disc", &settings.pmtu_disc),
        ("nat_icmp_send", &settings.nat_icmp_send),
        ("run_estimation", &settings.run_estimation),
        ("schedule_icmp", &settings.schedule_icmp),
        ("cache_bypass", &settings.cache_bypass),
        ("amemthresh", &settings.amemthresh),
        ("am_droprate", &settings.am_droprate),
        ("lblc_expiration", &settings.lblc_expiration),
        ("lblcr_expiration", &settings.lblcr_expiration),
    ];
    for (name, cell) in plain {
        cell.store(all.get(name) as u32);
    }
    for (name, cell) in modes(settings) {
        cell.store(all.get(name) as u32);
    }
    // Automatic ones are off until the sweep has looked at the room left: a second at the most.
    let always = |name: &str| u32::from(all.get(name) as u32 == defence::ALWAYS);
    settings.dropping.store(always("drop_entry"));
    settings.secure_tcp.store(always("secure_tcp"));
    settings.drop_rate.store(all.drop_rate());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn come_back_as_they_went_in() {
        let settings = Settings::new();
        settings.set_defaults(250);
        assert_eq!(read(&settings), Sysctls::default());
        let mut all = Sysctls::default();
        for (name, value) in [
            ("drop_packet", "3"),
            ("am_droprate", "4"),
            ("secure_tcp", "2"),
            ("sync_threshold", "0 7"),
            ("pmtu_disc", "-1"),
            ("lblcr_expiration", "60"),
        ] {
            assert!(find(name).and_then(|at| all.set(at, value)).is_ok(), "{name}");
        }
        write(&settings, &all);
        assert_eq!(read(&settings), all);
        assert_eq!((settings.drop_rate.load(), settings.secure_tcp.load()), (4, 0));
        assert_eq!((settings.conn_reuse_mode.load(), settings.pmtu_disc.load()), (1, u32::MAX));
        assert_eq!((settings.lblc_expiration.load(), settings.lblcr_expiration.load()), (86_400, 60));
        write(&settings, &Sysctls::default());
        assert_eq!((settings.drop_rate.load(), settings.pmtu_disc.load()), (0, 1));
    }
}
