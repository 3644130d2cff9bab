# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands that run when a boot did not go well: undo what a kill left, give it a verdict, and tell people.

`cleanup` is ExecStopPost= of bootseal.service; systemd sets $SERVICE_RESULT, $EXIT_CODE and $EXIT_STATUS, see
systemd.exec(5). `guard` is bootseal-guard.service, `changed` runs before the switch, `greeting` before an emergency shell.
"""

import os

from . import report, verdicts
from .errors import Refusal, reason
from .record import Noted, Record, Trail
from .stages import enable, lastlook, mount, physicalroot

_SERVICE, _MOUNT = "bootseal.service", "sysroot.mount"
_MOUNT_HINT = "find the reason in 'systemctl status sysroot.mount', then mount it at /sysroot and leave this shell"
_TEXTS = {"timeout": "out of time", "signal": "killed", "watchdog": "out of time", "oom-kill": "out of memory"}
_INDENT = 18
_REBOOT, _OTHERWISE = "reboot", "or reboot and choose another boot entry"
_GO_ON = f"'systemctl restart bootseal.service' and leave this shell, {_OTHERWISE}"
_MORE = "journalctl -b -u bootseal.service; /run/bootseal/boot.json; the manual page bootseal.service(8)"


def cleanup() -> int:
    """Always return 0, because the service has failed already."""
    result = os.environ.get("SERVICE_RESULT", "")
    if result == "success":
        return 0
    trail = _trail()
    for undo in (mount.detach, enable.restore_read_only):
        try:
            undo()
        except Exception as error:  # the other step must run, and the end needs its verdict
            why = reason(error) if isinstance(error, OSError) else repr(error)
            trail(Noted(verdicts.NOT_PUT_BACK, f"could not put back what was begun: {why}"))
    if not _is_reported():
        report.refuse(trail, _explain_early_end(result))
    return 0


def guard() -> int:
    """Refuse the boot if the service left no record. Return 0 if a verified root is attached nevertheless.

    If the physical root is not mounted, the service may still wait for it.
    """
    if mount.attached_digest():
        return 0
    if physicalroot.is_mounted():
        refusal = Refusal(verdicts.INTERRUPTED, "it never ran: masked or missing", _SERVICE)
    else:
        refusal = Refusal(verdicts.INTERRUPTED, "the physical root could not be mounted", _MOUNT, _MOUNT_HINT)
    return report.refuse(_trail(), refusal)


def changed() -> int:
    """Refuse the switch because the mounts are not those that were attached. Never return 0."""
    try:
        what = f"other mounts than bootseal.service attached: {lastlook.difference() or 'while they were compared'}"
    except (OSError, ValueError):
        return report.refuse(_trail(), Refusal(verdicts.INTERRUPTED, "no verified root is attached", lastlook.SYSROOT))
    return report.overrule(Refusal(verdicts.CHANGED, what, lastlook.SYSROOT))


def greeting() -> int:
    """Repeat the report of a refused boot above the emergency shell's prompt, on every console. Return 0."""
    record = report.load()
    if record.verdict and not record.is_verified:
        for line in _format_greeting(record):
            report.console(line)
    return 0


def _trail() -> Trail:
    """Begin the report of a boot that another process ran; the times of its stages are unknown."""
    return Trail(report.this_machine(), timed=False)


def _explain_early_end(result: str) -> Refusal:
    """Explain an end without a verdict. An exit is a defect of bootseal or of the initrd, such as a missing module."""
    status = os.environ.get("EXIT_STATUS", "")
    if result == "exit-code":
        return Refusal(verdicts.INTERNAL, f"it ended with status {status} and left no verdict", _SERVICE)
    return Refusal(verdicts.INTERRUPTED, _TEXTS.get(result, f"ended early ({result})"), _SERVICE)


def _is_reported() -> bool:
    """Tell whether the service exited by itself with a verdict's own status, and so has reported it."""
    known = {str(verdict.exit_status) for verdict in verdicts.VERDICTS if verdict is not verdicts.INTERRUPTED}
    ended = os.environ.get("EXIT_CODE") == "exited" and os.environ.get("EXIT_STATUS") in known
    return ended and report.load().verdict is not None


def _describe_next_step(record: Record) -> str:
    if record.verdict == verdicts.CHANGED.name:
        return _REBOOT
    return _OTHERWISE if record.hint == _MOUNT_HINT else _GO_ON  # the service waits for the mount: a restart would kill it


def _format_greeting(record: Record) -> list[str]:
    rows = [
        ("", record.message or ""),
        *((detail.name, detail.value) for detail in record.details or ()),
        ("what to do", record.hint or ""),
        *(("note", text) for text in record.notes or ()),
        ("then", _describe_next_step(record)),
        ("more", _MORE),
    ]
    lines = [f"  {name:{_INDENT}}{value}" if name else f"  {value}" for name, value in rows]
    return ["", "bootseal: this boot was refused", *lines, ""]
