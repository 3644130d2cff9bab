#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# example.sh BASE AIDS CONTEXT KEY STEPS OUT SCRATCH: run the steps of a Containerfile, each a call of a function below, in views of
# BASE with AIDS. KEY is the secret `key`. The last stage becomes a physical root as bootc lays it out; the signature is in an image
# there. See composefs.sh for OUT; it also gets the initrd.
set -eu
base=$1 aids=$2 context=$3 key=$4 steps=$5 out=$6 scratch=$7
here=$(dirname "$(readlink -f "$0")")
# shellcheck disable=SC1091
. "$here/lib.sh"
# shellcheck disable=SC1091
. "$here/repository.sh"

tree_of() {
    echo "$scratch/stage-$1/merged"
}

# bootable TREE CFS: the image that bootc boots, without what is in /boot.
bootable() {
    find "$1/boot" -mindepth 1 -delete
    sha512_image_of_tree "$1" "$out/root/composefs/objects" "$2" "$scratch/mirror"
}

# stage NAME FROM: begin a stage from the base tree, or go on with an earlier one.
stage() {
    if [ -d "$scratch/stage-$2" ]; then
        current=$2
        return
    fi
    current=$1
    mkdir -p "$scratch/enter-$1"
    overlay "$aids:$base" "$scratch/stage-$1"
    quiet_guest "$(tree_of "$1")"
    # What is mounted here is not in the tree that other stages see.
    mount --bind "$(tree_of "$1")" "$scratch/enter-$1"
    api_mounts "$scratch/enter-$1"
    mount -t tmpfs tmpfs "$scratch/enter-$1/run"
    install -D -m 755 "$here/apt-get" "$scratch/enter-$1/run/aids/apt-get"
}

# copy DIRECTORY TO NAME...: from the context or, if DIRECTORY begins with @, from a stage.
copy() {
    case $1 in
    @*) from=$(tree_of "${1#@}") ;;
    *) from=$context ;;
    esac
    to=$(tree_of "$current")$2
    mkdir -p "$to"
    shift 2
    cd "$from"
    for name; do
        # shellcheck disable=SC2086  # a pattern
        cp -R -- ${name#/} "$to"
    done
    cd /
}

# run COMMAND MOUNT...: a mount is STAGE:PATH, or =PATH for the secret. The digest of a mounted stage is what bootc says of it.
run() {
    command=$1 enter=$scratch/enter-$current
    shift
    for one; do
        target=$enter${one#*[:=]}
        if [ "${one%%=*}" = "" ]; then
            install -m 600 "$key" "$target"
        else
            mkdir "$target"
            mount --bind "$(tree_of "${one%%:*}")" "$target"
            bootable "$target" "$scratch/image"
            fsverity digest --compact --hash-alg=sha512 "$scratch/image" >"$enter/run/aids/digest"
        fi
    done
    PATH=/run/aids:$PATH chroot "$enter" sh -c "$command"
}

mkdir -p "$out/root/composefs/objects"
# shellcheck disable=SC1090
. "$steps"

# What bootc makes of the container image: an image of all, and one to boot.
os=$(tree_of "$current")
cp "$os"/usr/lib/modules/*/initramfs.img "$out/initrd"
sha512_image_of_tree "$os" "$out/root/composefs/objects" "$scratch/all" "$scratch/mirror"
new_repository "$out/root" sha512 "$os"
add_image "$out/root" sha512 "$scratch/all" >/dev/null
bootable "$os" "$out/example.cfs"
digest=$(add_image "$out/root" sha512 "$out/example.cfs")
add_state "$out/root" sha512 "$digest" "$os" example 0 "$out/initrd"
echo "$digest" >"$out/example.digest"
# As a builder of disks does.
mkdir "$scratch/enter-signature/disk"
mount --bind "$out/root" "$scratch/enter-signature/disk"
chroot "$scratch/enter-signature" bootseal deploy --all --offline --sysroot=/disk
du -sm "$out/root" | cut -f 1 >"$out/mebibytes"
