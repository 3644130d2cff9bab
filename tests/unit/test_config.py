# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test config.py: precedence, masking, and that misspelt keys and values are never ignored."""

from pathlib import Path
from typing import Any

import pytest

from bootseal.stages import config
from bootseal.values import Policy, RootConfig
from unit.support import TREE, refusal, run_python, verdict

DEFAULT = Policy(
    seal=True,
    voa="",
    method="keyring",
    required=False,
    on_refusal="emergency",
    signed=("digest-file",),
    roots={
        "ostree": RootConfig(sysroot_readonly=True, root_transient=False, root_readonly=True, etc="bind", var="bind"),
        "composefs": RootConfig(sysroot_readonly=True, root_transient=False, root_readonly=True, etc="", var=""),
    },
)


def write(initrd: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = initrd / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            path.symlink_to(text[3:])
        else:
            path.write_text(text)
    return str(initrd)


def method(name: str) -> str:
    return f"[Enroll]\nMethod={name}\n"


def test_missing_files_give_the_defaults(tmp_path: Path) -> None:
    assert config.load(str(tmp_path)) == DEFAULT


def test_the_shipped_file_changes_nothing(tmp_path: Path) -> None:
    shipped = (TREE / "units/bootseal.conf").read_text()
    assert config.load(write(tmp_path, {"etc/bootseal/bootseal.conf": shipped})) == DEFAULT


def test_the_shipped_file_names_every_key_with_its_default(tmp_path: Path) -> None:
    lines = (TREE / "units/bootseal.conf").read_text().splitlines()
    text = "\n".join(line.removeprefix("#") for line in lines if not line.startswith("# "))
    assert config.parse(text, "x") == {key: default for key, (_, default) in config.KEYS.items()}


VALUES: dict[str, tuple[str, str, Any]] = {
    **{f"Seal={v}": ("[Keyring]", "seal", True) for v in ("yes", "true", "on", "1")},
    **{f"Seal={v}": ("[Keyring]", "seal", False) for v in ("no", "false", "off", "0")},
    "VOA=no": ("[Keyring]", "voa", ""),
    **{f"VOA={v}": ("[Keyring]", "voa", v) for v in ("debian", "debian:13", "a", "my-os:1.2_3:server", "9front")},
    **{f"Method={v}": ("[Enroll]", "method", v) for v in ("keyring", "fsverity", "none")},
    "Required=yes": ("[Enroll]", "required", True),
    **{f"OnRefusal={v}": ("[Policy]", "on_refusal", v) for v in ("emergency", "reboot", "poweroff")},
    " Required \t= yes ": ("[Enroll]", "required", True),
}


@pytest.mark.parametrize("line", VALUES)
def test_valid_value_is_read(line: str, tmp_path: Path) -> None:
    section, name, value = VALUES[line]
    policy = config.load(write(tmp_path, {"etc/bootseal/bootseal.conf": f"{section}\n{line}\n"}))
    assert policy == DEFAULT._replace(**{name: value})


BAD = {
    "unknown key": "[Enroll]\nMehtod=none",
    "unknown section": "[Enrol]\nMethod=none",
    "key of another section": "[Policy]\nMethod=none",
    "key in lower case": "[Enroll]\nmethod=none",
    "section in lower case": "[enroll]\nMethod=none",
    "section with spaces": "[ Enroll ]\nMethod=none",
    "no section": "Method=none",
    "before the section": "Method=none\n[Enroll]",
    "no equals sign": "[Enroll]\nMethod",
    "no key": "[Enroll]\n=none",
    "section not closed": "[Enroll\nMethod=none",
    "empty value": "[Enroll]\nMethod=",
    "unknown method": "[Enroll]\nMethod=keyrings",
    "method in upper case": "[Enroll]\nMethod=None",
    "method quoted": '[Enroll]\nMethod="none"',
    "two methods": "[Enroll]\nMethod=none keyring",
    "comment behind the value": "[Enroll]\nMethod=none # why",
    "no boolean": "[Enroll]\nRequired=perhaps",
    "boolean for a method": "[Enroll]\nMethod=yes",
    "unknown refusal": "[Policy]\nOnRefusal=ignore",
    **{
        f"VOA={value}": f"[Keyring]\nVOA={value}"
        for value in ("", "yes", "true", "1", "off", "Debian", "..", ".x", ":x", "a/b", "../x", "*", "a b", "$(x)", "n\u00f6")
    },
    "twice": "[Enroll]\nMethod=none\nMethod=none",
    "twice over two sections": "[Enroll]\nMethod=none\n[Policy]\n[Enroll]\nMethod=keyring",
    "too large": "#" * (64 * 1024 + 1),
    "continued line": "[Enroll]\nMethod=\\\nnone",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
@pytest.mark.parametrize("name", ["etc/bootseal/bootseal.conf", "usr/lib/bootseal/bootseal.conf.d/10-x.conf"])
def test_invalid_file_is_bad_config(text: str, name: str, tmp_path: Path) -> None:
    found = refusal(config.load, write(tmp_path, {name: text}))
    assert (found.verdict.name, found.path) == ("bad-config", str(tmp_path / name))


def test_invalid_utf8_is_bad_config(tmp_path: Path) -> None:
    path = Path(write(tmp_path, {"etc/bootseal/bootseal.conf": ""}), "etc/bootseal/bootseal.conf")
    path.write_bytes(b"[Enroll]\nMethod=none\xff\n")
    found = refusal(config.load, str(tmp_path))
    assert (found.verdict.name, found.what) == ("bad-config", "not UTF-8")


@pytest.mark.parametrize(
    "name", ["etc/bootseal/bootseal.conf", "etc/bootseal/bootseal.conf.d/a.conf", "etc/ostree/prepare-root.conf"]
)
def test_dangling_link_is_bad_config(name: str, tmp_path: Path) -> None:
    assert verdict(config.load, write(tmp_path, {name: "-> /nonexistent"})) == "bad-config"


@pytest.mark.parametrize("name", ["etc/bootseal/bootseal.conf", "usr/lib/bootseal/bootseal.conf.d/a.conf"])
def test_directory_is_bad_config(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir(parents=True)
    found = refusal(config.load, str(tmp_path))
    assert (found.verdict.name, found.what) == ("bad-config", "cannot be read: Is a directory (EISDIR)")


@pytest.mark.parametrize("end", "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
def test_only_newlines_end_lines(end: str, tmp_path: Path) -> None:
    """ostree splits prepare-root.conf so: its comment must not be our setting."""
    path = Path(write(tmp_path, {"etc/bootseal/bootseal.conf": ""}), "etc/bootseal/bootseal.conf")
    path.write_bytes(f"[Enroll]\n# x{end}Method=none\n".encode())
    assert config.load(str(tmp_path)).method == "keyring"
    path.write_bytes(f"[Enroll]\nMethod=none{end}x\n".encode())
    assert verdict(config.load, str(tmp_path)) == "bad-config"
    path.write_bytes(f"[Enroll]\nMethod=none{end}\n".encode())
    assert verdict(config.load, str(tmp_path)) == ("accepted" if end == "\r" else "bad-config")


def test_largest_file_is_read_and_counted_in_bytes(tmp_path: Path) -> None:
    path = Path(write(tmp_path, {"etc/bootseal/bootseal.conf": ""}), "etc/bootseal/bootseal.conf")
    path.write_bytes(b"#" * config.MAX_SIZE)
    assert config.load(str(tmp_path)) == DEFAULT
    path.write_bytes(b"#" * (config.MAX_SIZE - 1) + "\u00fc".encode())
    assert "larger than" in refusal(config.load, str(tmp_path)).what


ETC, USR = "etc/bootseal/bootseal.conf", "usr/lib/bootseal/bootseal.conf"
PRECEDENCE: dict[str, tuple[dict[str, str], str]] = {
    "/usr/lib alone": ({USR: method("none")}, "none"),
    "/etc before /usr/lib": ({ETC: method("none"), USR: method("fsverity")}, "none"),
    "an empty file in /etc replaces the other": ({ETC: "", USR: method("fsverity")}, "keyring"),
    "drop-in after the file": ({ETC: method("none"), USR + ".d/10.conf": method("fsverity")}, "fsverity"),
    "drop-ins by name": ({USR + ".d/20.conf": method("none"), ETC + ".d/10.conf": method("fsverity")}, "none"),
    "same name in /etc masks": ({ETC + ".d/10.conf": "", USR + ".d/10.conf": method("fsverity")}, "keyring"),
    "a link to /dev/null masks a drop-in": (
        {ETC + ".d/10.conf": "-> /dev/null", USR + ".d/10.conf": method("none")},
        "keyring",
    ),
    "a link to /dev/null masks the file": ({ETC: "-> /dev/null", USR: method("none")}, "keyring"),
    "a masked file leaves the drop-ins": ({ETC: "-> /dev/null", USR + ".d/10.conf": method("none")}, "none"),
    "another suffix is none": ({ETC + ".d/10.conf.bak": method("none"), ETC + ".d/README": "text"}, "keyring"),
    "hidden is none": ({ETC + ".d/.10.conf": method("none")}, "keyring"),
    "/run does not count": (
        {"run/bootseal/bootseal.conf": method("none"), "run/bootseal/bootseal.conf.d/1.conf": "bad"},
        "keyring",
    ),
    "/usr/local/lib does not count": ({"usr/local/lib/bootseal/bootseal.conf": method("none")}, "keyring"),
}


@pytest.mark.parametrize(("files", "expected"), PRECEDENCE.values(), ids=PRECEDENCE)
def test_precedence(files: dict[str, str], expected: str, tmp_path: Path) -> None:
    assert config.load(write(tmp_path, files)).method == expected


def test_a_bad_file_that_is_masked_is_not_read(tmp_path: Path) -> None:
    files = {USR: "junk", ETC: "", USR + ".d/1.conf": "junk", ETC + ".d/1.conf": "-> /dev/null"}
    assert config.load(write(tmp_path, files)) == DEFAULT


def test_keys_of_several_files_are_merged(tmp_path: Path) -> None:
    files = {ETC: method("fsverity"), ETC + ".d/1.conf": "[Enroll]\nRequired=yes", USR + ".d/2.conf": "[Keyring]\nSeal=no"}
    assert config.load(write(tmp_path, files)) == DEFAULT._replace(method="fsverity", required=True, seal=False)


def test_drop_ins_of_the_boot_keyring(tmp_path: Path) -> None:
    files = {
        "usr/lib/k/b.pem": "usr", "usr/lib/k/a.crt": "usr", "etc/k/b.pem": "etc", "etc/k/c.der": "-> /dev/null",
        "usr/lib/k/c.der": "usr", "etc/k/d.txt": "no", "etc/k/e.cer": "etc", "run/k/f.pem": "run",
    }  # fmt: skip
    found = config.drop_ins(write(tmp_path, files), "k", (".crt", ".pem", ".cer", ".der"))
    assert [str(Path(path).relative_to(tmp_path)) for path in found] == ["usr/lib/k/a.crt", "etc/k/b.pem", "etc/k/e.cer"]


# --- certificates of VOA

X509 = "kernel-keyring/fs-verity/x509"
VOA: dict[str, tuple[dict[str, str], list[str]]] = {
    "all directories, in order": (
        {f"{top}/voa/os/{X509}/{name}-certificate.pem": "" for top in ("usr/share", "usr/local/share", "etc") for name in "ba"},
        [f"{top}/voa/os/{X509}/{name}-certificate.pem" for top in ("etc", "usr/local/share", "usr/share") for name in "ab"],
    ),
    "another suffix, hidden": (
        {f"etc/voa/os/{X509}/{n}": "" for n in ("a.pem", "a-certificate.der", "a-certificate.pem~", ".a-certificate.pem")},
        [],
    ),
    "not what system credentials bring": ({f"run/voa/os/{X509}/a-certificate.pem": ""}, []),
    "not another operating system": (
        {f"etc/voa/{name}/{X509}/a-certificate.pem": "" for name in ("o", "os2", "os:1", "default")},
        [],
    ),
    "not another purpose": (
        {
            f"etc/voa/os/{purpose}/a-certificate.pem": ""
            for purpose in (
                "kernel-keyring/dm-verity/x509", "kernel-keyring/fs-verity/openpgp", "image/fs-verity/x509",
                "trust-anchor-kernel-keyring/fs-verity/x509", "kernel-keyring/fs-verity/x509/deeper",
            )
        },
        [],
    ),
    "a mask counts in every directory": (
        {
            f"etc/voa/os/{X509}/a-certificate.pem": "",
            f"usr/share/voa/os/{X509}/a-certificate.pem": "-> /dev/null",
            f"usr/share/voa/os/{X509}/b-certificate.pem": "",
        },
        [f"usr/share/voa/os/{X509}/b-certificate.pem"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "expected"), VOA.values(), ids=VOA)
def test_certificates_of_voa(files: dict[str, str], expected: list[str], tmp_path: Path) -> None:
    top = write(tmp_path, {**files, "etc/k/z.crt": ""})
    found = config.certificates(top, "k", (".crt",), "os")
    assert [str(Path(path).relative_to(top)) for path in found] == ["etc/k/z.crt", *expected]
    assert config.certificates(top, "k", (".crt",), "") == [f"{top}/etc/k/z.crt"]


# --- ostree/prepare-root.conf

ROOT = DEFAULT.roots["ostree"]
PREPARE_ROOT: dict[str, tuple[str, RootConfig]] = {
    "empty": ("", ROOT),
    "foreign keys are left to ostree": ("[composefs]\nenabled=signed\nkeypath=/x\n[foo]\nbar=1\n", ROOT),
    "sysroot.readonly=false": ("[sysroot]\nreadonly=false\n", ROOT._replace(sysroot_readonly=False)),
    "sysroot.readonly=true": ("[sysroot]\nreadonly=true\n", ROOT),
    "etc.transient": ("[etc]\ntransient=true\n", ROOT._replace(etc="transient")),
    "root.transient": ("[root]\ntransient=true\n", ROOT._replace(root_transient=True, root_readonly=False)),
    "root.transient-ro": ("[root]\ntransient-ro=true\n", ROOT._replace(root_transient=True)),
    "root.transient=false": ("[root]\ntransient=false\n", ROOT),
}


@pytest.mark.parametrize(("text", "expected"), PREPARE_ROOT.values(), ids=PREPARE_ROOT)
@pytest.mark.parametrize("directory", ["etc", "usr/lib"])
def test_prepare_root_conf_is_read(directory: str, text: str, expected: RootConfig, tmp_path: Path) -> None:
    assert config.load(write(tmp_path, {f"{directory}/ostree/prepare-root.conf": text})).roots["ostree"] == expected


def test_prepare_root_conf_in_etc_replaces_usr_lib(tmp_path: Path) -> None:
    files = {"etc/ostree/prepare-root.conf": "", "usr/lib/ostree/prepare-root.conf": "[etc]\ntransient=true\n"}
    assert config.load(write(tmp_path, files)).roots["ostree"] == ROOT


@pytest.mark.parametrize(
    "text",
    [
        "[etc]\ntransient=maybe",
        "[root]\ntransient=true\ntransient-ro=true",
        "[sysroot]\nreadonly=",
        "junk",
        "[root]\ntransient",
    ],
)
def test_invalid_prepare_root_conf_is_bad_config(text: str, tmp_path: Path) -> None:
    found = refusal(config.load, write(tmp_path, {"usr/lib/ostree/prepare-root.conf": text}))
    assert (found.verdict.name, found.path) == ("bad-config", str(tmp_path / "usr/lib/ostree/prepare-root.conf"))


# --- what is signed

SIGNED = {
    "digest-file": ("digest-file",),
    "image": ("image",),
    "digest-file image": ("digest-file", "image"),
    "image  digest-file": ("image", "digest-file"),
}


@pytest.mark.parametrize(("text", "expected"), SIGNED.items())
def test_what_a_signature_may_cover(text: str, expected: tuple[str, ...], tmp_path: Path) -> None:
    assert config.load(write(tmp_path, {ETC: f"[Policy]\nSigned={text}\n"})).signed == expected


@pytest.mark.parametrize("text", ["", "yes", "digest", "image image", "digest-file,image", "digest-file image x", "Image"])
def test_anything_else_is_bad_config(text: str, tmp_path: Path) -> None:
    assert verdict(config.load, write(tmp_path, {ETC: f"[Policy]\nSigned={text}\n"})) == "bad-config"


# --- bootc's setup-root-conf.toml

SETUP = DEFAULT.roots["composefs"]
SETUP_ROOT: dict[str, tuple[str, RootConfig]] = {
    "empty": ("", SETUP),
    "foreign keys are left to bootc": ("[etc]\nx = 1\n[other]\nmount = 1\n", SETUP),
    "transient root": ("[root]\ntransient = true\n", SETUP._replace(root_transient=True, root_readonly=False)),
    "transient etc": ("[etc]\ntransient = true\n", SETUP._replace(etc="transient")),
    "mount counts before transient": ('[etc]\ntransient = true\nmount = "bind"\n', SETUP._replace(etc="bind")),
    "bind": ('[etc]\nmount = "bind"\n', SETUP._replace(etc="bind")),
    "overlay": ('[etc]\nmount = "overlay"\n', SETUP._replace(etc="overlay")),
    "volatile": ('[etc]\nmount = "volatile"\n', SETUP._replace(etc="transient")),
    "none": ('[etc]\nmount = "none"\n[var]\nmount = "root"\n', SETUP._replace(etc="none", var="none")),
    "dotted": ('etc.mount = "none"\n', SETUP._replace(etc="none")),
}


@pytest.mark.parametrize(("text", "expected"), SETUP_ROOT.values(), ids=SETUP_ROOT)
def test_setup_root_conf_is_read(text: str, expected: RootConfig, tmp_path: Path) -> None:
    assert config.load(write(tmp_path, {config.SETUP_ROOT: text})).roots == {"ostree": ROOT, "composefs": expected}


BAD_SETUP_ROOT = [
    "[etc", "etc = 1\n", "[etc]\nmount = 1\n", '[etc]\nmount = "bound"\n', '[var]\ntransient = "yes"\n',
    "[root]\ntransient = 1\n", '[etc]\nmount = "bind"\n[etc]\n', "x" * 65537,
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_SETUP_ROOT, ids=lambda text: repr(text[:30]))
def test_bad_setup_root_conf(text: str, tmp_path: Path) -> None:
    found = refusal(config.load, write(tmp_path, {config.SETUP_ROOT: text}))
    assert (found.verdict.name, found.path) == ("bad-config", f"{tmp_path}/{config.SETUP_ROOT}")


def test_without_that_file_nothing_reads_toml(tmp_path: Path) -> None:
    """Its modules would be in every initrd."""
    code = "import sys; from bootseal.stages import config; config.load(sys.argv[1]); print('tomllib' in sys.modules)"
    assert run_python(code, str(tmp_path)) == "False\n"


def test_keys_are_complete() -> None:
    names: Any = {"Keyring.Seal", "Keyring.VOA", "Enroll.Method", "Enroll.Required", "Policy.OnRefusal", "Policy.Signed"}
    assert {".".join(key) for key in config.KEYS} == names


def test_file_above_the_size_limit_is_bad_config(tmp_path: Path) -> None:
    text = method("none").ljust(64 * 1024, "#")
    assert config.load(write(tmp_path, {ETC: text})).method == "none"
    (tmp_path / ETC).write_text(text + "#")
    assert verdict(config.load, str(tmp_path)) == "bad-config"
