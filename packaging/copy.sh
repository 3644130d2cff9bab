#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# copy.sh TREE TO EPOCH: the files that git knows in TREE, or would add, with that time; a copy without git is taken as it is.
set -eu
tree=$1 to=$2 epoch=$3
mkdir -p "$to"
cd "$tree"
# shellcheck disable=SC2016  # $file is the inner shell's
# A removed file that git still lists is no file of this tree.
{
    if [ -e .git ]; then
        git -c safe.directory="$tree" ls-files -z --cached --others --exclude-standard
    else
        find . -name __pycache__ -prune -o -type f -print0
    fi
} | xargs -0 sh -c 'for file; do [ ! -e "$file" ] || printf "%s\0" "$file"; done' sh |
    tar -c --null --no-recursion --files-from=- --mtime="@$epoch" --owner=0 --group=0 | tar -x -C "$to"
