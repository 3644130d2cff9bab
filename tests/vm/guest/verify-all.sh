#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# In the guest of the benchmark: the time of `verify --all` with ten deployments, by hard links, and a boot entry for each;
# first with an initrd for each, then with one for all. The disks `target` and `initrd` are the guest's.
set -e

mkdir /run/target
mount /dev/disk/by-id/virtio-target /run/target
cd /run/target
mount -t tmpfs tmpfs boot
mkdir -p boot/loader/entries
first=$(ls -d ostree/deploy/guest/deploy/*.0)
kernel=$(uname -r)
kargs=/ostree/boot.1/guest/bench
mkdir -p ostree/boot.1.1/guest/bench
for n in 0 1 2 3 4 5 6 7 8 9; do
    home=$first
    if test $n != 0; then
        home=ostree/deploy/guest/deploy/${n}111111111111111111111111111111111111111111111111111111111111111.0
        mkdir -p "$home/etc" "$home/usr/lib/modules/$kernel"
        ln "$first"/.ostree.cfs* "$home"
        ln "$first/usr/lib/modules/$kernel/config" "$home/usr/lib/modules/$kernel"
    fi
    ln -s "../../../../$home" ostree/boot.1.1/guest/bench/$n
    cp /dev/disk/by-id/virtio-initrd boot/initrd-$n
    printf 'version %s\noptions ostree=%s/%s\ninitrd /initrd-%s\n' $n $kargs $n $n >boot/loader/entries/own-$n.conf
done

bench() {
    echo "=== $1"
    for _ in 1 2; do
        start=$(date +%s%N)
        bootseal verify --all --sysroot /run/target --json=short
        echo "milliseconds $((($(date +%s%N) - start) / 1000000))"
    done
}

bench own
sed -i 's,^initrd .*,initrd /initrd-0,' boot/loader/entries/*
bench shared
