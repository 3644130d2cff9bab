# shellcheck shell=sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by the scripts beside it, which run as root or in a user namespace, always in a mount namespace of their own.

# overlay LOWER SCRATCH: a throw-away view of LOWER at SCRATCH/merged.
overlay() {
    mkdir -p "$2/upper" "$2/work" "$2/merged"
    options=lowerdir=$1,upperdir=$2/upper,workdir=$2/work
    # A user namespace can't write trusted.* attributes: without this option the mount succeeds, and removing fails.
    grep -q ' 4294967295$' /proc/self/uid_map || options=$options,userxattr
    mount -t overlay -o "$options" overlay "$2/merged"
}

# api_mounts TREE: what programs in a chroot expect to find.
api_mounts() {
    mkdir -p "$1/dev" "$1/proc" "$1/sys"
    mount --rbind /dev "$1/dev"
    mount --rbind /proc "$1/proc"
    mount --rbind /sys "$1/sys"
}

# quiet_guest TREE: no first boot: a machine identity, no password, no job that only matters on a real machine.
quiet_guest() (
    cd "$1" || return
    echo 0123456789abcdef0123456789abcdef >etc/machine-id
    echo guest >etc/hostname
    : >etc/fstab
    sed -i 's,^root:[^:]*:,root::,' etc/shadow
    for unit in dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-tmpfiles-clean.timer e2scrub_reap.service \
        systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service networking.service \
        getty.target systemd-logind.service systemd-logind-varlink.socket systemd-user-sessions.service \
        systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-pstore.service systemd-random-seed.service \
        systemd-udev-load-credentials.service systemd-ask-password-wall.path \
        systemd-sysctl.service systemd-modules-load.service kmod-static-nodes.service systemd-journal-flush.service \
        systemd-tmpfiles-setup-dev-early.service systemd-tmpfiles-setup-dev.service systemd-hibernate-clear.service \
        systemd-ask-password-console.path systemd-ask-password.socket systemd-creds.socket systemd-cryptenroll.socket \
        systemd-factory-reset.socket systemd-hostnamed.socket systemd-journalctl.socket systemd-mute-console.socket \
        systemd-sysext.socket systemd-sysinstall.socket \
        dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount \
        sys-kernel-tracing.mount; do
        ln -sf /dev/null "etc/systemd/system/$unit"
    done
    # Each runs twice a boot, to find nothing. The initrd has its own.
    mkdir -p etc/systemd/system-generators
    for generator in clonesetup cryptsetup debug factory-reset gpt-auto hibernate-resume integritysetup run ssh system-update \
        veritysetup tpm2 bless-boot; do
        ln -sf /dev/null "etc/systemd/system-generators/systemd-$generator-generator"
    done
)

# said NAME COMMAND...: run a command in the view that is the working directory. $out/NAME gets what it says, and its status in a
# last line.
said() {
    name=$1
    shift
    status=0
    # shellcheck disable=SC2154  # the caller's
    chroot . "$@" >"$out/$name" 2>&1 || status=$?
    echo "status $status" >>"$out/$name"
}

# describe_deployment STATEROOT OUT: write deployment, karg, image.cfs and mebibytes of the physical root OUT/root.
describe_deployment() {
    cd "$2/root" || return
    deployment=$(echo ostree/deploy/"$1"/deploy/*.0)
    chattr -i "$deployment" || :
    echo "$deployment" >"$2/deployment"
    sed -n 's/^options .*ostree=\([^ ]*\).*/\1/p; s/^options ostree=\([^ ]*\).*/\1/p' boot/loader/entries/*.conf |
        head -n 1 >"$2/karg"
    cp "$deployment/.ostree.cfs" "$2/image.cfs"
    du -sm . | cut -f 1 >"$2/mebibytes"
}

# builder_and_tree BUILDER TREE SCRATCH: views of both, at SCRATCH/builder/merged and SCRATCH/tree/merged.
builder_and_tree() {
    mkdir -p "$3/builder" "$3/tree"
    overlay "$1" "$3/builder"
    overlay "$2" "$3/tree"
}

# bootc_layout TREE: the layout of a bootc image, whose /boot and /sysroot are empty.
bootc_layout() {
    ostree_layout "$1" || return
    rm ostree
}

# ostree_layout TREE: the layout of an ostree operating system but for /etc: state in /var, the kernel beside its modules.
ostree_layout() {
    cd "$1" || return
    kernel=$(ls usr/lib/modules)
    test -f "usr/lib/modules/$kernel/vmlinuz" || cp -L "boot/vmlinuz-$kernel" "usr/lib/modules/$kernel/vmlinuz"
    rm -rf boot home root opt srv mnt media var tmp run dev proc sys vmlinuz* initrd.img*
    (cd "usr/lib/modules/$kernel/kernel" && rm -rf sound net drivers/net drivers/gpu drivers/scsi drivers/ata drivers/infiniband)
    chroot . depmod "$kernel"
    # A quarter of all files. A guest that deploys takes milliseconds for each.
    rm -rf usr/share/zoneinfo usr/share/perl5 usr/lib/*/perl-base usr/lib/*/gconv usr/share/bash-completion
    mkdir boot var tmp run dev proc sys sysroot
    chmod 1777 tmp
    ln -s sysroot/ostree ostree
    ln -s var/home home
    ln -s var/roothome root
    ln -s var/opt opt
    ln -s var/srv srv
    ln -s var/mnt mnt
    ln -s run/media media
    printf 'd /var/%s 0755 root root -\n' home opt srv mnt >usr/lib/tmpfiles.d/guest.conf
    printf 'd /var/roothome 0700 root root -\n' >>usr/lib/tmpfiles.d/guest.conf
}
