# SPDX-License-Identifier: LGPL-2.1-or-later
# A recipe for bootseal. Not tried.
# The image needs systemd, dracut as its initramfs generator, and a kernel with the options that bootseal(7) lists. To sign:
#
#   digest=$(mkcomposefs --min-version=1 --print-digest-only ${IMAGE_ROOTFS})
#   bootseal sign ${IMGDEPLOYDIR}/$digest --digest=sha256:$digest --key=KEY.pem --cert=CERT.crt
#
# in a task after do_rootfs, and `bootseal deploy --offline --sysroot=` on the tree of the disk before it becomes a filesystem.

SUMMARY = "Boot only from a root filesystem with a signed digest"
LICENSE = "LGPL-2.1-or-later"
LIC_FILES_CHKSUM = "file://LICENSE;md5=4fbd65380cdd255951079008b364516c"

SRC_URI = "file://bootseal-${PV}.tar.gz"

inherit systemd

BOOTSEAL_CERTIFICATES ?= ""
do_compile[noexec] = "1"

do_install() {
    oe_runmake install DESTDIR=${D} PREFIX=${prefix}
    for certificate in ${BOOTSEAL_CERTIFICATES}; do
        install -D -m 644 $certificate ${D}${prefix}/lib/bootseal/keys.d/$(basename $certificate)
    done
    install -d ${D}${prefix}/lib/dracut/dracut.conf.d
    echo 'add_dracutmodules+=" bootseal "' > ${D}${prefix}/lib/dracut/dracut.conf.d/50-bootseal.conf
}

SYSTEMD_SERVICE:${PN} = "bootseal-gate.path"
FILES:${PN} += "${prefix}/lib ${datadir}"
RDEPENDS:${PN} = "dracut systemd python3-core python3-ctypes python3-json python3-tomllib python3-cryptography openssl"
