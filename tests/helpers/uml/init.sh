#!/bin/busybox sh
# The first process inside User-Mode Linux. It puts a writable overlay over the host's files,
# runs the shell script `command` that lies beside it, prints what that printed and its exit
# status between two lines that begin with "uml:", and powers off. (The kernel's own exit status
# says nothing of the command's.) All by busybox, one static file: a fork costs 10 to 45 times
# what it does outside.

bb=/bin/busybox
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8

give_up() {
    echo "init: $1"
    $bb poweroff -f
}

$bb mount -t proc proc /proc || give_up "no /proc"
modules=/usr/lib/uml/modules/$($bb uname -r)
$bb insmod "$modules/kernel/fs/overlayfs/overlay.ko" || give_up "no overlayfs"
# Any empty folder would do.
$bb mount -t tmpfs tmpfs /mnt && cd /mnt && $bb mkdir upper work root || give_up "no tmpfs"
$bb mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root || give_up "no overlay"
cd root || give_up "no root"
# Where modprobe looks; the package puts them elsewhere, for the host runs another kernel.
$bb mkdir -p lib/modules && $bb ln -s "$modules" lib/modules/ || give_up "no modules"
for mount in proc:proc sysfs:sys devtmpfs:dev devpts:dev/pts tmpfs:dev/shm tmpfs:run \
    cgroup2:sys/fs/cgroup; do
    type=${mount%:*} place=${mount#*:}
    $bb mkdir -p "$place" && $bb mount -t "$type" "$type" "$place" || give_up "no $place"
done
# Not chroot: the kernel starts modprobe in the root of this namespace, and would find no modules.
$bb mkdir -p outside && $bb pivot_root . outside && cd / || give_up "no pivot"
$bb umount -l outside
modprobe ipv6 # which hosts have from the start, and nothing here would ask for
$bb ip link set lo up

echo "uml: begin"
# By its full name, else busybox takes its own shell, which takes its own `tc` and `ip`.
/bin/sh "${0%/*}/command" </dev/null 2>&1
echo "uml: exit $?"
$bb poweroff -f
