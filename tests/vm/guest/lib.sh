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
