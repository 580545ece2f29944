//! What `bench packet` measures: every case in a table for a million connections; some whose flows are many, but not that
//! many, in a table made for just them as well. The same lines of memory are asked for in both; what differs is over how
//! many pages they lie.

use lb_common::addr::{Family, Proto};
use lb_common::conn::Entry as _;
use lb_common::ip::{Ip, V4, V6};
use lb_common::table::most_further;
use lb_user::bpf::sizes;

use super::cases::{Case, Kind, Path};
use crate::bpf::Sizes;

/// Flows that are measured in a table of their own size as well.
const MANY: u32 = 65_536;

/// A case, and where its connections lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// What packets.
    pub case: Case,
    /// Is the table made for the case's flows alone?
    pub own_table: bool,
}

impl Subject {
    /// All of them; in a table of their own right behind the same in the large one.
    pub fn all() -> Vec<Self> {
        let both = |case: Case| {
            let own = matches!(case.kind, Kind::Established(Path::Dr | Path::Ipip, MANY))
                && case.proto == Proto::TCP;
            [Some(false), own.then_some(true)]
                .into_iter()
                .flatten()
                .map(move |own_table| Self { case, own_table })
        };
        Case::all().into_iter().flat_map(both).collect()
    }

    /// `v4 tcp ipip 65536`, `v4 tcp ipip 65536, own table`, …
    pub fn name(&self) -> String {
        self.case.name() + if self.own_table { ", own table" } else { "" }
    }

    /// The table.
    pub fn table(&self) -> Table {
        let connections = match self.case.kind {
            Kind::Established(_, flows) if self.own_table => flows,
            _ => Table::LARGE,
        };
        Table { family: self.case.family, connections }
    }
}

/// A table of one family as `lb-user attach` makes it for so many connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Whose connections.
    pub family: Family,
    /// How many there is room for.
    pub connections: u32,
}

impl Table {
    /// Connections that the large one is made for.
    pub const LARGE: u32 = 1 << 20;

    /// Slots: twice as many as connections.
    pub fn slots(&self) -> u32 {
        match self.family {
            Family::V4 => self.buckets() * <V4 as Ip>::Entry::WAYS,
            Family::V6 => self.buckets() * <V6 as Ip>::Entry::WAYS,
        }
    }

    /// Lines of 64 bytes that it takes: a bucket is four.
    pub fn lines(&self) -> u32 {
        self.buckets() * 4
    }

    /// A loaded program's maps with this table, and next to none for the other family.
    pub fn sizes(&self) -> Sizes {
        let buckets = self.buckets();
        let (buckets, second) = match self.family {
            Family::V4 => ([buckets, 64], most_further::<V4>(buckets)),
            Family::V6 => ([64, buckets], most_further::<V6>(buckets)),
        };
        Sizes { buckets, second, dests: 4096, services: 64, lists: 1 << 20 }
    }

    fn buckets(&self) -> u32 {
        let sizes = sizes::Sizes::of(self.connections, Some(self.connections));
        match self.family {
            Family::V4 => sizes.buckets_v4,
            Family::V6 => sizes.buckets_v6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_have_one_name() {
        let mut names: Vec<String> = Subject::all().iter().map(Subject::name).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(names.contains(&"v6 tcp dr 65536, own table".to_owned()));
    }

    #[test]
    fn a_table_of_their_own_is_sixteen_times_smaller() {
        for family in [Family::V4, Family::V6] {
            let [large, own] = [Table::LARGE, MANY].map(|connections| Table { family, connections });
            assert_eq!((large.slots(), own.slots()), (1 << 21, 1 << 17));
            assert_eq!(large.lines(), own.lines() * 16);
        }
        let lines = [Family::V4, Family::V6].map(|family| Table { family, connections: MANY }.lines());
        assert_eq!(lines, [1 << 16, 1 << 17]);
    }
}
