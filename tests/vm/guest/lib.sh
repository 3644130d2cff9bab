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

# ostree_layout TREE: the layout of an ostree operating system but for /etc: state in /var, the kernel beside its modules.
ostree_layout() {
    cd "$1" || return
    kernel=$(ls usr/lib/modules)
    test -f "usr/lib/modules/$kernel/vmlinuz" || cp -L "boot/vmlinuz-$kernel" "usr/lib/modules/$kernel/vmlinuz"
    rm -rf boot home root opt srv mnt media var tmp run dev proc sys vmlinuz* initrd.img*
    (cd "usr/lib/modules/$kernel/kernel" && rm -rf sound net drivers/net drivers/gpu drivers/scsi drivers/ata drivers/infiniband)
    chroot . depmod "$kernel"
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
