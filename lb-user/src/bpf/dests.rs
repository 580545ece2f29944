//! A dest's slot: from a model to cells and back.

use lb_common::account;
use lb_common::addr::{Addr, Family};
use lb_common::dest::{Dest, Method, TunType, status};
use lb_common::sched::BuildDest;
use lb_common::service::ServiceKey;

use crate::control::model::{DestConf, DestId, OnDown, TunChecksum, TunnelConf, family_of};

/// The spare cells of a slot, which are the control side's.
mod spare {
    /// The service's serial number.
    pub const SERIAL: usize = 0;
    /// When the trash's scans started, in seconds.
    pub const SCANS: usize = 1;
}

/// The service a slot belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its key.
    pub key: ServiceKey,
    /// Its slot.
    pub slot: u32,
    /// Its serial number: another one for a service deleted and made again.
    pub serial: u32,
}

/// What the network says of a dest's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// It is this machine's own.
    pub local: bool,
    /// The NIC towards it.
    pub egress: u32,
}

/// Fills a slot nobody uses; the status, which makes it a dest, comes last.
pub fn write(dest: &Dest, owner: &Owner, id: &DestId, conf: &DestConf, place: &Place) {
    dest.hop.forget();
    dest.hop.forget_path();
    for (cell, word) in dest.addr.iter().zip(Addr::from(id.addr).words()) {
        cell.store(word);
    }
    for cell in [
        &dest.active,
        &dest.total,
        &dest.templates,
        &dest.overloaded,
        &dest.idle_since,
        &dest.deleted,
        &dest.record,
    ] {
        cell.store(0);
    }
    dest.last_weight.store(conf.weight);
    dest.upper.store(0);
    dest.lower.store(0);
    revive(dest, owner, id, conf, place);
}

/// Makes a deleted dest one of its service again, connections and all.
pub fn revive(dest: &Dest, owner: &Owner, id: &DestId, conf: &DestConf, place: &Place) {
    dest.service.store(owner.slot);
    dest.set_owner(&owner.key);
    dest.spare[spare::SERIAL].store(owner.serial);
    dest.egress.store(place.egress);
    dest.deleted.store(0);
    edit(dest, id, conf);
    let local = if place.local { status::LOCAL } else { 0 };
    dest.status.swap(status::USED | status::AVAILABLE | local);
}

/// Notes that a dest was found dead, or that it is so no longer.
pub fn set_fate(dest: &Dest, fate: Option<OnDown>) {
    let bits = match fate {
        None => 0,
        Some(OnDown::Leave) => status::DEAD,
        Some(OnDown::Move) => status::DEAD | status::MOVE,
        Some(OnDown::Reset) => status::DEAD | status::RESET,
    };
    dest.status.swap(dest.status.load() & !status::FATE | bits);
}

/// What was noted.
pub fn fate(dest: &Dest) -> Option<OnDown> {
    match dest.status.load() & status::FATE {
        0 => None,
        bits if bits & status::RESET != 0 => Some(OnDown::Reset),
        bits if bits & status::MOVE != 0 => Some(OnDown::Move),
        _ => Some(OnDown::Leave),
    }
}

/// Replaces what can be edited. A dest that is given weight is not dead.
pub fn edit(dest: &Dest, id: &DestId, conf: &DestConf) {
    dest.port_family_method.store(Dest::pack(id.port, family_of(&id.addr) as u8, conf.method as u8));
    dest.weight.store(conf.weight);
    if conf.weight != 0 {
        dest.last_weight.store(conf.weight);
        set_fate(dest, None);
    }
    let port = conf.tunnel.port.wire().to_ne_bytes();
    dest.tunnel.store(u32::from_ne_bytes([
        conf.tunnel.kind as u8,
        conf.tunnel.checksum as u8,
        port[0],
        port[1],
    ]));
    set_thresholds(dest, conf.upper, conf.lower);
}

/// The overload flag is looked at again only if a threshold changes (recent kernels).
fn set_thresholds(dest: &Dest, upper: u32, lower: u32) {
    if dest.upper.load() == upper && dest.lower.load() == lower {
        return;
    }
    dest.upper.store(upper);
    dest.lower.store(lower);
    let total = dest.total.load();
    if upper != 0 && total >= upper {
        dest.overloaded.store(1);
    } else if upper == 0 || total < account::lower(dest) {
        dest.overloaded.store(0);
    }
}

/// Takes a dest out of service; connections may still name the slot.
pub fn retire(dest: &Dest, now: u32, scans: u32) {
    dest.record.store(0);
    dest.spare[spare::SCANS].store(scans);
    dest.deleted.store(now);
    dest.status.swap(dest.status.load() & !status::AVAILABLE);
}

/// When the scans of the trash started, as written down at its deletion.
pub fn scans(dest: &Dest) -> u32 {
    dest.spare[spare::SCANS].load()
}

