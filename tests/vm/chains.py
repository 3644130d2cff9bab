# SPDX-License-Identifier: LGPL-2.1-or-later
"""Good boots, several in a row from one disk, and the answers of each from inside."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from vm.harness import guest, parse, signed
from vm.harness.ask import ask

# Read in the initrd, right before and right after the service: the disk's own counters, and all mounts.
_STAT = "/sys/class/block/vda/stat"
_AFTER = "/bin/sh -c 'cat /proc/self/mountinfo >/run/guest-mountinfo'"
_DROP_IN = f"[Service]\nExecStartPost={_AFTER}\n"
# For its counters the disk must be there: the service starts late. Where the boot is whole, it starts early.
_COUNTING = f"""[Unit]
After=sysroot.mount
{_DROP_IN}
ExecStartPre=/bin/sh -c 'cat {_STAT} >/run/guest-stat-before'
ExecStartPost=/bin/sh -c 'cat {_STAT} >/run/guest-stat-after'
"""
# As on a busy machine, the journal reads the service's entries only after its process has ended.
_LATE_JOURNAL = """[Service]
ExecStartPre=/bin/sh -c 'kill -STOP $(systemctl show -P MainPID systemd-journald.service)'
ExecStartPost=/bin/sh -c 'kill -CONT $(systemctl show -P MainPID systemd-journald.service)'
"""
_SECTORS_WRITTEN = 6
_SECTOR = 512


def _script(deployment: guest.Deployment) -> str:
    directory = f"/sysroot/{deployment.path}"
    digest = f"{directory}/{signed.DIGEST}"
    return ask(
        unit="systemctl show -p ActiveState,SubState,Result,StatusText bootseal.service",
        active="systemctl is-active bootseal.service",
        failed="systemctl --failed --no-legend --plain",
        kernel="uname -r; cat /proc/sys/kernel/random/boot_id",
        record="cat /run/bootseal/boot.json",
        # Read by a shell. From the second boot on, the disk's own file says something else.
        release='. /usr/lib/os-release; echo "$ID" "$VERSION_ID"; rm /etc/os-release; echo ID=evil >/etc/os-release',
        opt="readlink /opt",
        journal="journalctl -b -u bootseal -o json BOOTSEAL_VERDICT=verified",
        catalog="journalctl --update-catalog && journalctl -b -u bootseal -x --no-pager BOOTSEAL_VERDICT=verified",
        initrd_mounts="cat /run/guest-mountinfo",
        mounts="cat /proc/self/mountinfo",
        stat="test ! -e /run/guest-stat-before || cat /run/guest-stat-before /run/guest-stat-after",
        run="find /run/bootseal /run/ostree* /run/systemd/volatile-root | sort",
        device="readlink /run/systemd/volatile-root; cat /sys/class/block/vda/dev",
        keys="cat /proc/keys",
        anchored="keyctl rlist 0x$(sed -n '/ keyring  *[.]fs-verity/s/ .*//p' /proc/keys) | tr ' ' '\\n'",
        recorded="key=$(sed -n '/ user  *composefs-digest/s/ .*//p' /proc/keys); test -z \"$key\" || keyctl pipe 0x$key",
        ostree="ostree admin status || true",
        digest=f"fsverity measure {digest} 2>&1 || true",
        built_in=f"fsverity dump_metadata signature {digest} | od -An -v -tx1 | tr -d ' \\n' || true",
        flags=f"lsattr -d {directory}",
        write_usr="touch /usr/guest-mark 2>&1 || true",
        write_sysroot="touch /sysroot/guest-mark 2>&1 || true",
        marks="cat /etc/guest-marks /var/guest-marks 2>&1 || true; echo mark >>/etc/guest-marks; echo mark >>/var/guest-marks",
        object="head -c 8 /usr/share/bootseal-test/tamper",
    )


@dataclass(frozen=True)
class Chain:
    """A disk, an initrd, and how often to boot."""

    name: str
    suite: str
    method: str
    boots: int
    fs: str = "ext4"
    kind: str = "p256"
    algorithm: str = "sha256"
    rw: bool = False
    root: str = "[composefs]\nenabled=verity\n"
    late_journal: bool = False
    whole: bool = False  # the first boot

    def run(self) -> Boots:
        """Boot it `boots` times, each from the disk that the one before has left."""
        image = signed.image(self.suite, self.fs, algorithm=self.algorithm)
        key = signed.key(self.kind)
        files = signed.beside(image.deployment.cfs, key, self.algorithm)
        if self.kind != "p256":
            image = replace(image, disk=signed.in_deployment(image, {signed.SIGNATURE: files[signed.SIGNATURE]}))
        boots = Boots(self, image, key, files)
        while len(boots.results) < self.boots:
            boots.results.append(self._boot(boots))
        return boots

    def _boot(self, boots: Boots) -> guest.Result:
        before = boots.results[-1].overlay if boots.results else None
        whole = self.whole and not boots.results
        files = signed.settings(f"[Enroll]\nMethod={self.method}\n", self.root, [boots.key])
        files["etc/systemd/system/bootseal.service.d/50-guest.conf"] = (_DROP_IN if whole else _COUNTING).encode()
        if self.late_journal:
            files["etc/systemd/system/bootseal.service.d/60-late-journal.conf"] = _LATE_JOURNAL.encode()
        return guest.boot(
            boots.image,
            signed.initrd(self.suite),
            append="fsck.mode=skip",
            whole=whole,
            extra_initrd_files=files,
            script=_script(boots.image.deployment),
            rw=self.rw,
            disk=before,
            snapshot=before is None,
            title=f"{self.name}, boot {len(boots.results) + 1}",
        )


@dataclass(frozen=True)
class Inside(parse.Said):
    """The answers of one boot from inside; the first boot is number 1."""

    number: int

    def bytes_written(self) -> int:
        """Return how many bytes the disk counted as written while the service ran."""
        before, after = (int(line.split()[_SECTORS_WRITTEN]) for line in self["stat"].splitlines())
        return (after - before) * _SECTOR


@dataclass
class Boots:
    """The boots of a chain. `beside` are the files beside the image on its disk."""

    chain: Chain
    image: guest.Image
    key: signed.Key
    beside: dict[str, bytes]
    results: list[guest.Result] = field(default_factory=list)

    @cached_property
    def inside(self) -> list[Inside]:
        """Read each boot."""
        return [Inside(result, number).must_end() for number, result in enumerate(self.results, 1)]

    @property
    def directory(self) -> str:
        """Return the deployment directory, as the record names it."""
        return self.image.deployment.path
