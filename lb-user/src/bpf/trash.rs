//! What becomes of a deleted dest. As in IPVS it stays in the trash while connections name it, and for two to three
//! minutes after: a scan every sixty seconds, from the first deletion into an empty trash on, notes that nobody names
//! it, and the first scan at least 120 seconds later throws it away. No process need run for that: whoever changes
//! something next works out what the scans would have done.

/// Seconds between scans.
const SCAN: u32 = 60;
/// Seconds from the scan that found it idle to the one that throws it away, at the least.
const PERIOD: u32 = 120;

/// When a dest idle since `idle` is thrown away, where scans started at `origin`.
pub const fn thrown_at(origin: u32, idle: u32) -> u32 {
    let late = idle.saturating_sub(origin);
    // A scan at the very second finds it, but the first is one period after the start.
    let scans = if late == 0 { 1 } else { late.div_ceil(SCAN) };
    origin.saturating_add(scans.saturating_mul(SCAN)).saturating_add(PERIOD)
}

#[cfg(test)]
mod tests {
    use super::thrown_at;

    #[test]
    fn scans() {
        // Idle when deleted, empty trash: found at 60, gone at 180.
        assert_eq!(thrown_at(1000, 1000), 1180);
        assert_eq!(thrown_at(1000, 1059), 1180);
        assert_eq!(thrown_at(1000, 1060), 1180);
        // Deleted while the scans are on.
        assert_eq!(thrown_at(1000, 1061), 1240);
        // Its last connection went long after.
        assert_eq!(thrown_at(1000, 2000), 1000 + 1020 + 120);
    }
}
