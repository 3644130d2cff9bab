#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# rpm.sh [--check] OUTDIR: build the RPM packages of this tree and their source package into OUTDIR; with --check run the unit
# tests first. Includes uncommitted files, but not those that git ignores. Installs build dependencies with apt.
set -eu

check=--without=check needs=
if [ "${1-}" = --check ]; then
    check=--with=check needs="python3-pytest python3-cryptography"
    shift
fi
if [ $# -ne 1 ]; then
    echo "usage: rpm.sh [--check] OUTDIR" >&2
    exit 64
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
tree=$(cd "$(dirname "$0")/.." && pwd)

say() { echo "rpm: $*" >&2; }

# shellcheck source=packaging/need.sh
. "$tree/packaging/need.sh"
# shellcheck disable=SC2086
need rpm dpkg-dev git make python3 $needs

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
spec=$tree/packaging/rpm/bootseal.spec
SOURCE_DATE_EPOCH=$(dpkg-parsechangelog -l "$tree/packaging/deb/changelog" -S Timestamp)
export SOURCE_DATE_EPOCH
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$tree/service/bootseal/__init__.py")
if ! grep -qx "Version: *$version" "$spec"; then
    say "packaging/rpm/bootseal.spec is not of version $version"
    exit 1
fi

"$tree/packaging/copy.sh" "$tree" "$work/bootseal-$version" "$SOURCE_DATE_EPOCH"
# The modes of the files depend on the umask of the clone.
chmod -R u=rwX,go=rX "$work/bootseal-$version"
tar -C "$work" -c --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 "bootseal-$version" |
    gzip -n >"$work/bootseal-$version.tar.gz"
# --nodeps: the dependencies have other names in Debian and are already installed. HOME: ignore the user's macros. Debian's
# brp-compress needs bash, and its rpm puts the version into the names of directories.
build() {
    umask 022
    HOME=$work rpmbuild --nodeps "$@" \
        --define "_topdir $work/rpm" --define "_sourcedir $work" --define "_dbpath $work/db" --define "_docdir_fmt %%{NAME}" \
        --define "__brp_compress /bin/bash %{_rpmconfigdir}/brp-compress %{?_prefix}" --define "_buildhost localhost" \
        --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" "$spec"
}
# Not -ba: binary packages would record the digest of the source package, which contains the name of the build directory.
if ! (build -bs && build -bb "$check") >"$work/rpm.log" 2>&1; then
    cat "$work/rpm.log" >&2
    exit 1
fi
find "$work/rpm/RPMS" "$work/rpm/SRPMS" -name '*.rpm' -exec cp '{}' "$out/" ';'
