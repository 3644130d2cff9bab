# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal verify: the verdict of the next boot, before it."""

import argparse

from ... import record as records
from ... import verdicts
from .. import arguments as shared
from .. import continuity, deployments
from ..checker import Checker, describe_untrusted
from ..deployments import Deployed
from ..dryrun import Judgement
from ..output import USAGE, Failure, emit, error, table, warning

_COLOURS = (
    {"unknown": "yellow"} | {"verified": "green"} | {v.name: "red" for v in verdicts.VERDICTS if v is not verdicts.VERIFIED}
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--all", action="store_true", help="every deployment, as a table")
    shared.add_source_arguments(parser)
    parser.add_argument("--cmdline", metavar="TEXT", help="kernel command line (default: that of the deployment's boot entry)")
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="each deviation of a refused signature or certificate by name"
    )


def run(arguments: argparse.Namespace, _command: list[str]) -> int:
    """Print the verdict of one deployment or of all, and return the exit status."""
    sysroot = shared.sysroot(arguments)
    checker = Checker(sysroot, shared.key_source(arguments), verbose=arguments.verbose)
    if arguments.all:
        if arguments.deployment or arguments.cmdline:
            raise Failure(USAGE, "Failed to read the command line: --all cannot be used with DEPLOYMENT or --cmdline=")
        everything = deployments.require_any(deployments.list_all(sysroot), sysroot)
        checker.read_initrds(everything)
        return _print_all([(deployed, _check_or_explain(checker, deployed)) for deployed in everything], arguments.json)
    deployed = deployments.choose(sysroot, arguments.deployment)
    if arguments.cmdline is not None:
        state = "" if deployed.state == "staged" else deployed.state
        deployed = deployed._replace(options=arguments.cmdline, state=state)
    return _print_one(deployed, checker.check(deployed), arguments.json)


def _check_or_explain(checker: Checker, deployed: Deployed) -> Judgement:
    """Return the record, also of a deployment without keys, because the table goes on."""
    try:
        return checker.check(deployed)
    except Failure as failure:
        return {
            "verdict": "unknown",
            "message": failure.what,
            "hint": failure.hint,
            "exit_status": failure.status,
            "missing": [],
        }


def _print_one(deployed: Deployed, record: Judgement, json: str) -> int:
    status: int = record["exit_status"]
    emit(_with_name(deployed, record), json, _as_text(deployed, record))
    if text := describe_untrusted(record):
        warning(f"the firmware would not start {deployed.name}: {text}")
    if status:
        error(record["message"], record.get("hint", ""))
    return status


def _print_all(judgements: list[tuple[Deployed, Judgement]], json: str) -> int:
    rows = [["NAME ON DISK", "STATE", "VERDICT", "IMAGE", "SIGNER", "MISSING"]]
    for deployed, record in judgements:
        signer = record.get("signature", {}).get("subject", "")
        missing = str(len(record["missing"]) or "")
        rows.append([deployed.name, deployed.state, record["verdict"], _name_image(record), signer, missing])
    emit([_with_name(*pair) for pair in judgements], json, table(rows, _COLOURS))
    for deployed, record in judgements:
        if record["exit_status"]:
            error(f"{deployed.name}: {record['message']}", record.get("hint", ""))
    return next((record["exit_status"] for _, record in judgements if record["exit_status"]), 0)


def _name_image(judgement: Judgement) -> str:
    """Return the image's own name and version, as far as they are known."""
    image = records.parse(judgement).image
    return image.name if image else ""


def _with_name(deployed: Deployed, record: Judgement) -> Judgement:
    return {"name": deployed.name, "state": deployed.state} | record


def _as_text(deployed: Deployed, record: Judgement) -> str:
    lines = [
        [deployed.name + (f" ({deployed.state})" if deployed.state else "") + ", as the disk names it:", record["verdict"]]
    ]
    if name := _name_image(record):
        lines.append(["  image", name])
    if "image" in record:
        lines.append(["  digest", f"{record['image']['algorithm']}:{record['image']['digest']}"])
    if signature := record.get("signature"):
        lines.append(["  signer", f"{signature['subject']} ({signature['algorithm']}, until {signature['not_after']})"])
    lines.append(["  keys", f"{record.get('keyring', {}).get('certificates', 0)} from {record['keys']}"])
    lines += [[f"  {kind}", line] for kind, line in continuity.describe(record)]
    if signature := record.get("uki_signature"):
        lines.append(["  UKI", f"{signature['state']}: {signature['text']}"])
    lines += [["  missing", line] for line in record["missing"]]
    if "not_covered" in record:
        lines.append(["  not covered", ", ".join(record["not_covered"])])
    for finding in record.get("findings", ()):
        lines.append(["  deviation", f"{finding['name']}: the kernel {finding['kernel']}; {finding['remedy']}"])
    head, *rest = lines
    return "\n".join([table([head], _COLOURS), *([table(rest, {})] if rest else [])])
