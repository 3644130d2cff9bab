# SPDX-License-Identifier: LGPL-2.1-or-later
"""What systemd says of the unit, over D-Bus, by pydbus. Asks; changes nothing."""

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
    """No answer; the text says why, in one line."""


def ask(bus: Any = None) -> Answer:
    """Raises Unavailable: no pydbus, no D-Bus, no systemd, or none that answers."""
    found: list[Answer | Unavailable] = []
    # Connecting has no time limit of its own: a bus that takes the connection and then says nothing would hold us for ever.
    thread = threading.Thread(target=lambda: found.append(_outcome(bus)), daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    outcome = found[0] if found else Unavailable(f"systemd gives no answer over D-Bus: none within {_TIMEOUT} seconds")
    if isinstance(outcome, Unavailable):
        raise outcome
    return outcome


def _outcome(bus: Any) -> Answer | Unavailable:
    try:
        return _ask(bus)
    except Unavailable as unavailable:
        return unavailable


def _ask(bus: Any) -> Answer:
    try:
        import pydbus
    except (ImportError, ValueError) as error:  # ValueError: PyGObject without the type library
        raise Unavailable(f"pydbus cannot be used: install python3-pydbus ({_line(error)})") from error
    try:
        connected = pydbus.SystemBus() if bus is None else bus
        manager = connected.get(_SERVICE, "/org/freedesktop/systemd1", timeout=_TIMEOUT)
        path = manager.LoadUnit(UNIT, timeout=_TIMEOUT)
        return Answer(_unit(connected.get(_SERVICE, path, timeout=_TIMEOUT)), _soft_reboots(manager))
    # GLib.Error, and what pydbus makes of an object without the interface or property (AttributeError, KeyError)
    except Exception as error:
        raise Unavailable(f"systemd gives no answer over D-Bus: {_line(error)}") from error


def _unit(proxy: Any) -> Unit:
    return Unit(
        load_state=proxy.LoadState,
        active_state=proxy.ActiveState,
        sub_state=proxy.SubState,
        result=proxy.Result,
        status_text=printable(proxy.StatusText),
        exit_status=proxy.ExecMainStatus,
    )


def _soft_reboots(proxy: Any) -> int | None:
    try:
        return int(proxy.SoftRebootsCount)
    except AttributeError:
        return None


def _line(error: BaseException) -> str:
    """The first line of a message; GLib.Error has one as attribute."""
    text = str(getattr(error, "message", error)) or error.__class__.__name__
    return printable(text.splitlines()[0])
