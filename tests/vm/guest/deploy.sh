#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# deploy.sh BUILDER TREE OUT SCRATCH: commit TREE and deploy it with the ostree of BUILDER, on a directory instead of a disk.
# OUT gets root/ (the physical root), image.cfs, deployment, karg, objects.
set -eu
builder=$1 tree=$2 out=$3 scratch=$4
here=$(dirname "$(readlink -f "$0")")
# shellcheck disable=SC1091
. "$here/lib.sh"

mkdir -p "$out/root"
builder_and_tree "$builder" "$tree" "$scratch"
enter=$scratch/builder/merged
(
    ostree_layout "$scratch/tree/merged"
    mv etc usr/etc
    mkdir -p usr/lib/ostree
    printf '[composefs]\nenabled=verity\n' >usr/lib/ostree/prepare-root.conf
)
api_mounts "$enter"
mkdir "$enter/tree" "$enter/target"
mount --bind "$scratch/tree/merged" "$enter/tree"
mount --bind "$out/root" "$enter/target"

ostree() { chroot "$enter" ostree "$@"; }
repo=--repo=/target/ostree/repo
ostree admin init-fs --modern /target
ostree admin stateroot-init --sysroot=/target guest
ostree config "$repo" set sysroot.bootloader none
ostree config "$repo" set ex-integrity.composefs true
ostree config "$repo" set ex-integrity.fsverity maybe
ostree commit "$repo" --branch=guest --generate-composefs-metadata --tree=dir=/tree
ostree admin deploy --sysroot=/target --os=guest guest
ostree config "$repo" set ex-integrity.fsverity yes

ostree ls "$repo" -R -C guest >"$out/objects"
describe_deployment guest "$out"
