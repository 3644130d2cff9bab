#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# disk.sh BUILDER DEPLOYED FILES FS DISK SCRATCH: a raw disk image of the physical root, with FILES/* put beside the image.
set -eu
builder=$1 deployed=$2 files=$3 fs=$4 disk=$5 scratch=$6
here=$(dirname "$(readlink -f "$0")")
# shellcheck disable=SC1091
. "$here/lib.sh"

mkdir -p "$scratch/root"
overlay "$deployed/root" "$scratch/root"
root=$scratch/root/merged
cp -R --no-preserve=ownership "$files"/. "$root/$(cat "$deployed/deployment")"
used=$(cat "$deployed/mebibytes")

case $fs in
ext4)
    truncate -s "$((used * 5 / 4 + 96))M" "$disk"
    mke2fs -q -F -t ext4 -b 4096 -m 0 -J size=16 -O verity -d "$root" "$disk"
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
