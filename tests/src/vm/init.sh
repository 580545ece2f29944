#!/bin/busybox sh
# The guest's first process: file systems, modules, the script, its results, power off. With systemd aboard that is the
# first process from the script on, and starts this file once more, as its unit script.service.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/busybox HOME=/root LC_ALL=C
if [ $$ = 1 ]; then
    /bin/busybox mkdir -p /busybox
    /bin/busybox --install -s /busybox
    # What a person's own path has to have; a program of the same name that is there already stays.
    /bin/busybox --install -s /usr/bin 2> /dev/null
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mount -t devtmpfs dev /dev
    mkdir -p /dev/pts /dev/shm
    mount -t tmpfs tmp /tmp
    mount -t tmpfs run /run
    mount -t bpf bpf /sys/fs/bpf
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    ln -s /proc/self/fd /dev/fd
    while read -r module; do insmod "/modules/$module" || echo "init: no module $module"; done < /modules/order
    # Of loaded modules modprobe asks for no more.
    mkdir -p "/lib/modules/$(uname -r)"
    # Elsewhere a capability of the file's lets everybody ping; the archive carries none.
    [ ! -e /usr/bin/ping ] || chmod u+s /usr/bin/ping
    # Tunnel devices are made by whoever wants one.
    echo 2 > /proc/sys/net/core/fb_tunnels_only_for_init_net
    ip link set lo up
    cat /proc/uptime > /out/.uptime
    [ ! -x /usr/lib/systemd/systemd ] || exec /usr/lib/systemd/systemd
fi
cd /tmp || exit
timeout "$(cat /limit)" sh /script > /out/.stdout 2> /out/.stderr < /dev/null
echo $? > /out/.status
[ "$(cat /out/.status)" = 0 ] || tail -n 15 /out/.stdout /out/.stderr
port=/dev/$(cd /sys/class/virtio-ports && for p in *; do [ "$(cat "$p/name")" = out ] && echo "$p"; done)
tar -cf "$port" -C /out .
sync
poweroff -f
