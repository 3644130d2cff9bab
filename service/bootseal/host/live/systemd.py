# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask systemd about the unit over D-Bus, with pydbus."""

import threading
from typing import Any, NamedTuple

from ...errors import printable

UNIT = "bootseal.service"
_SERVICE = "org.freedesktop.systemd1"
_TIMEOUT = 20  # seconds; importing GLib alone takes 3 in an emulated guest


class Unit(NamedTuple):
    """Properties of org.freedesktop.systemd1.Unit and .Service."""

    load_state: str
    active_state: str
    sub_state: str
    result: str
    status_text: str
    exit_status: int


class Answer(NamedTuple):
    """`soft_reboots` is None where systemd does not count them (before version 256)."""

    unit: Unit
    soft_reboots: int | None


class Unavailable(Exception):
    """systemd did not answer; the text says why, in one line."""


def ask(bus: Any = None) -> Answer:
    """Ask for the state of the unit.

    Raises Unavailable without pydbus, without D-Bus, or without an answer of systemd.
    """
    outcomes: list[Answer | Unavailable] = []
    # Connecting never times out: a bus that accepts the connection and stays silent would hold this program for ever.
    thread = threading.Thread(target=lambda: outcomes.append(_try_ask(bus)), daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    outcome = (
        outcomes[0] if outcomes else Unavailable(f"systemd gives no answer over D-Bus: timed out after {_TIMEOUT} seconds")
    )
    if isinstance(outcome, Unavailable):
        raise outcome
    return outcome


def _try_ask(bus: Any) -> Answer | Unavailable:
    try:
        return _ask(bus)
    except Unavailable as unavailable:
        return unavailable


def _ask(bus: Any) -> Answer:
    try:
        import pydbus
    except (ImportError, ValueError) as error:  # ValueError: PyGObject without the type library
        raise Unavailable(f"pydbus cannot be used: install python3-pydbus ({_first_line(error)})") from error
    try:
        connected = pydbus.SystemBus() if bus is None else bus
        manager = connected.get(_SERVICE, "/org/freedesktop/systemd1", timeout=_TIMEOUT)
        path = manager.LoadUnit(UNIT, timeout=_TIMEOUT)
        return Answer(_read_unit(connected.get(_SERVICE, path, timeout=_TIMEOUT)), _count_soft_reboots(manager))
    # GLib.Error; and AttributeError or KeyError, if the object lacks the interface or property
    except Exception as error:
        raise Unavailable(f"systemd gives no answer over D-Bus: {_first_line(error)}") from error


def _read_unit(proxy: Any) -> Unit:
    return Unit(
        load_state=proxy.LoadState,
        active_state=proxy.ActiveState,
        sub_state=proxy.SubState,
        result=proxy.Result,
        status_text=printable(proxy.StatusText),
        exit_status=proxy.ExecMainStatus,
    )


def _count_soft_reboots(proxy: Any) -> int | None:
    try:
        return int(proxy.SoftRebootsCount)
    except AttributeError:
        return None


def _first_line(error: BaseException) -> str:
    """Return the first line of a message, which GLib.Error has as an attribute."""
    text = str(getattr(error, "message", error)) or error.__class__.__name__
    return printable(text.splitlines()[0])
