# shellcheck shell=sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced after lib.sh: a repository of composefs-rs, and what bootc puts beside it.

# new_repository ROOT ALGORITHM OS: see repository_format.rs of composefs-rs.
new_repository() {
    mkdir -p "$1/composefs/objects" "$1/composefs/images" "$1/state/os/default" "$1/boot/loader/entries"
    chmod 0700 "$1/composefs"
    printf '{"version":1,"algorithm":"fsverity-%s-12","features":{"read-only-compatible":["v1_erofs"]},"erofs_formats":{"default":1}}\n' \
        "$2" >"$1/composefs/meta.json"
    cp -a "$3/var" "$1/state/os/default/var"
}

# composefs_builder ENTER ROOT: a view where image_of_tree() finds mkcomposefs, and the objects of ROOT.
composefs_builder() {
    api_mounts "$1"
    mkdir "$1/tree" "$1/objects"
    mount --bind "$2/composefs/objects" "$1/objects"
}

# image_of_tree TREE ENTER CFS: make an image with SHA-256, and its objects.
image_of_tree() {
    mount --bind "$1" "$2/tree"
    chroot "$2" mkcomposefs --min-version=1 --digest-store=/objects /tree /image.cfs
    mv "$2/image.cfs" "$3"
    umount "$2/tree"
}

# sha512_image_of_tree TREE OBJECTS CFS SCRATCH: the same with SHA-512, which mkcomposefs cannot.
sha512_image_of_tree() {
    rm -rf "$4"
    # shellcheck disable=SC2154  # the caller's
    python3 -I "$here/erofs.py" "$1" "$2" "$4"
    mkfs.erofs --quiet -T0 -U 00000000-0000-0000-0000-000000000000 --chunksize=4096 "$3" "$4"
}

# add_image ROOT ALGORITHM CFS: put an image into the repository, and print its digest.
add_image() {
    digest=$(fsverity digest --compact --hash-alg="$2" "$3")
    object=objects/$(echo "$digest" | cut -c 1-2)/$(echo "$digest" | cut -c 3-)
    mkdir -p "$1/composefs/${object%/*}"
    cp "$3" "$1/composefs/$object"
    ln -s "../$object" "$1/composefs/images/$digest"
    echo "$digest"
}

# add_state ROOT ALGORITHM DIGEST OS NAME NUMBER INITRD: make state and boot entry of an image; the first one has the number 0.
# See state.rs and boot.rs of bootc.
add_state() {
    state=$1/state/deploy/$3
    mkdir -p "$state"
    cp -a "$4/etc" "$state/etc"
    ln -s ../../os/default/var "$state/var"
    printf '[origin]\ncontainer-image-reference=ostree-unverified-image:docker://example.com/%s\n[boot]\nboot_type=bls\n' "$5" \
        >"$state/$3.origin"
    files=bootc_composefs-$3
    kernel=$(ls "$4/usr/lib/modules")
    mkdir "$1/boot/$files"
    cp "$7" "$1/boot/$files/initrd"
    echo "no kernel" >"$1/boot/$files/vmlinuz"
    cat >"$1/boot/loader/entries/bootc_debian-$kernel-$((9 - $6)).conf" <<END
title $5
version $kernel
sort-key bootc-debian-$6
linux /boot/$files/vmlinuz
initrd /boot/$files/initrd
options root=/dev/vda composefs.digest=v1-$2-12:$3
END
}
