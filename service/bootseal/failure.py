# SPDX-License-Identifier: LGPL-2.1-or-later
"""What systemd runs after the service ended otherwise than well: puts back what a kill left, and gives that end a verdict.

ExecStopPost= of bootseal.service; $SERVICE_RESULT, $EXIT_CODE and $EXIT_STATUS are systemd's, see systemd.exec(5). Also what
bootseal-guard.service runs when the service never did.
"""

import os

from . import report, verdicts
from .errors import Refusal, reason
from .stages import enable, lastlook, mount

_SERVICE = "bootseal.service"
_TEXTS = {"timeout": "out of time", "signal": "killed", "watchdog": "out of time", "oom-kill": "out of memory"}


def main() -> int:
    """ExecStopPost= of the service. Returns 0, whatever happened: the service has failed already."""
    result = os.environ.get("SERVICE_RESULT", "")
    if result == "success":
        return 0
    recorder = report.Recorder()
    for undo in (mount.detach, enable.restore_read_only):
        try:
            undo()
        except Exception as error:  # whatever it is, the other steps are tried and the end gets its verdict
            why = reason(error) if isinstance(error, OSError) else repr(error)
            recorder.note(verdicts.NOT_PUT_BACK, f"could not put back what was begun: {why}")
    if not _reported():
        report.refused(recorder, _end(result))
    return 0


def guard() -> int:
    """bootseal-guard.service: the moment for a verdict has passed and no record of one is there.

    Returns 0 only if a verified root is attached all the same: the record could not be written.
    """
    if mount.attached_digest():
        return 0
    what = "it never ran: masked, missing, or the physical root could not be mounted"
    return report.refused(report.Recorder(), Refusal(verdicts.INTERRUPTED, what, _SERVICE))


def changed() -> int:
    """initrd-switch-root.service: the last look found other mounts than were attached. Never returns 0."""
    try:
        what = f"other mounts than bootseal.service attached: {lastlook.difference() or 'while they were compared'}"
    except (OSError, ValueError):
        return report.refused(
            report.Recorder(), Refusal(verdicts.INTERRUPTED, "no verified root is attached", lastlook.SYSROOT)
        )
    return report.refused(report.resumed(), Refusal(verdicts.CHANGED, what, lastlook.SYSROOT))


def _end(result: str) -> Refusal:
    """An end by itself, without a verdict, is an error of ours or of what the initrd holds: a module is missing there, say."""
    status = os.environ.get("EXIT_STATUS", "")
    if result == "exit-code":
        return Refusal(verdicts.INTERNAL, f"it ended with status {status} and left no verdict", _SERVICE)
    return Refusal(verdicts.INTERRUPTED, _TEXTS.get(result, f"ended early ({result})"), _SERVICE)


def _reported() -> bool:
    """Whether the service exited by itself with a verdict's own status, and so has said everything."""
    known = {str(verdict.exit_status) for verdict in verdicts.VERDICTS if verdict is not verdicts.INTERRUPTED}
    ended = os.environ.get("EXIT_CODE") == "exited" and os.environ.get("EXIT_STATUS") in known
    return ended and bool(report.load())
