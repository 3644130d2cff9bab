#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# dracut.sh TREE FILES OUT SCRATCH ARGUMENT...: run dracut in a throw-away view of TREE with FILES/* added.
set -eu
tree=$1 files=$2 out=$3 scratch=$4
shift 4
here=$(dirname "$(readlink -f "$0")")
# shellcheck disable=SC1091
. "$here/lib.sh"

mkdir -p "$scratch/tree"
overlay "$tree" "$scratch/tree"
enter=$scratch/tree/merged
# The package ostree-boot switches its module on for every initrd: here each caller says which module it wants.
rm -f "$enter"/etc/dracut.conf.d/ostree.conf "$enter"/usr/lib/dracut/dracut.conf.d/ostree.conf
cp -R --no-preserve=ownership "$files"/. "$enter"
api_mounts "$enter"
mount -t tmpfs tmpfs "$enter/tmp"
mount -t tmpfs tmpfs "$enter/run"
chroot "$enter" dracut --force --kver "$(ls "$enter/usr/lib/modules")" "$@" /tmp/initrd
cat "$enter/tmp/initrd" >"$out"
