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
head -c 65536 /dev/zero | tr '\0' 'T' >usr/share/bootseal-test/tamper

# The base tree leaves out all manual pages, by a setting that it keeps; those of the project are tested.
api_mounts .
chroot . sh -c "dpkg --path-include='/usr/share/man/*' --install /debs/*.deb"
rm -r debs
# ostree sets all modification times to zero, and a .pyc file that records another time would be ignored.
chroot . python3 -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/bootseal >/dev/null

quiet_guest .
