#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# dist.sh OUTDIR: Debian packages, a wheel and a source distribution of this tree, into OUTDIR.
# What is uncommitted goes in, what git ignores does not. Packages that the build needs are installed by apt.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: dist.sh OUTDIR" >&2
    exit 64
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
tree=$(cd "$(dirname "$0")/.." && pwd)
packages="debhelper dh-python dpkg-dev lintian git python3 python3-venv"

say() { echo "dist: $*" >&2; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

missing=""
for package in $packages; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    say "installing packages:$missing"
    as_root apt-get -q update >&2
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $missing >&2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# A removed file that git still lists is no file of this tree.
copy() {
    mkdir -p "$2"
    # shellcheck disable=SC2016  # $file is the inner shell's
    (cd "$1" && git -c safe.directory="$1" ls-files -z --cached --others --exclude-standard |
        xargs -0 sh -c 'for file; do [ ! -e "$file" ] || printf "%s\0" "$file"; done' sh |
        tar -c --null --no-recursion --files-from=- --mtime="@$epoch") | tar -x -C "$2"
}
epoch=$(dpkg-parsechangelog -l "$tree/packaging/deb/changelog" -S Timestamp)
export SOURCE_DATE_EPOCH="$epoch"
copy "$tree" "$work/source"

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$tree/service/bootseal/__init__.py")
if [ "$(dpkg-parsechangelog -l "$tree/packaging/deb/changelog" -S Version)" != "$version" ]; then
    say "packaging/deb/changelog is not of version $version"
    exit 1
fi

say "building Debian packages"
cp -a "$work/source" "$work/bootseal-$version"
cp -a "$tree/packaging/deb" "$work/bootseal-$version/debian"
# Files of this tree may come with the modes of a stranger's umask.
chmod -R u=rwX,go=rX "$work/bootseal-$version"
if ! (cd "$work/bootseal-$version" && umask 022 && dpkg-buildpackage -us -uc -F >"$work/deb.log" 2>&1); then
    cat "$work/deb.log" >&2
    exit 1
fi
say "running lintian"
lintian --fail-on error,warning --suppress-tags newer-standards-version "$work"/*.changes >&2
cp "$work"/*.deb "$work"/*.dsc "$work"/*.tar.xz "$work"/*.changes "$work"/*.buildinfo "$out/"

say "building wheel and sdist"
/usr/bin/python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q build
(cd "$work/source" && "$work/venv/bin/python" -m build -o "$work/python" >"$work/python.log" 2>&1) || {
    cat "$work/python.log" >&2
    exit 1
}
cp "$work"/python/* "$out/"
say "ready: $out"
ls -1 "$out"
