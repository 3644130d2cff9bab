#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# signer.sh TREE SCRATCH OUT VECTORS DEB...: install the packages in a throw-away view of TREE, and sign there,
# also a commit of SCRATCH/repo.
# OUT gets what each command said, and its status in a last line.
set -eu
tree=$1 scratch=$2 out=$3 vectors=$4
shift 4
here=$(dirname "$(readlink -f "$0")")
# shellcheck disable=SC1091
. "$here/lib.sh"

mkdir "$scratch/view"
overlay "$tree" "$scratch/view"
cd "$scratch/view/merged"
api_mounts .
mkdir debs files
cp "$@" debs
cp "$vectors/keys/p256.pem" files/key.pem
cp "$vectors/certs/p256.pem" files/cert.pem
cp "$vectors/certs/p384.pem" files/other.pem
head -c 20000 /dev/zero >files/image
chroot . sh -c 'dpkg --install /debs/*.deb' >"$out/dpkg" 2>&1
# shellcheck disable=SC2016  # dpkg-query's own
chroot . dpkg-query -W -f '${Package}\n' >"$out/packages"
said version bootseal --version
said sign bootseal sign /files/image --key=/files/key.pem --cert=/files/cert.pem
said verify bootseal verify --image=/files/image --cert=/files/cert.pem
said other bootseal verify --image=/files/image --cert=/files/other.pem
said import bootseal import /files/image.sig --image=/files/image --cert=/files/cert.pem
said status bootseal status
cp -R "$scratch/repo" files/repo
said commit bootseal sign --repo=/files/repo os/stable --key=/files/key.pem --cert=/files/cert.pem
