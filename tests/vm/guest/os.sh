#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# os.sh BASE AIDS TREE DEB...: a base tree, the project's Debian packages, and the test aids.
set -eu
base=$1 aids=$2 tree=$3
shift 3
here=$(dirname "$(readlink -f "$0")")
# shellcheck disable=SC1091
. "$here/lib.sh"

cp -a --reflink=auto "$base" "$tree"
cp -R "$aids"/. "$tree"
mkdir "$tree/debs"
cp "$@" "$tree/debs"
cd "$tree"
chmod 0755 usr/lib/bootseal-test/*
head -c 65536 /dev/zero | tr '\0' 'T' >usr/share/bootseal-test/tamper

# The base tree leaves out all manual pages, by a setting that it keeps; those of the project are tested.
api_mounts .
chroot . sh -c "dpkg --path-include='/usr/share/man/*' --install /debs/*.deb"
rm -r debs
# ostree sets all modification times to zero, and a .pyc file that records another time would be ignored.
chroot . python3 -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/bootseal >/dev/null

# No first boot: a machine identity, no password, no job that only matters on a real machine.
echo 0123456789abcdef0123456789abcdef >etc/machine-id
echo guest >etc/hostname
: >etc/fstab
sed -i 's,^root:[^:]*:,root::,' etc/shadow
for unit in dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-tmpfiles-clean.timer e2scrub_reap.service \
    systemd-networkd.service systemd-networkd.socket systemd-networkd-wait-online.service networking.service \
    getty.target systemd-logind.service systemd-logind-varlink.socket systemd-user-sessions.service \
    systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-pstore.service systemd-random-seed.service \
    systemd-udev-load-credentials.service systemd-ask-password-wall.path \
    dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount; do
    ln -sf /dev/null "etc/systemd/system/$unit"
done
# Each runs twice a boot, to find nothing. The initrd has its own.
mkdir -p etc/systemd/system-generators
for generator in clonesetup cryptsetup debug factory-reset gpt-auto hibernate-resume integritysetup run ssh system-update \
    veritysetup tpm2 bless-boot; do
    ln -sf /dev/null "etc/systemd/system-generators/systemd-$generator-generator"
done
