# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test deployment.py: no path on the disk leads out of the physical root."""

import errno
import os
import socket
from pathlib import Path

import pytest

from bootseal.layouts import ostree
from bootseal.linux import files, syscall
from bootseal.stages import deployment
from bootseal.values import Deployment, Wish
from unit.support import CHECKSUM, Sysroot, descriptors, errno_name, oserror, policy, raising, refusal, request

DEPLOY = f"ostree/deploy/os/deploy/{CHECKSUM}.0"


def inode(path: Path) -> int:
    return path.stat().st_ino


def locate(root: Path) -> Deployment:
    wish = Wish("ostree", Sysroot.BOOT)
    return deployment.locate(wish, request(), policy(), str(root))


def verdict_of(root: Sysroot, what: str = Sysroot.BOOT) -> str:
    return refusal(root.located, what).verdict.name


def test_deployment_is_located(sysroot: Sysroot) -> None:
    found = sysroot.located()
    assert found[:5] == ("ostree", "os", CHECKSUM, 0, DEPLOY)
    expected = [sysroot.path, sysroot.deploy, sysroot.deploy / "etc", sysroot.path / "ostree/deploy/os/var"]
    expected.append(sysroot.path / "ostree/repo/objects")
    assert [os.fstat(fd).st_ino for fd in fds_of(found)] == [inode(path) for path in expected]
    assert found.image == found.pair == (found.pair.fd, ".ostree.cfs", f"{sysroot.deploy}/.ostree.cfs")
    assert found.wished == ""


def fds_of(found: Deployment) -> list[int]:
    return [found.sysroot_fd, found.pair.fd, found.etc_fd, found.var_fd, found.objects_fd]


GOOD_TARGETS = {
    "absolute": f"/{DEPLOY}",
    "up to the root and beyond": f"../../../../../../../../{DEPLOY}",
    "by way of a link": f"../../../../ostree/boot.1/../deploy/os/deploy/{CHECKSUM}.0",
}


@pytest.mark.parametrize("target", GOOD_TARGETS.values(), ids=GOOD_TARGETS)
def test_link_inside_the_root_is_followed(target: str, sysroot: Sysroot) -> None:
    sysroot.point_to(target)
    assert sysroot.located().path == DEPLOY


def test_directory_instead_of_the_link_is_located(sysroot: Sysroot) -> None:
    assert sysroot.located(f"/{DEPLOY}").path == DEPLOY


def test_unknown_files_are_ignored(sysroot: Sysroot) -> None:
    for number in range(200):
        (sysroot.deploy / f"x{number}").mkdir()
    os.symlink("/", sysroot.path / "ostree/evil")
    assert sysroot.located().path == DEPLOY


BAD_TARGETS = {
    "the host's /etc": "/etc",
    "up and /etc": "../../../../../../../../../../etc",
    "/proc/self/root": "/proc/self/root",
    "/proc/self/fd": "/proc/self/fd/0",
    "/dev/fd": "/dev/fd/0",
    "itself": "0",
    "dangling": "../../../deploy/os/deploy/" + "0" * 64 + ".0",
    "long component": "a" * 255,
    "the root": "/",
    "the stateroot": "../../../deploy/os",
    "the directory of deployments": "../../../deploy/os/deploy",
    "below the deployment": f"../../../deploy/os/deploy/{CHECKSUM}.0/etc",
    "objects": "/ostree/repo/objects",
}


@pytest.mark.parametrize("target", BAD_TARGETS.values(), ids=BAD_TARGETS)
def test_link_to_anything_else_is_no_deployment(target: str, sysroot: Sysroot) -> None:
    (sysroot.path / "etc").mkdir()
    sysroot.point_to(target)
    assert verdict_of(sysroot) == "no-deployment"


def test_link_to_a_deployment_outside_the_root_is_no_deployment(tmp_path: Path, sysroot: Sysroot) -> None:
    """Outside is a whole deployment, to which the links would lead without confinement."""
    outside = Sysroot(tmp_path / "outside")
    for target in (str(outside.deploy), f"../../../../../outside/{DEPLOY}"):
        sysroot.point_to(target)
        assert verdict_of(sysroot) == "no-deployment"


@pytest.mark.parametrize("name", ["etc", "var", "objects", "deployment"])
def test_link_instead_of_a_directory_is_no_deployment(name: str, tmp_path: Path, sysroot: Sysroot) -> None:
    """Refuse a link even if it stays inside, because its target may change between two reads."""
    paths = {"etc": sysroot.deploy / "etc", "var": sysroot.path / "ostree/deploy/os/var", "deployment": sysroot.deploy}
    path = paths.get(name, sysroot.path / "ostree/repo/objects")
    path.rename(path.with_name("real"))
    path.symlink_to("real")
    assert verdict_of(sysroot) == "no-deployment"


