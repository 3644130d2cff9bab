# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test lazyre.py: patterns are compiled on first use, and re.compile() is restored."""

import re
import subprocess
import sys
from pathlib import Path

import cryptography
import pytest

from bootseal import lazyre
from unit.support import SERVICE


def test_pattern_is_compiled_on_first_use() -> None:
    with lazyre.Later():
        made = re.compile("(A)(b)", re.IGNORECASE)
        named = re.compile(pattern="a+", flags=re.IGNORECASE)
    assert type(made).__name__ == "_Pattern"
    found = made.fullmatch("aB")
    assert found
    assert found.groups() == ("a", "B")
    assert made.pattern == "(A)(b)"
    assert named.findall("xAay") == ["Aa"]


def test_malformed_pattern_raises_on_first_use() -> None:
    with lazyre.Later():
        made = re.compile("(")
    with pytest.raises(re.error):
        made.match("x")


def test_re_compile_is_restored_after_an_error() -> None:
    with pytest.raises(ImportError), lazyre.Later():
        raise ImportError
    assert isinstance(re.compile("x"), re.Pattern)


def test_boot_does_not_compile_the_grammar_of_names() -> None:
    site = str(Path(cryptography.__file__).parents[1])
    code = f"""import sys
sys.path[:0] = [{str(SERVICE)!r}, {site!r}]
import re
from bootseal import lazyre
with lazyre.Later():
    import bootseal.boot
from cryptography.x509 import name
import cryptography.x509
print(isinstance(name._RFC4514NameParser._STRING_RE, re.Pattern))
print(cryptography.x509.Name.from_rfc4514_string("CN=a b").rfc4514_string())"""
    done = subprocess.run([sys.executable, "-ISB", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["False", "CN=a b"]
