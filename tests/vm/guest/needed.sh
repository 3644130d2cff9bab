#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# needed.sh TREE PROGRAM OUT: copy a program of TREE, its libraries and its loader to OUT.
set -eu
tree=$1 program=$2 out=$3

mkdir "$out"
cp -L "$tree$program" "$out"
chroot "$tree" ldd "$program" | sed -n 's,^[^/]*\(/[^ ]*\) (0x.*,\1,p' | while read -r library; do
    cp -L "$tree$(chroot "$tree" readlink -f "$library")" "$out/${library##*/}"
done
