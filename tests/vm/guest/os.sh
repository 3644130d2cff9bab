#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# os.sh BASE INSTALLED AIDS TREE: a base tree, what `make install` of the project installed, and the test aids.
set -eu
base=$1 installed=$2 aids=$3 tree=$4

cp -a --reflink=auto "$base" "$tree"
cp -R "$aids"/. "$tree"
# The sources may belong to whoever checked them out: --no-preserve=ownership makes the files root's.
cp -R --preserve=mode,links,timestamps --no-preserve=ownership "$installed"/. "$tree"
cd "$tree"
chmod 0755 usr/lib/bootseal-test/*
head -c 65536 /dev/zero | tr '\0' 'T' >usr/share/bootseal-test/tamper
find "$installed" -name '*.py' -printf '%P\n' | sed 's,/[^/]*$,,' | sort -u | while read -r directory; do
    chroot . python3 -m compileall -q -f -l --invalidation-mode unchecked-hash "/$directory" >/dev/null
done

# No first boot: a machine identity, no password, no job that only matters on a real machine.
echo 0123456789abcdef0123456789abcdef >etc/machine-id
echo guest >etc/hostname
: >etc/fstab
sed -i 's,^root:[^:]*:,root::,' etc/shadow
for unit in dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-tmpfiles-clean.timer e2scrub_reap.service \
    systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service networking.service; do
    ln -sf /dev/null "etc/systemd/system/$unit"
done
