#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# package.sh BASE SCRATCH OUT COMMON SERVICE TOOLS: the life of the Debian packages in throw-away views of BASE.
# In OUT: FILES.<moment>, every file of the view then; other names, what commands said. Fails where a command of dpkg does.
set -eu
base=$1 scratch=$2 out=$3 common=$4 service=$5 tools=$6
here=$(dirname "$(readlink -f "$0")")
# shellcheck disable=SC1091
. "$here/lib.sh"

# view NAME: a new view, with the packages in a directory that is not looked at; it becomes the working directory.
view() {
    mkdir -p "$scratch/$1"
    overlay "$base" "$scratch/$1"
    cd "$scratch/$1/merged"
    api_mounts .
    mkdir debs
    cp "$common" debs/common.deb
    cp "$service" debs/service.deb
    cp "$tools" debs/tools.deb
}

# files MOMENT: type, mode, owner, path, target of links; and a ! before the path of a file with another content than in BASE.
files() {
    find . \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path ./debs -o -path ./var/lib/dpkg \) -prune \
        -o -printf '%y %m %U:%G %p %l\n' >"$out/FILES.$1"
    (cd ../upper && find . -path ./debs -prune -o -path ./var/lib/dpkg -prune -o -type f -print) | while read -r file; do
        [ ! -e "$base/$file" ] || cmp -s "$base/$file" "$file" || echo "! - - $file "
    done >>"$out/FILES.$1"
}

# dpkg_ OPTION...: without fsync; the base tree leaves out documentation and manual pages, by a setting that it keeps.
dpkg_() {
    chroot . dpkg --force-unsafe-io --path-include='/usr/share/doc/*' --path-include='/usr/share/man/*' "$@" >>"$out/dpkg" 2>&1
}

# newer: the same packages in a higher version, in which a module of the library and one of the program have other names.
newer() {
    mkdir debs/newer
    for deb in common.deb service.deb tools.deb; do
        tree=debs/newer/tree
        chroot . dpkg-deb --raw-extract "/debs/$deb" "/$tree"
        sed -i -e 's/^\(Version: .*\)$/\1+newer/' -e 's/(= \([^)]*\))/(= \1+newer)/' "$tree/DEBIAN/control"
        for module in linux/loop host/objects; do
            file=$tree/usr/lib/bootseal/bootseal/$module.py
            [ ! -e "$file" ] || mv "$file" "${file%.py}_newer.py"
        done
        chroot . dpkg-deb --build --root-owner-group "/$tree" "/debs/newer/$deb" >/dev/null
        rm -r "$tree"
    done
}

# --- the service alone, on a machine without GLib's binding
view alone
files base
dpkg_ --purge python3-pydbus python3-pyudev python3-gi
dpkg_ --install /debs/common.deb /debs/service.deb
files alone
said alone-imports python3 -ISB -c "
import sys
sys.path[:0] = ['/usr/lib/bootseal', '/usr/lib/python3/dist-packages']
import bootseal.boot, bootseal.failure, bootseal.checkinitrd"
dpkg_ --install /debs/tools.deb
said alone-sign bootseal sign /debs/tools.deb --to-be-signed=/debs/to-be-signed
said alone-status bootseal status

# --- both
view both
newer
files before
dpkg_ --install /debs/tools.deb /debs/service.deb /debs/common.deb
files installed
# shellcheck disable=SC2016  # dpkg-query's own
said conffiles dpkg-query -W -f '${Conffiles}' bootseal bootseal-common bootseal-tools
said owned-common dpkg -L bootseal-common
said owned-service dpkg -L bootseal
said owned-tools dpkg -L bootseal-tools
said bytecode python3 -c "
import importlib.util, os, struct, sys
for directory, _, files in os.walk('/usr/lib/bootseal'):
    for path in (os.path.join(directory, name) for name in files if name.endswith('.py')):
        source, compiled = os.stat(path), open(importlib.util.cache_from_source(path), 'rb').read(16)
        wanted = importlib.util.MAGIC_NUMBER + struct.pack('<III', 0, int(source.st_mtime), source.st_size)
        print(path, 'fresh' if compiled == wanted else 'stale')"
said program /usr/bin/bootseal --version
said completion-syntax bash -n /usr/share/bash-completion/completions/bootseal
# shellcheck disable=SC2016  # the inner shell's
said completion bash -c '
. /usr/share/bash-completion/completions/bootseal
set -- $(complete -p bootseal)
COMP_WORDS=(bootseal verify --al) COMP_CWORD=2
"$3"
echo "${COMPREPLY[@]}"'
said gate-before systemctl is-enabled bootseal-gate.path
said gate-enable systemctl enable bootseal-gate.path
said gate-after systemctl is-enabled bootseal-gate.path
files enabled

for unit in bootseal.service bootseal-guard.service bootseal-gate.service bootseal-gate.path bootseal-deploy.service bootseal-deploy.path; do
    path=usr/lib/systemd/system/$unit
    [ -e "$path" ] || path=usr/lib/dracut/modules.d/52bootseal/$unit
    said "verify.$unit" systemd-analyze verify --man=no --recursive-errors=no "/$path"
    said "security.$unit" systemd-analyze security --offline=yes --no-pager "/$path"
done

vectors=$here/../../vectors
cp "$here/filtered.py" "$vectors/certs/p256.der" debs
cp "$vectors/sigs/A-fsv-p256.p7s" debs/signature
cp "$vectors/content/digest-sha256" debs/digest
said filtered python3 /debs/filtered.py /usr/lib/systemd/system/bootseal.service

dpkg_ --install /debs/tools.deb /debs/service.deb /debs/common.deb
files reinstalled
dpkg_ --install /debs/newer/tools.deb /debs/newer/service.deb /debs/newer/common.deb
files upgraded
said gate-upgraded systemctl is-enabled bootseal-gate.path
dpkg_ --remove bootseal-tools bootseal bootseal-common
files removed
dpkg_ --install /debs/tools.deb /debs/service.deb /debs/common.deb
files again
dpkg_ --purge bootseal-tools bootseal bootseal-common
files purged
