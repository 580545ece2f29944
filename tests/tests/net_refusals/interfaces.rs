//! attach and detach: interfaces that are not there, are down, or cannot; options that make no sense.

use super::desk::Desk;
use anyhow::{Result, ensure};
use lb_tests::need;
use lb_tests::net::xdp_pass;

pub fn wrong_interfaces() -> Result<()> {
    need::network()?;
    let desk = Desk::with_rules()?;
    let before = (desk.rules()?, desk.pinned()?);
    desk.netns.ip("tuntap add tun0 mode tun\nlink add down0 type veth peer name down1")?;
    desk.fails("lb-user attach nope", 1, &["nope: no such interface", "there are: ", "v0"])?;
    desk.fails("lb-user attach lo", 1, &["lo is the loopback interface"])?;
    desk.fails("lb-user attach tun0", 1, &["tun0 does not carry Ethernet frames"])?;
    desk.fails("lb-user attach ''", 1, &["no such interface"])?;
    desk.fails("lb-user attach a-name-longer-than-any-card-has", 1, &["no such interface"])?;
    ensure!((desk.rules()?, desk.pinned()?) == before, "something is left: {:?}", desk.pinned()?);
    let said = desk.ok("lb-user attach down0")?;
    ensure!(said.contains("down0: attached, native mode; it is down"), "{said}");
    ensure!(desk.ok("lb-user status")?.contains("down0: native mode, down"));
    let said = desk.ok("ip link add br0 type bridge && lb-user attach br0")?;
    ensure!(said.contains("br0: attached, generic mode") && said.contains("the driver has no XDP"), "{said}");
    desk.ok("lb-user detach br0")?;
    desk.fails(
        "lb-user attach br0 --mode native",
        1,
        &["br0: native mode does not work", "the driver has no XDP"],
    )?;
    ensure!(!desk.has_program("br0")? && desk.rules()? == before.0);
    Ok(())
}

pub fn wrong_options_of_attach() -> Result<()> {
    need::network()?;
    let desk = Desk::new()?;
    for (line, words) in [
        ("lb-user attach", "<IFACE>"),
        ("lb-user attach v0 --mode fast", "auto, native, generic"),
        ("lb-user attach v0 --mode", "--mode"),
        ("lb-user attach v0 --connections 0", "0 is not in 1.."),
        ("lb-user attach v0 --connections -1", "-1"),
        ("lb-user attach v0 --connections many", "many"),
        ("lb-user attach v0 --connections 1e6", "1e6"),
        ("lb-user attach v0 --connections 4294967296", "4294967296"),
        ("lb-user attach v0 --connections ''", "--connections"),
        ("lb-user attach v0 --fast", "--fast"),
        ("lb-user atach v0", "attach"),
        ("lb-user detach --all", "--all"),
        ("lb-user status v0", "v0"),
    ] {
        let said = desk.types(line)?;
        ensure!(
            said.status == 2 && said.stdout.is_empty() && said.stderr.contains(words),
            "{line}: {said:?}"
        );
    }
    // More than any machine of these days has.
    desk.fails("lb-user attach v0 --connections 4294967295", 1, &["MiB of memory", "ask for fewer"])?;
    ensure!(!desk.has_program("v0")? && !desk.pins()?.exists(), "something is left");
    desk.ok("lb-user attach v0 --connections 1")?;
    ensure!(desk.ok("lb-user help")?.contains("lb-user attach"));
    Ok(())
}

pub fn one_bad_interface_of_two() -> Result<()> {
    need::network()?;
    let desk = Desk::with_rules()?;
    desk.netns.ip("link add w0 type veth peer name w1\nlink set w0 up\nlink set w1 up")?;
    desk.netns.enter(|| xdp_pass::attach("w0"))??;
    let before = desk.pinned()?;
    desk.fails("lb-user attach v0 nope", 1, &["nope"])?;
    desk.fails("lb-user attach v0 w0", 1, &["w0: another XDP program"])?;
    desk.fails("lb-user attach w0 v0", 1, &["w0: another XDP program"])?;
    ensure!(!desk.has_program("v0")?, "the good one is still attached");
    ensure!(desk.pinned()? == before, "left: {:?}", desk.pinned()?);
    ensure!(desk.ok("lb-user status")?.starts_with("Not attached to any interface\n"));
    // Found out only when it is tried: what was done before is undone.
    desk.netns.ip("link add br0 type bridge")?;
    desk.ok("lb-user attach v0 --mode generic")?;
    desk.fails("lb-user attach v0 v1 br0 --mode native", 1, &["br0: native mode does not work"])?;
    let status = desk.ok("lb-user status")?;
    ensure!(status.starts_with("v0: generic mode") && !status.contains("v1"), "{status}");
    ensure!(desk.has_program("v0")? && !desk.has_program("v1")? && !desk.has_program("br0")?);
    Ok(())
}

