#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# copy.sh TREE TO EPOCH: copy the files of TREE that git tracks or would add, dated EPOCH. Without git, copy all files.
set -eu
tree=$1 to=$2 epoch=$3
mkdir -p "$to"
cd "$tree"
# shellcheck disable=SC2016  # $file is the inner shell's
# Skip removed files, which git still lists.
{
    if [ -e .git ]; then
        git -c safe.directory="$tree" ls-files -z --cached --others --exclude-standard
    else
        find . -name __pycache__ -prune -o -type f -print0
    fi
} | xargs -0 sh -c 'for file; do [ ! -e "$file" ] || printf "%s\0" "$file"; done' sh |
    tar -c --null --no-recursion --files-from=- --mtime="@$epoch" --owner=0 --group=0 | tar -x -C "$to"
