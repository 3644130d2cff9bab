# SPDX-License-Identifier: LGPL-2.1-or-later
"""layouts/composefs.py: digests of the command line, and an image of a repository, however the disk looks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bootseal.layouts import composefs
from bootseal.stages import deployment
from bootseal.values import Deployment, RootConfig, Wish
from unit.mounting import in_initrd
from unit.support import policy, refusal, request, root_config

DIGESTS = {"sha256": "ab" * 32, "sha512": "cd" * 64}
IMAGE = DIGESTS["sha256"]
OBJECT = f"{IMAGE[:2]}/{IMAGE[2:]}"


# --- the command line


@pytest.mark.parametrize("algorithm", DIGESTS)
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_digest_with_a_format(version: str, algorithm: str) -> None:
    assert composefs.parse("composefs.digest", f"{version}-{algorithm}-12:{DIGESTS[algorithm]}") == DIGESTS[algorithm]


@pytest.mark.parametrize("digest", DIGESTS.values(), ids=DIGESTS)
def test_bare_digest(digest: str) -> None:
    assert composefs.parse("composefs", digest) == digest


BAD = {
    "no enforcement": ("composefs", f"?{IMAGE}"),
    "no enforcement, with a format": ("composefs.digest", f"?v1-sha256-12:{IMAGE}"),
    "too short": ("composefs", IMAGE[1:]),
    "too long": ("composefs", f"{IMAGE}0"),
    "upper case": ("composefs", IMAGE.upper()),
    "not hexadecimal": ("composefs", "x" * 64),
    "a path": ("composefs", f"../{IMAGE[3:]}"),
    "format where there is none": ("composefs", f"v1-sha256-12:{IMAGE}"),
    "none where there is a format": ("composefs.digest", IMAGE),
    "later version": ("composefs.digest", f"v3-sha256-12:{IMAGE}"),
    "other hash": ("composefs.digest", f"v1-sha384-12:{'a' * 96}"),
    "other block size": ("composefs.digest", f"v1-sha256-16:{IMAGE}"),
    "hash of the other length": ("composefs.digest", f"v1-sha512-12:{IMAGE}"),
    "no digest": ("composefs.digest", "v1-sha256-12:"),
    "question mark in the digest": ("composefs.digest", f"v1-sha256-12:?{IMAGE}"),
}


@pytest.mark.parametrize(("key", "value"), BAD.values(), ids=BAD)
def test_bad_digest(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"\?|digest|form"):
        composefs.parse(key, value)


# --- the disk


class Repository:
    """A physical root in a directory, with one image as bootc lays it out."""

    def __init__(self, top: Path, image: str = IMAGE) -> None:
        self.top, self.image = top, image
        self.link = top / "composefs/images" / image
        self.object = top / "composefs/objects" / image[:2] / image[2:]
        self.state = top / "state/deploy" / image
        for directory in (self.link.parent, self.object.parent, self.state / "etc", top / "state/os/default/var"):
            directory.mkdir(parents=True, exist_ok=True)
        self.object.write_bytes(b"image")
        self.link.symlink_to(f"../objects/{image[:2]}/{image[2:]}")
        (self.state / "var").symlink_to("../../os/default/var")

    def located(self, config: RootConfig | None = None, volatile: str = "") -> Deployment:
        settings = policy(roots={"composefs": config or root_config(etc="", var="")})
        asked = request(self.image, "composefs")._replace(volatile=volatile)
        return deployment.locate(Wish("composefs", self.image), asked, settings, str(self.top))

    def point_to(self, target: str) -> None:
        self.link.unlink()
        self.link.symlink_to(target)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "root")


@pytest.mark.parametrize("digest", DIGESTS.values(), ids=DIGESTS)
def test_image_is_located(digest: str, tmp_path: Path) -> None:
    made = Repository(tmp_path, digest)
    found = made.located()
    assert (found.layout, found.stateroot, found.checksum, found.serial) == ("composefs", "", digest, None)
    assert (found.path, found.wished) == (f"state/deploy/{digest}", digest)
    assert found.image[1:] == (f"{digest[:2]}/{digest[2:]}", str(made.link))
    assert found.pair[1:] == ("bootseal", f"{made.state}/bootseal")
    places = [made.top, made.object.parent.parent, made.state / "etc", made.top / "state/os/default/var", made.state]
    fds = [found.sysroot_fd, found.objects_fd, found.etc_fd, found.var_fd, found.pair.fd]
    assert [os.fstat(fd).st_ino for fd in fds] == [place.stat().st_ino for place in places]
    assert found.image.fd == found.objects_fd


@pytest.mark.parametrize("mode", ["none", "transient"])
def test_what_is_not_mounted_need_not_be_there(mode: str, repository: Repository) -> None:
    (repository.state / "etc").rmdir()
    (repository.state / "var").unlink()
    found = repository.located(root_config(etc=mode, var=mode))
    assert (found.etc_fd, found.var_fd) == (-1, -1)


@pytest.mark.parametrize(("volatile", "needed"), [("", True), ("yes", True), ("state", False), ("overlay", False)])
def test_var_that_systemd_mounts_is_not_needed(volatile: str, needed: bool, repository: Repository) -> None:  # noqa: FBT001
    (repository.state / "var").unlink()
    if needed:
        assert refusal(repository.located, None, volatile).verdict.name == "no-deployment"
    else:
        assert repository.located(volatile=volatile).var_fd == -1
    configured = root_config(etc="", var="bind")
    assert refusal(repository.located, configured, volatile).verdict.name == "no-deployment"


LINKS = {
    "absolute": "/etc/passwd",
    "outside": "../../../etc/passwd",
    "an image": f"../images/{IMAGE}",
    "itself": IMAGE,
    "objects": "../objects",
    "a directory of objects": f"../objects/{IMAGE[:2]}",
    "by way of another directory": f"../objects/../objects/{OBJECT}",
    "another digit": f"../objects/{IMAGE[:2]}/{IMAGE[3:]}",
    "a suffix": f"../objects/{OBJECT}.file",
    "upper case": f"../objects/{OBJECT.upper()}",
    "a long name": "../objects/" + "a" * 250,
    "an escape": "../objects/\x1b[2J",
}


@pytest.mark.parametrize("target", LINKS.values(), ids=LINKS)
def test_link_to_anything_but_an_object_is_a_bad_image(target: str, repository: Repository) -> None:
    repository.point_to(target)
    found = refusal(repository.located)
    assert (found.verdict.name, found.path) == ("bad-image", str(repository.link))
    assert found.what.endswith("which is not an object of the repository")


def test_link_to_another_object_is_left_to_the_digest(repository: Repository) -> None:
    repository.point_to(f"../objects/ef/{'0' * 62}")
    assert repository.located().image.name == f"ef/{'0' * 62}"


def test_file_instead_of_the_link_is_a_bad_image(repository: Repository) -> None:
    repository.link.unlink()
    repository.link.write_bytes(b"image")
    found = refusal(repository.located)
    assert (found.verdict.name, found.what) == ("bad-image", "not a link into composefs/objects")


PLACES: dict[str, tuple[Callable[[Repository], Path], str]] = {
    "state": (lambda made: made.state, "no-deployment"),
    "all states": (lambda made: made.state.parent, "no-deployment"),
    "etc": (lambda made: made.state / "etc", "no-deployment"),
    "images": (lambda made: made.link.parent, "no-deployment"),
    "objects": (lambda made: made.object.parent.parent, "no-deployment"),
    "image": (lambda made: made.link, "no-image"),
}


@pytest.mark.parametrize(("place", "verdict"), PLACES.values(), ids=PLACES)
def test_missing(place: Callable[[Repository], Path], verdict: str, repository: Repository) -> None:
    path = place(repository)
    path.rename(path.with_name("gone"))
    found = refusal(repository.located)
    assert found.verdict.name == verdict
    assert found.path.startswith(str(path))


@pytest.mark.parametrize("place", [place for name, (place, _) in PLACES.items() if name != "image"])
def test_link_instead_of_a_directory_is_no_deployment(place: Callable[[Repository], Path], repository: Repository) -> None:
    path = place(repository)
    path.rename(path.with_name("real"))
    path.symlink_to("real")
    assert refusal(repository.located).verdict.name == "no-deployment"


@pytest.mark.parametrize("target", ["/nowhere", "var", "../../../../etc", "/proc/self/root"])
def test_var_that_leads_to_no_directory_of_the_root(target: str, repository: Repository) -> None:
    (repository.state / "var").unlink()
    (repository.state / "var").symlink_to(target)
    found = refusal(repository.located)
    assert (found.verdict.name, found.path) == ("no-deployment", f"{repository.state}/var")


# --- the source of the mount


def test_source_is_where_bootc_looks() -> None:
    assert composefs.source("ab", root_config()) == "composefs:ab"
    assert composefs.source("ab", root_config(root_transient=True)) == "transient:composefs=ab"


# --- mounting

MOUNT = """
from unit.test_layouts_composefs import IMAGE, Repository
syscall.mount(None, "/sysroot", None, 32)
made = Repository(Path("/sysroot"))
(made.state / "etc/hostname").write_text("deployed")
(made.top / "state/os/default/var/marker").write_text("var")
def go(etc="", var="", volatile="", transient=False):
    namespace = physicalroot.private_namespace()
    root = RootConfig(True, transient, not transient, etc, var)
    found = made.located(root, volatile)
    asked = request(IMAGE, "composefs")._replace(volatile=volatile)
    return mount.mount(enrolled(image), found, root, asked), namespace
