# SPDX-License-Identifier: LGPL-2.1-or-later
"""As much of JSON Schema (draft 2020-12) as packaging/boot.schema.json uses; any other keyword is an error."""

import json
import re
from pathlib import Path
from typing import Any

SCHEMA: dict[str, Any] = json.loads((Path(__file__).resolve().parents[3] / "packaging/boot.schema.json").read_text())
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
}  # fmt: skip
_NOTES = {"$schema", "title", "description"}
_KEYWORDS = {
    "type", "const", "enum", "pattern", "minimum", "required", "properties", "additionalProperties", "items", "if", "then",
}  # fmt: skip


def errors(value: Any, schema: Any = None, where: str = "$") -> list[str]:
    """List each violation of the schema by a value, with its place."""
    schema = SCHEMA if schema is None else schema
    if isinstance(schema, bool):
        return [] if schema else [f"{where}: not allowed"]
    assert not (strange := schema.keys() - _KEYWORDS - _NOTES), f"keywords that this reader does not know: {strange}"
    found = _simple(value, schema, where)
    if isinstance(value, dict):
        found += _members(value, schema, where)
    if isinstance(value, list) and "items" in schema:
        found += [e for n, item in enumerate(value) for e in errors(item, schema["items"], f"{where}[{n}]")]
    if "if" in schema and not errors(value, schema["if"], where):
        found += errors(value, schema["then"], where)
    return found


def _simple(value: Any, schema: dict[str, Any], where: str) -> list[str]:
    is_bool = isinstance(value, bool)
    kind = schema.get("type")
    if kind and (not isinstance(value, _TYPES[kind]) or (is_bool and kind != "boolean")):
        return [f"{where}: no {kind}: {value!r}"]
    found = []
    if "const" in schema and (value != schema["const"] or is_bool):
        found.append(f"{where}: not {schema['const']!r}: {value!r}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: none of {schema['enum']}: {value!r}")
    if "pattern" in schema and isinstance(value, str) and not re.search(schema["pattern"], value):
        found.append(f"{where}: not like {schema['pattern']}: {value!r}")
    if "minimum" in schema and value < schema["minimum"]:
        found.append(f"{where}: below {schema['minimum']}: {value!r}")
    return found


def _members(value: dict[str, Any], schema: dict[str, Any], where: str) -> list[str]:
    known = schema.get("properties", {})
    found = [f"{where}: no {name}" for name in schema.get("required", ()) if name not in value]
    for name, member in value.items():
        found += errors(member, known.get(name, schema.get("additionalProperties", True)), f"{where}.{name}")
    return found
