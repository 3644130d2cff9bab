# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test formats/jsontext.py: the standard library reads back what it writes."""

import json

import pytest

from bootseal.formats import jsontext

VALUES = [
    "", "text", 'a"b\\c/', "\n\t\x00\x1f\x7f", "\xe9\u20ac", "\U0001f600\U0010ffff", "\udcff",
    True, False, 0, -1, 2**70, 0.1, 1e300,
    [], {}, [True, [1, "x"], {"a": []}], {"a": {"b": [1.5]}, "\xe9": "x"},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_it_reads_back(value: object) -> None:
    written = jsontext.write(value)
    assert json.loads(written) == value
    assert written.isascii()
    assert written.isprintable()


@pytest.mark.parametrize("value", [None, b"", (), {1}, object()], ids=repr)
def test_no_record_has_other_types(value: object) -> None:
    with pytest.raises(TypeError):
        jsontext.write([value])