@pytest.mark.parametrize("name", ["etc", "var", "objects"])
@pytest.mark.parametrize("kind", ["missing", "file", "fifo"])
def test_missing_or_irregular_directory_is_no_deployment(name: str, kind: str, sysroot: Sysroot) -> None:
    paths = {"etc": sysroot.deploy / "etc", "var": sysroot.path / "ostree/deploy/os/var"}
    path = paths.get(name, sysroot.path / "ostree/repo/objects")
    path.rmdir()
    if kind == "file":
        path.write_text("")
    elif kind == "fifo":
        os.mkfifo(path)
    found = refusal(sysroot.located)
    assert found.verdict.name == "no-deployment"
    assert found.path == str(path)


@pytest.mark.parametrize("kind", ["file", "fifo", "socket"])
def test_irregular_target_is_no_deployment(kind: str, sysroot: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    sysroot.link.unlink()
    if kind == "file":
        sysroot.link.write_text("")
    elif kind == "fifo":
        os.mkfifo(sysroot.link)
    else:
        monkeypatch.chdir(sysroot.link.parent)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(sysroot.link.name)
    assert verdict_of(sysroot) == "no-deployment"


def chain(sysroot: Sysroot, length: int) -> None:
    """Reach the deployment over this many links, including that of the boot entry."""
    target = f"/{DEPLOY}"
    for number in range(length - 1):
        (sysroot.path / f"ostree/l{number}").symlink_to(target)
        target = f"/ostree/l{number}"
    sysroot.point_to(target)


def test_chain_of_40_links_is_followed(sysroot: Sysroot) -> None:
    chain(sysroot, 39)  # boot.1 is the fortieth
    assert sysroot.located().path == DEPLOY


def test_chain_of_42_links_is_no_deployment(sysroot: Sysroot) -> None:
    chain(sysroot, 41)
    assert verdict_of(sysroot) == "no-deployment"


def test_loop_of_links_is_no_deployment(sysroot: Sysroot) -> None:
    (sysroot.path / "ostree/a").symlink_to("b")
    (sysroot.path / "ostree/b").symlink_to("a")
    sysroot.point_to("/ostree/a")
    assert verdict_of(sysroot) == "no-deployment"


NAMES = {
    "checksum too short": f"{CHECKSUM[:-1]}.0",
    "checksum too long": f"{CHECKSUM}0.0",
    "checksum in upper case": f"{CHECKSUM.upper()}.0",
    "no serial": CHECKSUM,
    "serial empty": f"{CHECKSUM}.",
    "serial negative": f"{CHECKSUM}.-1",
    "serial of ten digits": f"{CHECKSUM}.0000000000",
    "serial in Arabic digits": f"{CHECKSUM}.\u0661",
    "suffix": f"{CHECKSUM}.0.origin",
    "newline after": f"{CHECKSUM}.0\n",
    "deleted": f"{CHECKSUM}.0 (deleted)",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_malformed_deployment_name_is_no_deployment(name: str, sysroot: Sysroot) -> None:
    sysroot.deploy.rename(sysroot.deploy.with_name(name))
    sysroot.point_to(f"/ostree/deploy/os/deploy/{name}")
    assert verdict_of(sysroot) == "no-deployment"


def rename_stateroot(sysroot: Sysroot, name: str) -> None:
    old = sysroot.path / "ostree/deploy/os"
    old.rename(old.with_name(name))
    sysroot.point_to(f"/ostree/deploy/{name}/deploy/{CHECKSUM}.0")


@pytest.mark.parametrize("name", ["os", "A.b_c-9", ".hidden", "...", "x" * 64])
def test_valid_stateroot_is_located(name: str, sysroot: Sysroot) -> None:
    rename_stateroot(sysroot, name)
    assert sysroot.located().stateroot == name


EVIL_NAMES = [
    b"a b", b"a\x1b[2Jb", b"\xff\xfe", "ü".encode(), "\u0661".encode(), b"a\rb", b"a\nb", b"\n", b"a\n", b"x" * 65,
    b"verified sha256:000000000000, signed by CN=vendor; ", b"a,b", b"a(b)", b"a:b", b"a+b", b"$(id)",
]  # fmt: skip


@pytest.mark.parametrize("name", EVIL_NAMES, ids=ascii)
def test_malformed_stateroot_is_refused_without_its_name(name: bytes, sysroot: Sysroot) -> None:
    """The message must not contain the name, which could fake other messages."""
    rename_stateroot(sysroot, os.fsdecode(name))
    found = refusal(sysroot.located)
    assert (found.verdict.name, found.path) == ("no-deployment", f"{sysroot.path}{Sysroot.BOOT}")
    assert found.what == "the name of the stateroot is not of the form [A-Za-z0-9._-]{1,64}"


PATHS = {
    "dot": (f"ostree/deploy/./deploy/{CHECKSUM}.0", "name of the stateroot"),
    "dots": (f"ostree/deploy/../deploy/{CHECKSUM}.0", "name of the stateroot"),
    "empty": (f"ostree/deploy//deploy/{CHECKSUM}.0", "name of the stateroot"),
    "both wrong": (f"ostree/deploy/a b/deploy/{CHECKSUM}", "leads to no ostree/deploy/STATEROOT"),
    "deeper": (f"ostree/deploy/a/b/deploy/{CHECKSUM}.0", "leads to no ostree/deploy/STATEROOT"),
    "elsewhere": (f"a b/deploy/{CHECKSUM}.0", "leads to no ostree/deploy/STATEROOT"),
}


@pytest.mark.parametrize(("path", "what"), PATHS.values(), ids=PATHS)
def test_malformed_path_names_the_reason(path: str, what: str) -> None:
    found = refusal(ostree.parts, path, "/where")
    assert (found.verdict.name, found.path, what in found.what) == ("no-deployment", "/where", True)


def test_path_is_split_into_parts() -> None:
    assert ostree.parts(f"ostree/deploy/os/deploy/{CHECKSUM}.17", "") == ("os", CHECKSUM, 17)


def test_empty_physical_root_is_no_deployment(tmp_path: Path) -> None:
    found = refusal(locate, tmp_path)
    assert (found.verdict.name, found.path) == ("no-deployment", f"{tmp_path}{Sysroot.BOOT}")


def test_missing_physical_root_is_no_deployment(tmp_path: Path) -> None:
    assert refusal(locate, tmp_path / "x").verdict.name == "no-deployment"


LEAVES = "cannot be opened without leaving the physical root: "
# The verdict, and the text before the errno.
ERRNOS = {
    errno.ENOENT: ("no-deployment", "no such directory below the physical root"),
    errno.ENOTDIR: ("no-deployment", "cannot be opened: "),
    errno.ENAMETOOLONG: ("no-deployment", "cannot be opened: "),
    errno.EXDEV: ("no-deployment", LEAVES),
    errno.ELOOP: ("no-deployment", LEAVES),
    errno.ENOSYS: ("unsupported", "the kernel has no openat2(2)"),
    **dict.fromkeys((errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENXIO), ("io-error", "cannot be opened: ")),
    **dict.fromkeys((errno.ENOMEM, errno.EMFILE, errno.ENFILE), ("mount-failed", "cannot be opened: ")),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EAGAIN), ("mount-failed", "cannot be opened: ")),
}
PLACES = [Sysroot.BOOT, f"/{DEPLOY}", f"/{DEPLOY}/etc", "/ostree/deploy/os/var", "/ostree/repo/objects"]