def look():
    top = {m.target: m for m in mountapi.mounts()}
    places = [top[name] for name in ("/sysroot", "/sysroot/etc", "/sysroot/var", "/sysroot/sysroot") if name in top]
    return [(place.target, place.fstype, place.source) for place in places]
def shown(path):
    try: return Path(path).read_text().strip()
    except OSError as error: return errno.errorcode[error.errno]
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("arguments", "not_covered", "etc", "writes"),
    [
        ("", "/etc /var", "deployed", "EROFS True True EROFS"),
        ("etc='overlay'", "/etc /var", "image", "EROFS True True EROFS"),
        ("etc='transient'", "/var", "image", "EROFS True True EROFS"),
        ("etc='none'", "/var", "image", "EROFS EROFS True EROFS"),
        ("var='none'", "/etc", "deployed", "EROFS True EROFS EROFS"),
        ("var='overlay'", "/etc /var", "deployed", "EROFS True True EROFS"),
        ("var='transient'", "/etc", "deployed", "EROFS True True EROFS"),
        ("volatile='state'", "/etc", "deployed", "EROFS True EROFS EROFS"),
        ("transient=True, etc='none'", "/var", "image", "True True True EROFS"),
    ],
)
def test_root_is_mounted_as_bootc_does(
    arguments: str, not_covered: str, etc: str, writes: str, composefs_image: str, tmp_path: Path
) -> None:
    said = in_initrd(
        MOUNT
        + f"""
mounted, namespace = go({arguments})
print(*[name for name in mounted.not_covered if " " not in name])
mount.attach(mounted, namespace)
print(shown("/sysroot/etc/hostname"), os.path.isdir("/sysroot/sysroot/composefs"), os.path.exists(ostreebooted.PATH))
print(*[writable("/sysroot/" + name) for name in ("usr/x", "etc/x", "var/x", "sysroot/x")])
print(mount.attached_digest() == verified().digest.value.hex(), look()[0][2].partition("composefs")[0])
mount.detach()
print(look())
""",
        composefs_image,
        tmp_path,
    )
    assert said[:3] == [not_covered, f"{etc} True False", writes]
    assert said[3] == ("True transient:" if "transient=" in arguments else "True ")
    assert said[4] == "[('/sysroot', 'tmpfs', 'physical')]"


