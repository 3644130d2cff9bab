#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# dist.sh OUTDIR: build Debian and RPM packages, a wheel and a source distribution of this tree into OUTDIR.
# Includes uncommitted files, but not those that git ignores. Installs build dependencies with apt.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: dist.sh OUTDIR" >&2
    exit 64
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
tree=$(cd "$(dirname "$0")/.." && pwd)

say() { echo "dist: $*" >&2; }

# shellcheck source=packaging/need.sh
. "$tree/packaging/need.sh"
need lintian rpmlint python3-venv

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say "building Debian packages"
"$tree/packaging/deb.sh" --source "$work/deb"

say "running lintian"
lintian --fail-on error,warning --suppress-tags newer-standards-version "$work"/deb/*.changes >&2

say "building RPM packages, after the unit tests"
"$tree/packaging/rpm.sh" --check "$work/rpm"

say "running rpmlint"
rpmlint --strict -c "$tree/packaging/rpm/rpmlint.toml" "$work"/rpm/*.rpm "$tree/packaging/rpm/bootseal.spec" >&2

say "building wheel and sdist"
SOURCE_DATE_EPOCH=$(dpkg-parsechangelog -l "$tree/packaging/deb/changelog" -S Timestamp)
export SOURCE_DATE_EPOCH
"$tree/packaging/copy.sh" "$tree" "$work/source" "$SOURCE_DATE_EPOCH"
/usr/bin/python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q build twine check-wheel-contents
(cd "$work/source" && "$work/venv/bin/python" -m build -o "$work/python" >"$work/python.log" 2>&1) || {
    cat "$work/python.log" >&2
    exit 1
}
"$work/venv/bin/twine" check --strict "$work"/python/* >&2
"$work/venv/bin/check-wheel-contents" "$work"/python/*.whl >&2
cp "$work"/deb/* "$work"/rpm/* "$work"/python/* "$out/"
say "ready: $out"
ls -1 "$out"
