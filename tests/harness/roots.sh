#!/bin/sh
# Build a base or a layer of a private root.  Called by roots.py in a mount namespace of its own, never by hand.
#   base   debootstrap $SUITE from $MIRROR                    -> $WORK/root
#   layer  apt-get install $PACKAGES in an overlay on $BASE   -> $WORK/root (the upper directory)
set -eu

# What tells where the files came from does not stay in a root: names of mirrors, proxies, logs of downloads.
forget() {
    rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin "$1"/var/cache/apt/archives/*.deb "$1"/var/log/bootstrap.log \
        "$1"/var/log/apt "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/etc/apt/apt.conf.d/99host \
        "$1"/run/host-certificates.crt "$1"/etc/resolv.conf "$1"/etc/hosts "$1"/etc/hostname
}

base() {
    debootstrap --variant=minbase "$SUITE" "$WORK/root" "$MIRROR"
    for group in $GROUPS_; do chroot "$WORK/root" groupadd -r -g "${group#*:}" "${group%%:*}"; done
    for user in $USERS; do
        ids=${user#*:}
        chroot "$WORK/root" useradd -r -u "${ids%:*}" -g "${ids#*:}" -M -d "/var/lib/${user%%:*}" -s /bin/sh "${user%%:*}"
    done
    printf '#!/bin/sh\nexit 101\n' >"$WORK/root/usr/sbin/policy-rc.d"     # no package may start its daemon
    chmod 755 "$WORK/root/usr/sbin/policy-rc.d"
    printf 'path-exclude=/usr/share/%s/*\n' doc man locale info >"$WORK/root/etc/dpkg/dpkg.cfg.d/small"
    printf 'force-unsafe-io\n' >>"$WORK/root/etc/dpkg/dpkg.cfg.d/small"
    rm -rf "$WORK"/root/usr/share/man/* "$WORK"/root/usr/share/locale/*
    forget "$WORK/root"
}

layer() {
    tree=$WORK/mount
    mkdir -p "$WORK/root" "$WORK/work" "$tree" "$WORK/lists/partial" "$WORK/archives/partial"
    # The layer is used as a lower directory on other kernels too: no feature that ties it to this mount.
    mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$WORK/root,workdir=$WORK/work,redirect_dir=off,metacopy=off,index=off" "$tree" || {
        echo "no overlay is possible in $WORK: CYREXT_ROOTS must name a directory on ext4, xfs, btrfs or tmpfs" >&2
        exit 1
    }
    mount --rbind /proc "$tree/proc"
    mount --bind "$WORK/lists" "$tree/var/lib/apt/lists"
    mount --bind "$WORK/archives" "$tree/var/cache/apt/archives"
    printf 'deb %s %s main\n' "$MIRROR" "$SUITE" "$MIRROR" "$SUITE-updates" >"$tree/etc/apt/sources.list"
    [ -z "$SECURITY" ] || printf 'deb %s %s-security main\n' "$SECURITY" "$SUITE" >>"$tree/etc/apt/sources.list"
    cp "$WORK/apt.conf" "$tree/etc/apt/apt.conf.d/99host"
    cp /etc/ssl/certs/ca-certificates.crt "$tree/run/host-certificates.crt" 2>/dev/null || : >"$tree/run/host-certificates.crt"
    cat /etc/resolv.conf >"$tree/etc/resolv.conf"
    cat /etc/hosts >"$tree/etc/hosts"
    export DEBIAN_FRONTEND=noninteractive LC_ALL=C
    printf 'postfix postfix/main_mailer_type select No configuration\n' | chroot "$tree" debconf-set-selections
    chroot "$tree" apt-get -q update
    # shellcheck disable=SC2086 # a list of packages
    chroot "$tree" apt-get -qy --no-install-recommends install $PACKAGES
    umount "$tree/var/lib/apt/lists" "$tree/var/cache/apt/archives"
    umount -l "$tree/proc"
    forget "$tree"
    umount "$tree"
}

"$1"
