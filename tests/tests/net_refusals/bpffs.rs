//! No BPF file system, or not the usual one.

use super::desk::{Desk, one_line};
use anyhow::{Result, ensure};
use lb_tests::listing::TITLE;
use lb_tests::need;
use lb_tests::run::Said;
use std::process::Command;

/// Types lines in a mount namespace of their own, whose first process is the shell: no way out of it.
fn shut_in(desk: &Desk, lines: &str) -> Result<Said> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", lines]);
    command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", desk.programs().display()));
    desk.run(&mut command, b"")
}

pub fn no_bpf_file_system() -> Result<()> {
    need::network()?;
    need::program("unshare")?;
    let desk = Desk::with_rules()?;
    // Hidden, but seen by the first process.
    let rules = desk.rules()?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "umount /sys/fs/bpf && ipvsadm -Sn"]);
    command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", desk.programs().display()));
    ensure!(desk.run(&mut command, b"")?.ok()? == rules);
    // Nobody has one: it is mounted, and the table in it stays for the next command.
    let lines =
        "umount /sys/fs/bpf && ipvsadm -A -t 10.0.0.5:80 -s rr && ipvsadm -Ln && lb-user detach --purge";
    let listing = format!("{TITLE}TCP  10.0.0.5:80 rr\n");
    ensure!(shut_in(&desk, lines)?.ok()? == listing);
    // Nowhere to mount it.
    let lines = |line: &str| format!("mount -t tmpfs none /sys && {line}");
    let words = ["/sys/fs/bpf does not exist", "--bpffs"];
    for (line, status) in
        [("ipvsadm -Ln", 2), ("ipvsadm -C", 2), ("lb-user attach v0", 1), ("lb-user status", 1)]
    {
        let said = shut_in(&desk, &lines(line))?;
        ensure!(said.status == status, "{said:?}");
        one_line(&said, &words)?;
    }
    ensure!(desk.rules()? == rules && !desk.has_program("v0")?);
    Ok(())
}

pub fn read_only_bpf_file_system() -> Result<()> {
    need::network()?;
    need::program("unshare")?;
    let desk = Desk::with_rules()?;
    let rules = desk.rules()?;
    let lines = |line: &str| format!("mount -o remount,ro,bind /sys/fs/bpf && {line}");
    // Maps that are there can be read and written; what takes a new file cannot be done.
    ensure!(shut_in(&desk, &lines("ipvsadm -Sn"))?.ok()? == rules);
    let said = shut_in(&desk, &lines("lb-user attach v0"))?;
    ensure!(said.status == 1, "{said:?}");
    one_line(&said, &["Read-only file system", "/sys/fs/bpf/lb-user/"])?;
    ensure!(!desk.has_program("v0")? && desk.rules()? == rules);
    desk.ok("lb-user detach --purge")?;
    for (line, status) in [("ipvsadm -A -t 10.0.0.2:80", 255), ("lb-user attach v0", 1)] {
        let said = shut_in(&desk, &lines(line))?;
        ensure!(said.status == status, "{said:?}");
        one_line(&said, &["Read-only file system"])?;
    }
    ensure!(shut_in(&desk, &lines("ipvsadm -Ln"))?.ok()? == TITLE);
    ensure!(!desk.pins()?.exists());
    Ok(())
}

pub fn named_bpf_file_system() -> Result<()> {
    need::network()?;
    need::program("unshare")?;
    let desk = Desk::with_rules()?;
    let rules = desk.rules()?;
    let hint = "is not a BPF file system: mount one there with `mount -t bpf bpf /usr`";
    desk.fails("lb-user status --bpffs /usr", 1, &[hint])?;
    desk.fails("lb-user attach v0 --bpffs /usr", 1, &[hint])?;
    desk.fails("LB_USER_BPFFS=/usr lb-user detach --purge", 1, &[hint])?;
    desk.fails("LB_USER_BPFFS=/usr ipvsadm -Ln", 2, &["Can't initialize ipvs: ", hint])?;
    desk.fails("lb-user status --bpffs /no/such", 1, &["/no/such: no such directory"])?;
    desk.fails("lb-user status --bpffs /etc/passwd", 1, &["/etc/passwd: no such directory"])?;
    desk.fails("LB_USER_BPFFS=/no/such ipvsadm -C", 2, &["/no/such: no such directory"])?;
    ensure!(desk.ok("LB_USER_BPFFS= ipvsadm -Sn")? == rules);
    // Another one has another table; the option goes before the environment.
    let lines = "mount -t tmpfs none /mnt && mkdir /mnt/bpf && mount -t bpf bpf /mnt/bpf && export LB_USER_BPFFS=/mnt/bpf \
        && ipvsadm -A -t 10.0.0.7:80 -s rr && ipvsadm -Sn && ls -d /mnt/bpf/lb* && lb-user status --bpffs /sys/fs/bpf | grep -o 'pins in /sys/fs/bpf'";
    let said = shut_in(&desk, lines)?.ok()?;
    ensure!(said == "-A -t 10.0.0.7:80 -s rr\n/mnt/bpf/lb-user\npins in /sys/fs/bpf\n", "{said}");
    ensure!(desk.rules()? == rules);
    Ok(())
}
