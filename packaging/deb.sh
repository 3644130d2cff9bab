#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# deb.sh [--source] OUTDIR: build the Debian packages of this tree into OUTDIR; with --source also the source package.
# Includes uncommitted files, but not those that git ignores. Installs build dependencies with apt.
set -eu

build=--build=binary
if [ "${1-}" = --source ]; then
    build=--build=full
    shift
fi
if [ $# -ne 1 ]; then
    echo "usage: deb.sh [--source] OUTDIR" >&2
    exit 64
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
tree=$(cd "$(dirname "$0")/.." && pwd)

say() { echo "deb: $*" >&2; }

# shellcheck source=packaging/need.sh
. "$tree/packaging/need.sh"
need debhelper dh-python dpkg-dev git make python3

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
changelog=$tree/packaging/deb/changelog
SOURCE_DATE_EPOCH=$(dpkg-parsechangelog -l "$changelog" -S Timestamp)
export SOURCE_DATE_EPOCH
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$tree/service/bootseal/__init__.py")
if [ "$(dpkg-parsechangelog -l "$changelog" -S Version)" != "$version" ]; then
    say "packaging/deb/changelog is not of version $version"
    exit 1
fi

"$tree/packaging/copy.sh" "$tree" "$work/bootseal-$version" "$SOURCE_DATE_EPOCH"
cp -a "$tree/packaging/deb" "$work/bootseal-$version/debian"
# The modes of the files depend on the umask of the clone.
chmod -R u=rwX,go=rX "$work/bootseal-$version"
chmod 755 "$work/bootseal-$version/debian/rules"
# -d: the build does not need the compiler that dpkg-buildpackage requires by default.
if ! (cd "$work/bootseal-$version" && umask 022 && dpkg-buildpackage -us -uc -d $build >"$work/deb.log" 2>&1); then
    cat "$work/deb.log" >&2
    exit 1
fi
find "$work" -maxdepth 1 -type f ! -name deb.log -exec cp '{}' "$out/" ';'
