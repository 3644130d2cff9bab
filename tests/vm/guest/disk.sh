#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# disk.sh BUILDER DEPLOYED DEPLOYMENT FILES FS DISK SCRATCH: a raw disk image of the physical root, with FILES/* put into the
# directory DEPLOYMENT.
# It is sealed if FS is ext4.
set -eu
builder=$1 deployed=$2 deployment=$3 files=$4 fs=$5 disk=$6 scratch=$7
here=$(dirname "$(readlink -f "$0")")
# shellcheck disable=SC1091
. "$here/lib.sh"

# A copy, and no view: changing a file there would separate its hard links.
root=$scratch/root
cp -a --reflink=auto "$deployed/root" "$root"
cp -R --no-preserve=ownership "$files"/. "$root/$deployment"
used=$(cat "$deployed/mebibytes")

case $fs in
ext4)
    truncate -s "$((used * 5 / 4 + 96))M" "$disk"
    python3 -I "$here/seal.py" "$root" "$deployment" >"$scratch/commands"
    mke2fs -q -F -t ext4 -b 4096 -m 0 -J size=16 -O verity -d "$root" "$disk"
    debugfs -w -f "$scratch/commands" "$disk" >"$scratch/debugfs" 2>&1
    if grep -v '^debugfs' "$scratch/debugfs"; then  # its status does not tell
        exit 1
    fi
    ;;
btrfs)
    # The builder's mkfs.btrfs: older ones lose hard links.
    truncate -s "$((used * 3 / 2 + 256))M" "$disk"
    mkdir -p "$scratch/builder"
    overlay "$builder" "$scratch/builder"
    enter=$scratch/builder/merged
    api_mounts "$enter"
    mkdir "$enter/root-of-disk"
    mount --bind "$root" "$enter/root-of-disk"
    touch "$enter/disk"
    mount --bind "$disk" "$enter/disk"
    chroot "$enter" mkfs.btrfs -q -f --rootdir /root-of-disk /disk
    ;;
*)
    echo "disk.sh: unknown filesystem: $fs" >&2
    exit 1
    ;;
esac