/// Does any connection or template name it?
pub fn referenced(dest: &Dest) -> bool {
    dest.total.load() != 0 || dest.templates.load() != 0
}

/// Is the slot in use?
pub fn used(dest: &Dest) -> bool {
    dest.status.load() & status::USED != 0
}

/// The service a slot belongs or belonged to.
pub fn owner(dest: &Dest) -> Owner {
    Owner { key: dest.owner(), slot: dest.service.load(), serial: dest.spare[spare::SERIAL].load() }
}

/// What a dest is found by.
pub fn id(dest: &Dest) -> DestId {
    let family = Family::from_number(dest.family()).unwrap_or(Family::V4);
    DestId { addr: dest.address().to_ip(family), port: dest.port() }
}

/// How it is set.
pub fn conf(dest: &Dest) -> DestConf {
    let (kind, checksum, port) = dest.tunnel();
    DestConf {
        method: Method::from_number(dest.method().into()),
        weight: dest.weight.load(),
        upper: dest.upper.load(),
        lower: dest.lower.load(),
        tunnel: TunnelConf {
            kind: [TunType::Ipip, TunType::Gue, TunType::Gre].get(kind as usize).copied().unwrap_or_default(),
            port,
            checksum: match checksum {
                1 => TunChecksum::Full,
                2 => TunChecksum::Remote,
                _ => TunChecksum::None,
            },
        },
    }
}

/// As scheduler tables are built from it.
pub fn build(number: u32, dest: &Dest) -> BuildDest {
    BuildDest {
        dest: number,
        addr: dest.address(),
        port: dest.port(),
        weight: dest.weight.load(),
        last_weight: dest.last_weight.load(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::addr::{Port, Proto};

    fn some() -> (Owner, DestId, DestConf) {
        let key = ServiceKey::addr(Family::V4, Proto::UDP, Addr::v4([10, 0, 0, 9]), Port::new(53));
        let conf = DestConf {
            method: Method::Tunnel,
            weight: 3,
            upper: 4,
            lower: 2,
            tunnel: TunnelConf { kind: TunType::Gue, port: Port::new(6080), checksum: TunChecksum::Remote },
        };
        (
            Owner { key, slot: 5, serial: 77 },
            DestId { addr: [10, 1, 2, 3].into(), port: Port::new(5353) },
            conf,
        )
    }

    #[test]
    fn comes_back_as_it_went_in() {
        let (owner_, id_, conf_) = some();
        let dest = Dest::default();
        // What the slot's last dest has left.
        dest.hop.learn(1400, 900, 0);
        write(&dest, &owner_, &id_, &conf_, &Place { local: true, egress: 3 });
        assert_eq!(dest.hop.carries(), 0);
        assert_eq!((owner(&dest), id(&dest), conf(&dest)), (owner_, id_, conf_));
        assert!(used(&dest) && dest.available() && !referenced(&dest));
        retire(&dest, 100, 90);
        assert!(used(&dest) && !dest.available() && scans(&dest) == 90);
    }

    #[test]
    fn a_fate_stays_until_there_is_weight() {
        let (owner_, id_, mut conf_) = some();
        let dest = Dest::default();
        write(&dest, &owner_, &id_, &conf_, &Place::default());
        conf_.weight = 0;
        for (told, goes_on) in
            [(OnDown::Leave, true), (OnDown::Move, false), (OnDown::Reset, false), (OnDown::Leave, true)]
        {
            set_fate(&dest, Some(told));
            edit(&dest, &id_, &conf_);
            assert_eq!((fate(&dest), dest.available(), dest.listed()), (Some(told), goes_on, true));
        }
        conf_.weight = 1;
        edit(&dest, &id_, &conf_);
        assert_eq!((fate(&dest), dest.available()), (None, true));
        set_fate(&dest, Some(OnDown::Reset));
        retire(&dest, 100, 90);
        assert!(fate(&dest) == Some(OnDown::Reset) && !dest.forsaken());
        revive(&dest, &owner_, &id_, &conf_, &Place::default());
        assert_eq!((fate(&dest), dest.available()), (None, true));
    }

    #[test]
    fn thresholds_follow_recent_kernels() {
        let (owner_, id_, mut conf_) = some();
        let dest = Dest::default();
        write(&dest, &owner_, &id_, &conf_, &Place::default());
        dest.total.store(4);
        edit(&dest, &id_, &conf_);
        assert_eq!(dest.overloaded.load(), 0, "unchanged thresholds are not looked at again");
        conf_.lower = 3;
        edit(&dest, &id_, &conf_);
        assert_eq!(dest.overloaded.load(), 1);
        (conf_.upper, conf_.lower) = (9, 3);
        edit(&dest, &id_, &conf_);
        assert_eq!(dest.overloaded.load(), 1, "between the two it stays as it is");
        conf_.lower = 5;
        edit(&dest, &id_, &conf_);
        assert_eq!(dest.overloaded.load(), 0);
    }
}
