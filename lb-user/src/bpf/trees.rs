//! Trees of lc, wlc, sed and nq, as far as the control side has to do with them: it writes them with the lists, tells the
//! dests where their records are once the service names the new tree, and opens it then.

use lb_common::sched::tree::{self, CLOSED, OPEN};
use lb_common::tables::refresh;

use super::pins::Rules;
use super::table::Row;

/// The dests of a published service learn their records, and its tree is opened. What is right already is left alone.
pub fn plant(rules: &Rules, row: &Row) {
    let count = row.list.len();
    let has_tree = tree::len(row.scheduler(), count) != 0;
    for (slot, place) in row.list.iter().zip(0..) {
        if let Some(dest) = rules.dests.get(*slot) {
            let record = if has_tree { tree::record(row.value.table, count as u32, place) } else { 0 };
            refresh(&dest.record, record);
        }
    }
    if has_tree && let Some(lock) = rules.lists.get(row.value.table) {
        // Only from closed: a pick may hold it.
        lock.compare_exchange(CLOSED, OPEN);
    }
}
