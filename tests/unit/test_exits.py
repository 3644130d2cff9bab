# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test exits.py: links that lead out of an image from places where the booted system looks for code."""

import errno
import os
from pathlib import Path

import pytest

from bootseal.stages import exits
from unit.support import oserror

USUAL = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "usr/sbin": "bin"}


def image(root: Path, links: dict[str, str]) -> Path:
    for name in ("usr/bin", "usr/lib64", "usr/lib/systemd/system", "usr/lib/udev", "usr/etc/systemd", "etc", "var"):
        if not any(f"{name}/".startswith(f"{link}/") for link in links):
            (root / name).mkdir(parents=True, exist_ok=True)
    for name, target in (USUAL | links).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    return root


def find(root: Path, *, own_etc: str = "") -> list[str]:
    fd = os.open(root, os.O_PATH)
    try:
        return exits.find(fd, own_etc=own_etc)
    finally:
        os.close(fd)


IMAGES: dict[str, tuple[dict[str, str], list[str]]] = {
    "usual": ({}, []),
    "relative": ({"usr/local": "../var/usrlocal"}, ["/usr/local -> /var/usrlocal"]),
    "absolute": ({"usr/local": "/var/usrlocal"}, ["/usr/local -> /var/usrlocal"]),
    "opt": ({"opt": "var/opt"}, ["/opt -> /var/opt"]),
    "two": ({"usr/local": "../var/usrlocal", "opt": "var/opt"}, ["/opt -> /var/opt", "/usr/local -> /var/usrlocal"]),
    "a chain": ({"usr/local": "/opt/local", "opt": "var/opt"}, ["/opt -> /var/opt", "/usr/local -> /var/opt/local"]),
    "a chain of links": ({"usr/local": "/srv2", "srv2": "mnt/x"}, ["/usr/local -> /mnt/x"]),
    "first inside, then out": (
        {"usr/local/lib": "../lib2", "usr/lib2/systemd": "/var/x"},
        ["/usr/lib2/systemd -> /var/x"],
    ),
    "deep": ({"usr/local/lib/systemd/system": "/etc/own"}, ["/usr/local/lib/systemd/system -> /etc/own"]),
    "generators": (
        {"usr/lib/systemd/system-generators": "../../../var/g"},
        ["/usr/lib/systemd/system-generators -> /var/g"],
    ),
    "libraries": ({"usr/lib64": "/run/x"}, ["/lib64 -> /run/x", "/usr/lib64 -> /run/x"]),
    "beyond the root": ({"opt": "../../../var/opt"}, ["/opt -> /var/opt"]),
    "by way of a link": ({"opt": "lib/../../tmp/x"}, ["/opt -> /tmp/x"]),
    "lexically elsewhere": ({"opt": "x/../var", "x": "usr/bin"}, []),  # usr/var
    "inside": ({"usr/local": "../usr/lib", "opt": "/usr/opt"}, []),
    "in the name only": ({"usr/local": "/variable", "opt": "usr/var"}, []),
    "dots and slashes": ({"opt": ".//./var//opt/"}, ["/opt -> /var/opt"]),
    "nowhere": ({"usr/local": "nothing", "opt": "."}, []),
    "back from nowhere": ({"opt": "nothing/../var/x"}, []),
    "itself": ({"usr/local": "local", "opt": "/opt"}, []),
    "two of each other": ({"usr/local": "/opt", "opt": "/usr/local"}, []),
    "into itself": ({"opt": "opt/x"}, []),
    "no text for a terminal": ({"opt": "/var/\x1b[2J\n"}, ["/opt -> /var/\\x1b[2J\\n"]),
    "where no code is looked for": ({"home": "var/home", "root": "var/roothome", "usr/share/x": "/var/x"}, []),
}


@pytest.mark.parametrize(("links", "expected"), IMAGES.values(), ids=IMAGES)
def test_links_out_of_the_image_are_listed(links: dict[str, str], expected: list[str], tmp_path: Path) -> None:
    assert find(image(tmp_path, links)) == expected


def test_chain_of_40_links_is_followed(tmp_path: Path) -> None:
    """The kernel follows as many."""
    links = {f"l{n}": f"l{n + 1}" for n in range(38)} | {"opt": "l0", "l38": "var/x"}
    assert find(image(tmp_path / "a", links)) == ["/opt -> /var/x"]
    links |= {"l38": "l39", "l39": "var/x"}
    assert find(image(tmp_path / "b", links)) == []


def test_missing_places_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    assert find(tmp_path) == []


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("../../var/x", ["/etc/systemd/system -> /var/x"]),  # as seen from /etc, not from /usr/etc
        ("/var/x", ["/etc/systemd/system -> /var/x"]),
        ("../own", []),
    ],
)
def test_transient_etc_shows_usr_etc(target: str, expected: list[str], tmp_path: Path) -> None:
    root = image(tmp_path, {"usr/etc/systemd/system": target, "usr/local": "/etc/local", "usr/etc/local": "/var/local"})
    assert find(root, own_etc="usr/etc") == ["/usr/local -> /var/local", *expected]
    assert find(root) == ["/usr/local -> /etc/local"]


def test_no_link_is_followed_and_each_path_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = image(tmp_path, {"usr/local": "/var/usrlocal", "var/usrlocal": "/"})
    real, seen = os.readlink, []

    def readlink(path: str, *, dir_fd: int) -> str:
        seen.append(path)
        parents = Path(path).parents
        assert not any((root / parent).is_symlink() for parent in parents), path
        return real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "readlink", readlink)
    assert find(root) == ["/usr/local -> /var/usrlocal"]
    assert len(seen) == len(set(seen)) <= 60, "a few system calls"
    assert not [path for path in seen if path.startswith("var")]


@pytest.mark.parametrize("place", ["usr/local/bin", "usr/lib/udev/rules.d", "usr/local/lib/systemd/system-generators"])
def test_place_is_searched(place: str) -> None:
    assert place in exits._PLACES


@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN])
def test_failed_readlink_is_raised(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def readlink(*_: object, **__: object) -> str:
        raise oserror(number)

    monkeypatch.setattr(os, "readlink", readlink)
    with pytest.raises(OSError) as caught:
        find(tmp_path)
    assert caught.value.errno == number
