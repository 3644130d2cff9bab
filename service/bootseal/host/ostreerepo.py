# SPDX-License-Identifier: LGPL-2.1-or-later
"""Write to an ostree repository by libostree's own binding: a signature into the metadata of a commit.

A commit's detached metadata is one dictionary, in which ostree keeps its own signatures. Reading needs no libostree, see
carriers.py.
"""

import base64
from typing import Any

from . import carriers
from .carriers import Commit
from .output import CANNOT_CREATE, UNAVAILABLE, Failure


def attach(commit: Commit, signature: bytes) -> None:
    """Add the signature to the commit's detached metadata, in the place of an earlier one. Raises Failure."""
    ostree, glib = _import()
    try:
        repository = _open(ostree, commit.root)
        _, before = repository.read_commit_detached_metadata(commit.checksum, None)
        entries = _entries(before) | {carriers.KEY: glib.Variant("ay", signature)}
        repository.write_commit_detached_metadata(commit.checksum, glib.Variant("a{sv}", entries), None)
    except glib.Error as error:
        raise _failure(commit, error) from error


def commit_again(commit: Commit, branch: str, signature: bytes) -> Commit:
    """Commit the same tree, with the signature in the commit's own metadata, and let the branch name it. Raises Failure.

    'ostree container encapsulate --copymeta' copies that string to a label and an annotation.
    """
    ostree, glib = _import()
    try:
        repository = _open(ostree, commit.root)
        _, variant, _ = repository.load_commit(commit.checksum)
        _, tree, _ = repository.read_commit(commit.checksum, None)
        entries = _entries(variant.get_child_value(0))
        entries[carriers.KEY] = glib.Variant("s", base64.b64encode(signature).decode())
        subject, body = (variant.get_child_value(number).get_string() for number in (3, 4))
        parent, time = ostree.commit_get_parent(variant), ostree.commit_get_timestamp(variant)
        repository.prepare_transaction(None)
        try:
            metadata = glib.Variant("a{sv}", entries)
            _, checksum = repository.write_commit_with_time(parent, subject, body, metadata, tree, time, None)
            repository.transaction_set_ref(None, branch, checksum)
            repository.commit_transaction(None)
        except BaseException:
            repository.abort_transaction(None)
            raise
    except glib.Error as error:
        raise _failure(commit, error) from error
    return commit._replace(checksum=checksum)


def _import() -> tuple[Any, Any]:
    try:
        import gi

        gi.require_version("OSTree", "1.0")
        from gi.repository import GLib, OSTree
    except (ImportError, ValueError) as error:
        hint = "install PyGObject and the typelib of ostree: on Debian python3-gi and gir1.2-ostree-1.0"
        raise Failure(UNAVAILABLE, f"Failed to load the binding of libostree: {error}", hint) from error
    return OSTree, GLib


def _open(ostree: Any, path: str) -> Any:
    from gi.repository import Gio

    repository = ostree.Repo.new(Gio.File.new_for_path(path))
    repository.open(None)
    return repository


def _entries(dictionary: Any) -> dict[str, Any]:
    """Return the values of an a{sv} with their types; empty without one."""
    children = (dictionary.get_child_value(number) for number in range(dictionary.n_children() if dictionary else 0))
    return {child.get_child_value(0).get_string(): child.get_child_value(1).get_variant() for child in children}


def _failure(commit: Commit, error: Any) -> Failure:
    return Failure(CANNOT_CREATE, f"Failed to sign the commit {commit.checksum} in {commit.root}: {error.message}")