@pytest.mark.parametrize("place", range(5), ids=["link", "deployment", "etc", "var", "objects"])
@pytest.mark.parametrize("number", ERRNOS, ids=errno_name)
def test_errno_of_opening_gives_the_verdict(number: int, place: int, sysroot: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = syscall.syscall

    def call(*arguments: object) -> int:
        calls.append(number)
        if len(calls) > place:
            raise oserror(number)
        return real(arguments[0], *arguments[1:])  # type: ignore[arg-type]

    monkeypatch.setattr(syscall, "syscall", call)
    found = refusal(sysroot.located)
    verdict, what = ERRNOS[number]
    assert (found.verdict.name, found.path) == (verdict, f"{sysroot.path}{PLACES[place]}")
    assert found.what.startswith(what)
    assert (LEAVES in found.what) == (number in (errno.EXDEV, errno.ELOOP))


@pytest.mark.parametrize(
    ("number", "verdict"),
    [
        (errno.ENOENT, "no-deployment"),
        (errno.ENOTDIR, "no-deployment"),
        (errno.EIO, "io-error"),
        (errno.EBADMSG, "io-error"),
        (errno.EACCES, "mount-failed"),
        (errno.EMFILE, "mount-failed"),
    ],
)
def test_errno_of_the_physical_root_gives_the_verdict(number: int, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", raising(number))
    found = refusal(locate, Path("/x"))
    assert (found.verdict.name, found.path) == (verdict, "/x")
    assert found.what.startswith("the physical root cannot be opened: ")


def test_openat2_is_called_with_confinement(sysroot: Sysroot, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = files.openat2

    def openat2(dirfd: int, path: str, flags: int, resolve: int) -> int:
        seen.append((path, resolve))
        return real(dirfd, path, flags, resolve)

    monkeypatch.setattr(files, "openat2", openat2)
    sysroot.located()
    confined = files.RESOLVE_IN_ROOT | files.RESOLVE_NO_MAGICLINKS | files.RESOLVE_NO_XDEV
    assert seen[0] == (Sysroot.BOOT, confined)
    assert len(seen) == 5
    assert {resolve for _, resolve in seen[1:]} == {confined | files.RESOLVE_NO_SYMLINKS}


def test_descriptors_are_o_path_and_close_on_exec(sysroot: Sysroot) -> None:
    for fd in fds_of(sysroot.located()):
        assert not os.get_inheritable(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.listdir(fd)


def test_other_descriptors_are_closed(sysroot: Sysroot) -> None:
    before = len(descriptors())
    sysroot.located()
    assert len(descriptors()) == before + 5


@pytest.mark.root
@pytest.mark.parametrize("where", ["deployment", "etc", "objects"])
def test_nested_mount_is_no_deployment(where: str, sysroot: Sysroot) -> None:
    paths = {"deployment": sysroot.deploy, "etc": sysroot.deploy / "etc", "objects": sysroot.path / "ostree/repo/objects"}
    code = (
        "import os,sys;from bootseal.linux import syscall,mountapi;syscall.unshare(mountapi.CLONE_NEWNS);"
        "syscall.mount(None,'/',None,mountapi.MS_REC|mountapi.MS_PRIVATE);p=sys.argv[2];"
        "os.makedirs(p+'/etc',exist_ok=True);t=mountapi.clone(os.open(p,os.O_PATH));mountapi.attach(t,-100,p);"
        "from pathlib import Path;from unit.test_deployment import locate;from bootseal.errors import Refusal\n"
        "try: locate(Path(sys.argv[1]))\n"
        "except Refusal as e: print(e.verdict.name)"
    )
    from unit.support import run_python

    assert run_python(code, str(sysroot.path), str(paths[where])) == "no-deployment\n"


# --- a list on the disk

LIST = "state/roots"
A, B = "ab" * 32, "cd" * 64


def listed(root: Path, content: bytes | None) -> tuple[Wish, ...]:
    if content is not None:
        (root / "state").mkdir(exist_ok=True)
        (root / LIST).write_bytes(content)
    return deployment.wishes(request()._replace(wishes=(), root_list=LIST), str(root))


LISTS = {
    "one": (f"composefs={A}\n", [A]),
    "the preferred one first": (f"composefs.digest=v1-sha512-12:{B}\ncomposefs={A}\n", [B, A]),
    "comments, blanks and line ends": (f"# x\r\n\n  composefs={A} \r\n\t\n", [A]),
    "without a newline at the end": (f"composefs={A}", [A]),
    "a line that is none hides no other": (f"composefs=?{A}\ncomposefs=x\nroot=/dev/vda\ncomposefs\ncomposefs={B}\n", [B]),
    "the same twice": (f"composefs={A}\n" * 3, [A]),
}


@pytest.mark.parametrize(("text", "images"), LISTS.values(), ids=LISTS)
def test_list(text: str, images: list[str], tmp_path: Path) -> None:
    assert listed(tmp_path, text.encode()) == tuple(Wish("composefs", image) for image in images)


def test_list_may_name_ostree(tmp_path: Path) -> None:
    assert listed(tmp_path, f"ostree={Sysroot.BOOT}\n".encode()) == (Wish("ostree", Sysroot.BOOT),)


def test_list_is_cut(tmp_path: Path) -> None:
    content = "".join(f"composefs={number:064x}\n" for number in range(100))
    assert [int(wish.what, 16) for wish in listed(tmp_path, content.encode())] == list(range(16))


@pytest.mark.parametrize(
    "content", [None, b"", b"junk\n", b"\xff\0", b"x" * 16385], ids=["missing", "empty", "junk", "binary", "large"]
)
def test_list_without_an_image_is_no_deployment(content: bytes | None, tmp_path: Path) -> None:
    found = refusal(listed, tmp_path, content)
    assert (found.verdict.name, found.path) == ("no-deployment", f"{tmp_path}/{LIST}")


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_list_that_is_no_file_is_no_deployment(kind: str, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "other").write_text(f"composefs={A}\n")
    if kind == "link":
        (tmp_path / LIST).symlink_to("../other")
    elif kind == "fifo":
        os.mkfifo(tmp_path / LIST)
    else:
        (tmp_path / LIST).mkdir()
    assert refusal(listed, tmp_path, None).verdict.name == "no-deployment"


def test_command_line_needs_no_list(tmp_path: Path) -> None:
    assert deployment.wishes(request(), str(tmp_path)) == request().wishes
