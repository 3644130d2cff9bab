# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find dracut modules in an initrd that undo the check: those that module-setup.sh refuses or omits.

Each module leaves a file of its own. This finds accidents, not attacks: other files can do the same.
"""

from collections.abc import Iterator

from .contents import Contents

_UNITS = ("usr/lib/systemd/system", "lib/systemd/system", "etc/systemd/system")
_GENERATORS = ("usr/lib/systemd/system-generators", "lib/systemd/system-generators")
_PROGRAMS = ("usr/sbin", "usr/bin", "sbin", "bin")
_HOOKS = tuple(
    f"{top}/dracut/hooks/{point}"
    for top in ("var/lib", "etc", "usr/lib", "lib")
    for point in ("mount", "pre-mount", "pre-pivot", "cleanup")
)
# {module: (directories, name of the file)}; hooks are numbered: 01-NAME.
MODULES: dict[str, tuple[tuple[str, ...], str]] = {
    "ostree": (("usr/lib/ostree", "lib/ostree"), "ostree-prepare-root"),
    "bootc": (_UNITS, "bootc-root-setup.service"),
    "composefs": (_UNITS, "composefs-setup-root.service"),
    "fips-crypto-policies": (_HOOKS, "fips-crypto-policies.sh"),
    "ignition-ostree": (_UNITS, "ignition-ostree-mount-var.service"),
    "ignition": (_UNITS, "ignition-mount.service"),
    "selinux": (_HOOKS, "selinux-loadpolicy.sh"),
    "masterkey": (_HOOKS, "masterkey.sh"),
    "integrity": (_HOOKS, "evm-enable.sh"),
    "ecryptfs": (_HOOKS, "ecryptfs-mount.sh"),
    "convertfs": (_HOOKS, "do-convertfs.sh"),
    "livenet": (_PROGRAMS, "livenetroot"),
    "dmsquash-live-autooverlay": (_PROGRAMS, "create-overlay"),
    "dmsquash-live": (_HOOKS, "apply-live-updates.sh"),
    "overlayfs-crypt": (_HOOKS, "prepare-overlayfs-crypt.sh"),
    "overlayfs": (_HOOKS, "mount-overlayfs.sh"),
    "lvmmerge": (_HOOKS, "lvmmerge.sh"),
    "kernel-modules-export": (_HOOKS, "modules-export.sh"),
    "usrmount": (_HOOKS, "mount-usr.sh"),
    "resume": (_GENERATORS, "systemd-hibernate-resume-generator"),
    "fstab-sys": (_HOOKS, "mount-sys.sh"),
    "nfs": (_HOOKS, "nfsroot-cleanup.sh"),
    "overlay-root": (_HOOKS, "overlay-mount.sh"),
}


# {name that an initrd has: module}; "*-" stands for a hook's number.
NAMES = {
    f"{directory}/{'*-' if directories is _HOOKS else ''}{name}": module
    for module, (directories, name) in MODULES.items()
    for directory in directories
}


def found(initrd: Contents) -> Iterator[tuple[str, str]]:
    """Yield (module, name of its file) for each module in an initrd."""
    return ((module, name) for name, module in NAMES.items() if initrd.exists(name))
