#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# readme.sh BUILDER TREE OUT SCRATCH FILES COMMANDS DEB...: run the README's commands where its names in capitals exist. FILES/* are
# put into TREE before. The kernel is this machine's, the programs are the builder's and those of the packages.
# OUT gets root/ (the physical root), initrd, and, as deploy.sh makes them, image.cfs, deployment, karg, mebibytes.
set -eu
builder=$1 tree=$2 out=$3 scratch=$4 files=$5 commands=$6
shift 6
here=$(dirname "$(readlink -f "$0")")
# shellcheck disable=SC1091
. "$here/lib.sh"

mkdir -p "$out/root"
builder_and_tree "$builder" "$tree" "$scratch"
enter=$scratch/builder/merged
(ostree_layout "$scratch/tree/merged")
cp -R --no-preserve=ownership "$files"/. "$scratch/tree/merged"
rm -f "$scratch"/tree/merged/etc/dracut.conf.d/ostree.conf "$scratch"/tree/merged/usr/lib/dracut/dracut.conf.d/ostree.conf
mkdir -p "$enter/build/TREE" "$enter/build/SYSROOT" "$enter/debs"
cp "$@" "$enter/debs"
cp "$commands" "$enter/build/commands"
mount --bind "$scratch/tree/merged" "$enter/build/TREE"
mount --bind "$out/root" "$enter/build/SYSROOT"
api_mounts "$enter"
mount -t tmpfs tmpfs "$enter/run"
chroot "$enter" sh -c 'dpkg --install /debs/*.deb' >"$out/dpkg"
chroot "$enter" sh -eu <<'END'
cd /build
for repo in REPO PUBLIC; do
    ostree init --mode=archive --repo=$repo
done
ostree admin init-fs --modern SYSROOT
ostree admin stateroot-init --sysroot=SYSROOT STATEROOT
ostree config --repo=SYSROOT/ostree/repo set sysroot.bootloader none
END
# What the first command needs, for that command alone, because the second commits TREE.
cat >"$enter/build/needs" <<'END'
chroot() {
    for name in dev proc sys; do
        mount --rbind /$name "$1/$name"
    done
    mount -t tmpfs tmpfs "$1/tmp"
    mount -t tmpfs tmpfs "$1/var"
    mkdir "$1/var/tmp"
    status=0
    command chroot "$@" || status=$?
    umount -R "$1/dev" "$1/proc" "$1/sys" "$1/tmp" "$1/var"
    return $status
}
VERSION=$(ls TREE/usr/lib/modules)
END
status=0
chroot "$enter" sh -c 'cd /build && . ./needs && . ./commands' >"$out/output" 2>&1 || status=$?
cat "$out/output"
test $status -eq 0

cp "$enter"/build/TREE/usr/lib/modules/*/initramfs.img "$out/initrd"
describe_deployment STATEROOT "$out"
