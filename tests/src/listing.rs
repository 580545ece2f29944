//! ipvsadm's listings, written out independently of the program under test.

use std::fmt::Display;

/// The two lines above every default listing.
pub const TITLE: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
";

/// A default listing as written in a lab. `·` stands for a blank at the end of a line.
pub fn exact(rows: &str) -> String {
    format!("{TITLE}{}", rows.replace('·', " "))
}

/// A dest's row in the default listing.
pub fn dest(address: impl Display, method: &str, weight: u32, active: u32, inactive: u32) -> String {
    let address = address.to_string();
    format!("  -> {address:<28} {method:<7} {weight:<6} {active:<10} {inactive:<10}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_as_the_reference_has_them() {
        assert_eq!(
            dest("192.168.5.1:80", "Route", 1, 3, 7),
            "  -> 192.168.5.1:80               Route   1      3          7         \n"
        );
        assert_eq!(
            dest("[2001:db8:1111:2222:3333:4444:5555:6666]:80", "Masq", 1, 3, 7),
            "  -> [2001:db8:1111:2222:3333:4444:5555:6666]:80 Masq    1      3          7         \n"
        );
    }
}