pub fn another_program_on_the_card() -> Result<()> {
    need::network()?;
    let desk = Desk::with_rules()?;
    desk.netns.enter(|| xdp_pass::attach("v0"))??;
    let theirs = desk.ok("ip -d link show v0 | grep prog/xdp")?;
    for mode in ["auto", "native", "generic"] {
        let line = format!("lb-user attach v0 --mode {mode}");
        desk.fails(
            &line,
            1,
            &["v0: another XDP program is attached to it (id ", "ip link set dev v0 xdp off"],
        )?;
    }
    ensure!(
        desk.ok("ip -d link show v0 | grep prog/xdp")? == theirs,
        "their program is no longer what it was"
    );
    desk.fails("lb-user detach v0", 1, &["v0: not attached"])?;
    desk.ok("lb-user detach")?;
    ensure!(desk.ok("ip -d link show v0 | grep prog/xdp")? == theirs, "detach took off what is not ours");
    desk.ok("ip link set dev v0 xdp off\nlb-user attach v0")?;
    // Of our own two as well a card has one.
    let words = ["v0: the balancer is attached to it", "`lb-user detach v0` takes it off"];
    desk.fails("lb-user realserver v0", 1, &words)?;
    desk.ok("lb-user detach v0\nlb-user realserver v0")?;
    desk.fails(
        "lb-user attach v0",
        1,
        &["v0: the program for real servers", "`lb-user realserver --detach v0`"],
    )?;
    desk.ok("lb-user realserver --detach v0\nlb-user attach v0")?;
    Ok(())
}

pub fn detaching_what_is_not_attached() -> Result<()> {
    need::network()?;
    let desk = Desk::new()?;
    ensure!(desk.ok("lb-user status")?.starts_with("Not attached to any interface\n"));
    ensure!(desk.ok("lb-user status --json")?.contains("\"interfaces\": []"));
    desk.quiet("lb-user detach\nlb-user detach --purge\nlb-user realserver --detach")?;
    desk.fails("lb-user detach v0", 1, &["v0: not attached"])?;
    desk.fails("lb-user detach nope", 1, &["nope: not attached"])?;
    ensure!(!desk.pins()?.exists(), "looking and detaching should make nothing");
    desk.ok("lb-user attach v0")?;
    desk.fails("lb-user detach v0 v1", 1, &["v1: not attached"])?;
    ensure!(desk.has_program("v0")?, "a refused detach detached");
    desk.ok("lb-user attach v1")?;
    desk.fails("lb-user detach v0 --purge", 1, &["--purge"])?;
    ensure!(desk.has_program("v0")?, "a refused purge detached");
    // A card that is gone.
    desk.ok("ip link del v0")?;
    ensure!(desk.ok("lb-user status")?.contains("v0: not running"));
    desk.ok("lb-user detach")?;
    Ok(())
}

pub fn connections_are_fixed_while_attached() -> Result<()> {
    need::network()?;
    let desk = Desk::with_rules()?;
    let before = desk.rules()?;
    desk.ok("lb-user attach v0 --connections 20000")?;
    let attached = desk.ok("ip -d link show v0 | grep prog/xdp")?;
    desk.fails("lb-user attach v0 --connections 100000", 1, &["room for 32768 connections", "detach first"])?;
    ensure!(
        desk.ok("ip -d link show v0 | grep prog/xdp")? == attached,
        "a refused attach changed the program"
    );
    desk.ok("lb-user detach\nlb-user attach v0 --connections 100000")?;
    ensure!(desk.ok("lb-user status")?.contains("in 262144 slots"), "{}", desk.ok("lb-user status")?);
    ensure!(desk.rules()? == before);
    Ok(())
}

pub fn jumbo_frames() -> Result<()> {
    need::network()?;
    let desk = Desk::new()?;
    desk.netns.ip("link add w0 type veth peer name w1\nlink set w0 up\nlink set w1 up")?;
    for (card, mtu) in [("v0", 9000), ("v1", 9000), ("w0", 65_535), ("w1", 65_535)] {
        desk.netns.ip(&format!("link set {card} mtu {mtu}"))?;
    }
    let said = desk.ok("lb-user attach v0 w0")?;
    ensure!(said == "v0: attached, native mode\nw0: attached, native mode\n", "{said}");
    Ok(())
}
