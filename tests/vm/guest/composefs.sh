#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# composefs.sh BUILDER TREE OUT SCRATCH ALGORITHM INITRD NAME...: make a physical root as bootc and composefs-rs lay it out, with
# one image for each NAME, which is in its usr/share/bootseal-test/name.
# OUT gets root/ (the physical root), mebibytes, and for each name NAME.cfs and NAME.digest (in hexadecimal).
set -eu
builder=$1 tree=$2 out=$3 scratch=$4 algorithm=$5 initrd=$6
shift 6
here=$(dirname "$(readlink -f "$0")")
# shellcheck disable=SC1091
. "$here/lib.sh"
# shellcheck disable=SC1091
. "$here/repository.sh"

root=$out/root
builder_and_tree "$builder" "$tree" "$scratch"
enter=$scratch/builder/merged
os=$scratch/tree/merged
(bootc_layout "$os")
mkdir -p "$os/usr/share/bootseal-test"
new_repository "$root" "$algorithm" "$os"
composefs_builder "$enter" "$root"
number=0
for name in "$@"; do
    echo "$name" >"$os/usr/share/bootseal-test/name"
    if [ "$algorithm" = sha256 ]; then
        image_of_tree "$os" "$enter" "$out/$name.cfs"
    else
        sha512_image_of_tree "$os" "$root/composefs/objects" "$out/$name.cfs" "$scratch/mirror"
    fi
    digest=$(add_image "$root" "$algorithm" "$out/$name.cfs")
    add_state "$root" "$algorithm" "$digest" "$os" "$name" "$number" "$initrd"
    echo "$digest" >"$out/$name.digest"
    number=$((number + 1))
done
du -sm "$root" | cut -f 1 >"$out/mebibytes"
