#!/bin/sh
# Turn this process into a command inside a private root; the pid stays the same.
#   LOWER=layer:base BINDS="dir dir" unshare --mount --propagation private sh sandbox.sh STATE command...
# Everything the command writes outside STATE goes to a tmpfs that vanishes with the last process of the namespace.
# Without LOWER the command runs in this machine's own root, with STATE/hosts for /etc/hosts.
set -eu
state=$1
shift
ulimit -c unlimited
if [ -z "$LOWER" ]; then
    [ ! -e "$state/hosts" ] || mount --bind "$state/hosts" /etc/hosts
    cd "$state"
    exec "$@"
fi
top=$state/.root
root=$top/root
mkdir -p "$top"
mount -t tmpfs -o mode=755 tmpfs "$top"
mkdir "$top/upper" "$top/work" "$root"
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$top/upper,workdir=$top/work" "$root"
mount --rbind /proc "$root/proc"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount --rbind /dev/pts "$root/dev/pts"
for name in null zero full random urandom tty; do
    : >"$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s "$state/devlog" "$root/dev/log"       # a link, not a mount: it survives a new socket of the log catcher
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -m 1777 "$root/run/lock"
for dir in "$state" $BINDS; do
    mkdir -p "$root$dir"
    mount --bind "$dir" "$root$dir"
done
for name in hosts services; do              # the base has neither
    [ ! -e "$state/$name" ] || cat "$state/$name" >"$root/etc/$name"
done
rm -f "$root/etc/resolv.conf"
: >"$root/etc/resolv.conf"                  # no test asks a name server
cd "$root"
pivot_root . mnt
umount -l /mnt
cd "$state"                                 # where a core would be
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 "$@"