@pytest.mark.root
def test_overlay_of_etc_keeps_what_is_written(composefs_image: str, tmp_path: Path) -> None:
    said = in_initrd(
        MOUNT
        + """
for text in ("first", "second"):
    mounted, namespace = go(etc="overlay")
    mount.attach(mounted, namespace)
    print(shown("/sysroot/etc/mine"))
    Path("/sysroot/etc/mine").write_text(text)
    mount.detach()
print((made.state / "etc/upper/mine").read_text(), oct((made.state / "etc/upper").stat().st_mode & 0o777))
""",
        composefs_image,
        tmp_path,
    )
    assert said == ["ENOENT", "first", "second 0o755"]


@pytest.mark.root
def test_upper_layers_of_transient_directories_are_private(composefs_image: str, tmp_path: Path) -> None:
    said = in_initrd(
        MOUNT
        + """
go(etc="transient", var="transient")
private = Path("/run/bootseal/transient/.private")
print(oct(private.stat().st_mode & 0o777), *sorted(os.listdir(private)), *os.listdir(private.parent))
""",
        composefs_image,
        tmp_path,
    )
    assert said == ["0o0 etc var .private"]


@pytest.mark.root
def test_overlay_on_a_read_only_disk_says_so(composefs_image: str, tmp_path: Path) -> None:
    said = in_initrd(
        MOUNT
        + """
syscall.mount(None, "/sysroot", None, 1 | 32)
try: go(etc="overlay")
except Refusal as refusal: print(refusal.verdict.name, refusal.hint)
""",
        composefs_image,
        tmp_path,
    )
    assert said == ["mount-failed add rw to the kernel command line, or check the disk"]


@pytest.mark.root
def test_overlay_of_etc_never_follows_a_link_of_the_disk(composefs_image: str, tmp_path: Path) -> None:
    said = in_initrd(
        MOUNT
        + """
(made.state / "etc/upper").symlink_to("/run")
try: go(etc="overlay")
except Refusal as refusal: print(refusal.verdict.name)
""",
        composefs_image,
        tmp_path,
    )
    assert said == ["mount-failed"]
