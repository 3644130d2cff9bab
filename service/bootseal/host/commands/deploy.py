# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal deploy: put digest and signature beside a deployment's image, and enable fs-verity on it.

It writes nothing that the boot would refuse.
"""

import argparse
from typing import Any

from ... import verdicts
from ...errors import printable
from .. import arguments as shared
from .. import deployments, gateunits, placing
from ..checker import Checker
from ..deployed import Deployed
from ..dryrun import INCOMPLETE
from ..output import USAGE, Failure, emit, error, note

_MAX_ROUNDS = 8
_UNSEALED = (INCOMPLETE.name, verdicts.IMAGE_UNSEALED.name)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--digest",
        metavar="FILE",
        help="the digest file that 'bootseal sign' made (default: computed from the deployment's image)",
    )
    parser.add_argument(
        "--signature",
        metavar="FILE",
        help="the signature that 'bootseal sign' made (default: the first one of the commit that the boot accepts)",
    )
    parser.add_argument("--all", action="store_true", help="complete every deployment that can boot")
    parser.add_argument("--objects", action="store_true", help="also enable fs-verity on the image's objects where it is off")
    parser.add_argument(
        "--offline", action="store_true", help="do not enable fs-verity; the target must, before its first boot"
    )
    shared.add_source_arguments(parser)


def run(arguments: argparse.Namespace, _command: list[str]) -> int:
    """Complete a deployment or all, and return the exit status. Raises Failure, Refusal."""
    sysroot = shared.sysroot(arguments)
    checker = Checker(sysroot, shared.key_source(arguments))
    if arguments.objects and arguments.offline:
        raise Failure(USAGE, "Failed to read the command line: --offline cannot be used with --objects")
    if arguments.all:
        return _place_all(arguments, sysroot, checker)
    deployed = deployments.choose(sysroot, arguments.deployment)
    wish = placing.Wish(arguments.digest, arguments.signature, arguments.objects, arguments.offline)
    changed = placing.place(sysroot, deployed, checker, wish)
    record = checker.check(deployed)
    if deployed.state == "staged":
        gateunits.look_again()
    text = f"{printable(deployed.name)}: {record['verdict']}{'' if changed else ' (nothing to change)'}"
    emit(record | {"changed": changed}, arguments.json, text)
    unsealed = arguments.offline and record["verdict"] in _UNSEALED
    if record["exit_status"] and not unsealed:
        error(f"Deployment {deployed.name} would not boot: {record['message']}", record["hint"])
        return int(record["exit_status"])
    for line in record["missing"]:
        note(f"missing: {line}")
    if unsealed:
        note(f"the image must still be sealed: {record['hint']}")
    return 0


def _place_all(arguments: argparse.Namespace, sysroot: str, checker: Checker) -> int:
    """Complete each deployment that boots and is not complete; go on after a failure, and return the first exit status."""
    if arguments.deployment or arguments.digest or arguments.signature:
        what = "--all cannot be used with DEPLOYMENT, --digest= or --signature="
        raise Failure(USAGE, f"Failed to read the command line: {what}")
    wish = placing.Wish(seal_objects=arguments.objects, offline=arguments.offline)
    done: dict[str, dict[str, Any]] = {}
    for _ in range(_MAX_ROUNDS):
        before = deployments.stamp(sysroot)
        for deployed in deployments.require_any(deployments.list_all(sysroot), sysroot):
            if deployed.options is not None and (wish.seal_objects or not placing.is_placed(sysroot, deployed)):
                done[deployed.path] = _try(sysroot, deployed, checker, wish)
        # systemd's path units see no change while their service runs.
        if deployments.stamp(sysroot) == before:
            break
    placing.remove_orphans(sysroot)
    return _report_all(list(done.values()), arguments.json)


def _report_all(done: list[dict[str, Any]], json: str) -> int:
    text = "\n".join(f"{printable(str(one['name']))}: {one['message']}" for one in done)
    emit(done, json, text or "nothing to change")
    return next((int(one["exit_status"]) for one in done if one["exit_status"]), 0)


def _try(sysroot: str, deployed: Deployed, checker: Checker, wish: placing.Wish) -> dict[str, Any]:
    result = {"name": deployed.name, "state": deployed.state}
    if problem := placing.attempt(sysroot, deployed, checker, wish):
        return result | {"exit_status": problem.status, "message": problem.what, "hint": problem.hint}
    return result | {"exit_status": 0, "message": "digest and signature are in place"}
