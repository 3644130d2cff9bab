#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# base.sh TAR TREE: unpack what mmdebstrap made, drop what no guest needs, compile all Python files.
set -eu
tar=$1 tree=$2

mkdir -p "$tree"
tar -xpf "$tar" -C "$tree" --numeric-owner --exclude='./dev/*'
cd "$tree"
rm -rf usr/share/doc usr/share/man usr/share/info usr/share/locale usr/share/bug usr/share/lintian usr/share/zsh
rm -rf var/lib/apt var/cache/* var/log/* usr/lib/valgrind usr/lib/python3*/test
find usr/lib/python3* -depth -name __pycache__ -exec rm -rf {} +
# ostree sets all modification times to zero, and a .pyc file that records another time would be ignored. -f and -B, because
# compileall itself would write such files for what it imports, and then skip them.
chroot . sh -c 'python3 -B -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/python3*' >/dev/null
