#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# updates.sh BUILDER DEPLOYED INITRD OUT SCRATCH BRANCH...: make OUT/repo for a web server, see harness/updates.py. A branch whose
# name comes with a "-" before it has a small tree: judged like any other, it never boots.
set -eu
builder=$1 deployed=$2 initrd=$3 out=$4 scratch=$5
shift 5
here=$(dirname "$(readlink -f "$0")")
# shellcheck disable=SC1091
. "$here/lib.sh"

mkdir -p "$scratch/builder" "$out/repo"
overlay "$builder" "$scratch/builder"
enter=$scratch/builder/merged
api_mounts "$enter"
mkdir "$enter/deployed" "$enter/repo" "$enter/more"
mount --bind "$deployed/root" "$enter/deployed"
mount --bind "$out/repo" "$enter/repo"

ostree() { chroot "$enter" ostree --repo=/repo "$@"; }
ostree init --mode=archive
ostree pull-local /deployed/ostree/repo guest
kernel=$(ostree ls guest /usr/lib/modules | sed -n 's,.* /usr/lib/modules/,,p')
modules=usr/lib/modules/$kernel
mkdir -p "$enter/more/$modules" "$enter/more/usr/share/bootseal-test"
cp "$initrd" "$enter/more/$modules/initramfs.img"
cp -R "$enter/more" "$enter/small"
(
    cd "$enter/small"
    mkdir -p boot var tmp run dev proc sys sysroot usr/etc usr/lib/systemd
    ln -s sysroot/ostree ostree
    for file in "$modules/vmlinuz" usr/lib/os-release; do
        ostree cat guest "/$file" >"$file"
    done
    echo "no program" >usr/lib/systemd/systemd
)
for branch in "$@"; do
    set -- --tree=ref=guest --tree=dir=/more
    test "$branch" = "${branch#-}" || set -- --tree=dir=/small
    branch=${branch#-}
    echo "$branch" | tee "$enter/more/usr/share/bootseal-test/update" >"$enter/small/usr/share/bootseal-test/update"
    ostree commit --branch="$branch" --generate-composefs-metadata --owner-uid=0 --owner-gid=0 "$@"
done
