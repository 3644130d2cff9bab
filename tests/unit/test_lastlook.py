# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test lastlook.py and the script dracut/52bootseal/last-look: mounts that change before the switch are found."""

from pathlib import Path

import pytest

from bootseal.linux import mountapi
from bootseal.stages import lastlook
from unit.mounting import in_initrd
from unit.support import TREE

# A stand-in for findmnt of util-linux 2.41, which the script needs. This machine may have an older one.
FINDMNT = f"""#!/bin/sh
case $1 in
    --kernel=listmount) exec /usr/bin/python3 -c '
import os, sys
sys.path.insert(0, "{TREE}/service")
from bootseal.linux import mountapi
for m in mountapi.mounts():
    try: found = mountapi.identity(-100, m.target)
    except OSError: continue
    print(found.unique if found.number == m.id else m.id, m.target.replace(" ", chr(92) + "x20"))
' ;;
esac
exec /usr/bin/findmnt "$@"
"""
OLD_FINDMNT = """#!/bin/sh
case $1 in --kernel=listmount) exit 1 ;; esac
exec /usr/bin/findmnt "$@"
"""
RUN = """
import subprocess
syscall.mount(None, "/sysroot", None, 32)
def bind(source, target): syscall.mount(source, target, None, 4096)
def look():
    environment = dict(os.environ, PATH=f"{sys.argv[2]}-bin:{os.environ['PATH']}")
    status = subprocess.run(["/bin/sh", SCRIPT, "true"], env=environment, stderr=subprocess.DEVNULL).returncode
    print("same" if status == 0 else lastlook.difference())
from bootseal.stages import lastlook
mounted, namespace = run(image)
mount.attach(mounted, namespace)
"""
CHANGES = {
    "nothing": ("", "same"),
    "elsewhere": ("os.mkdir('/run/x'); bind('/sysroot/sysroot', '/run/x')", "same"),
    "a name that begins alike": ("os.mkdir('/sysroot-2'); bind('/run', '/sysroot-2')", "same"),
    "over a directory": ("bind('/sysroot/etc', '/sysroot/usr')", "/sysroot/usr is tmpfs from physical"),
    "over a file": ("bind('/sysroot/etc/hostname', '/sysroot/usr/lib/systemd/systemd')",
                    "/sysroot/usr/lib/systemd/systemd is tmpfs from physical"),
    "over a mount of ours": ("bind('/sysroot/var', '/sysroot/etc')", "/sysroot/etc is tmpfs from physical"),
    "over everything": ("bind('/run', '/sysroot')", "/sysroot is tmpfs from tmpfs"),
    "a name with a blank": ("os.mkdir('/sysroot/var/a b'); bind('/run', '/sysroot/var/a b')",
                            "/sysroot/var/a b is tmpfs from tmpfs"),
    "unmounted": ("syscall.umount('/sysroot', 2)", "/sysroot is gone"),
    "a part unmounted": ("syscall.umount('/sysroot/var', 2)", "/sysroot/var is gone"),
    "replaced by the same": ("syscall.umount('/sysroot/var', 2); bind('/sysroot/sysroot/ostree/deploy/os/var', '/sysroot/var')",
                             "/sysroot/var is tmpfs from physical"),
    "covered and alike": ("bind('/sysroot/var', '/sysroot/var')", "/sysroot/var is tmpfs from physical"),
    "moved": ("syscall.mount('/sysroot/boot', '/sysroot/usr', None, 8192)", "/sysroot/usr is tmpfs from physical"),
}  # fmt: skip


def looked(change: str, findmnt: str, image: str, tmp_path: Path) -> str:
    programs = Path(f"{image}-bin")
    programs.mkdir(exist_ok=True)
    (programs / "findmnt").write_text(findmnt)
    (programs / "findmnt").chmod(0o755)
    script = TREE / "dracut/52bootseal/last-look"
    (said,) = in_initrd(f"SCRIPT = {str(script)!r}\n{RUN}\n{change}\nlook()\n", image, tmp_path)
    return said


@pytest.mark.root
@pytest.mark.parametrize("change", CHANGES)
def test_last_look(change: str, image: str, tmp_path: Path) -> None:
    code, expected = CHANGES[change]
    said = looked(code, FINDMNT, image, tmp_path)
    assert said == expected or said.startswith(f"{expected}, ")


@pytest.mark.root
@pytest.mark.parametrize("change", [c for c in CHANGES if c != "replaced by the same"])
def test_last_look_by_numbers(change: str, image: str, tmp_path: Path) -> None:
    """An older findmnt knows only numbers, which the kernel reuses after an unmount."""
    code, expected = CHANGES[change]
    assert (looked(code, OLD_FINDMNT, image, tmp_path) == "same") == (expected == "same")


@pytest.mark.root
@pytest.mark.parametrize(
    "findmnt", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\n", "#!/bin/sh\necho 1\n"], ids=["fails", "says nothing", "odd"]
)
def test_failing_findmnt_is_refused(findmnt: str, image: str, tmp_path: Path) -> None:
    assert looked("", findmnt, image, tmp_path) != "same"


@pytest.mark.root
@pytest.mark.parametrize("content", [None, "", "0;\n0;\n", "-\n"], ids=["missing", "empty", "none", "cut off"])
def test_missing_or_damaged_list_is_refused(content: str | None, image: str, tmp_path: Path) -> None:
    change = "os.unlink(lastlook.PATH)" if content is None else f"open(lastlook.PATH, 'w').write({content!r})"
    hide = "\nlastlook.difference = lambda: 'refused'"
    assert looked(change + hide, FINDMNT, image, tmp_path) == "refused"


@pytest.mark.root
@pytest.mark.parametrize(
    ("pattern", "replacement"), [(r";(\d+) ", r";1\1 "), (r"(/[a-z]+);", r"\1x;")], ids=["identity", "place"]
)
def test_partial_match_of_an_entry_is_refused(pattern: str, replacement: str, image: str, tmp_path: Path) -> None:
    text = "open(lastlook.PATH).read()"
    change = f"import re; text = {text}; open(lastlook.PATH, 'w').write(re.sub({pattern!r}, {replacement!r}, text))"
    assert looked(change, FINDMNT, image, tmp_path) != "same"


@pytest.mark.root
def test_list_without_unique_identities_is_compared_by_number(image: str, tmp_path: Path) -> None:
    change = "text = open(lastlook.PATH).read(); open(lastlook.PATH, 'w').write('-\\n' + text.split('\\n', 1)[1])"
    assert looked(change, FINDMNT, image, tmp_path) == "same"


def test_list_of_a_kernel_without_unique_identities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mountapi, "identity", lambda _, path: mountapi.Identity(40 + len(path), None))
    assert lastlook.serialize(-1) == (
        b"-\n5;40 /sysroot;43 /sysroot/etc;43 /sysroot/var;44 /sysroot/boot;47 /sysroot/sysroot;\n"
    )
