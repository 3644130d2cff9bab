# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal verify: the verdict of the next boot, before it."""

import argparse

from ... import record as records
from ... import verdicts
from ...values import DIGEST_FILE, IMAGE
from .. import arguments as shared
from .. import continuity, deployments, filecheck
from ..checker import Checker, describe_untrusted
from ..deployed import Deployed
from ..dryrun import INCOMPLETE, Judgement, Source, list_certificates
from ..output import USAGE, Failure, emit, error, note, table, warning

_COLOURS = (
    {"unknown": "yellow", INCOMPLETE.name: "yellow"}
    | {"verified": "green"}
    | {v.name: "red" for v in verdicts.VERDICTS if v is not verdicts.VERIFIED}
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--all", action="store_true", help="every deployment, as a table")
    shared.add_source_arguments(parser)
    parser.add_argument("--cmdline", metavar="TEXT", help="kernel command line (default: that of the deployment's boot entry)")
    parser.add_argument("-v", "--verbose", action="store_true", help="what the signature names, and each deviation by name")
    files = parser.add_argument_group("files or a commit, instead of a deployment, with --keys= or --cert=")
    files.add_argument("--signature", metavar="FILE", help="the signature (default: that beside --image=)")
    files.add_argument("--digest", metavar="FILE", help="the digest file (default: that beside --image=, or computed)")
    files.add_argument("--image", metavar="FILE", help="composefs image, whose digest is computed and compared")
    files.add_argument("--repo", metavar="REPO", help="ostree repository; DEPLOYMENT is a commit there, by checksum or branch")
    files.add_argument("--cert", metavar="FILE", help="certificates to trust")
    files.add_argument("--signed", choices=(DIGEST_FILE, IMAGE), help="what the signature covers (default: digest-file)")


def run(arguments: argparse.Namespace, _command: list[str]) -> int:
    """Print the verdict of one deployment or of all, and return the exit status."""
    if arguments.signature or arguments.digest or arguments.image or arguments.repo:
        return _verify_files(arguments)
    for name in ("cert", "signed"):
        if getattr(arguments, name):
            raise Failure(USAGE, f"Failed to read the command line: --{name}= needs --signature=, --image= or --repo=")
    sysroot = shared.sysroot(arguments)
    checker = Checker(sysroot, shared.key_source(arguments), verbose=arguments.verbose)
    if arguments.all:
        if arguments.deployment or arguments.cmdline:
            raise Failure(USAGE, "Failed to read the command line: --all cannot be used with DEPLOYMENT or --cmdline=")
        everything = deployments.require_any(deployments.list_all(sysroot), sysroot)
        checker.read_initrds(everything)
        return _print_all([(deployed, _check_or_explain(checker, deployed)) for deployed in everything], arguments.json)
    if arguments.deployment is None and arguments.cmdline is None:
        return _print_one(*_check_next(checker, deployments.choose_next(sysroot)), arguments.json)
    deployed = deployments.choose(sysroot, arguments.deployment)
    if arguments.cmdline is not None:
        state = "" if deployed.state == "staged" else deployed.state
        deployed = deployed._replace(options=arguments.cmdline, state=state)
    return _print_one(deployed, checker.check(deployed), arguments.json)


def _check_next(checker: Checker, tried: list[Deployed]) -> tuple[Deployed, Judgement]:
    """Return the first that would boot, with its record; without one, the one whose refusal the boot would report."""
    refused: list[tuple[Deployed, Judgement]] = []
    for deployed in tried:
        record = checker.check(deployed)
        if not record["exit_status"] or record["verdict"] == INCOMPLETE.name:
            told = deployed, record
            break
        refused.append((deployed, record))
    else:
        told = refused[verdicts.most_telling([record["verdict"] for _, record in refused])]
    for other, record in refused:
        if other is not told[0]:
            note(f"another image would be refused ({record['verdict']}): {record['message']}")
    return told


def _verify_files(arguments: argparse.Namespace) -> int:
    """Judge files or a commit, and return the exit status. Raises Failure, Refusal."""
    _check_usage(arguments)
    if arguments.repo:
        name, everything = arguments.deployment, filecheck.read_commit(arguments.repo, arguments.deployment)
    else:
        one = filecheck.read(arguments.image, arguments.digest, arguments.signature)
        name, everything = one.signature_name, [one]
    everything = [one._replace(forms=(arguments.signed or DIGEST_FILE,)) for one in everything]
    source = Source("/", arguments.keys or arguments.cert, keys=arguments.keys)
    trusted = list_certificates(arguments.keys) if arguments.keys else [arguments.cert]
    missing = [filecheck.NOT_COMPARED] if arguments.repo else []
    records = [filecheck.judge(one, source, trusted, verbose=arguments.verbose, missing=missing) for one in everything]
    # As 'bootseal deploy' does: the first that the boot accepts.
    record = next((record for record in records if not record["exit_status"]), records[0])
    emit({"name": name} | record, arguments.json, _format(f"{name}:", record))
    if record["exit_status"]:
        error(record["message"], record.get("hint", ""))
    return int(record["exit_status"])


def _check_usage(arguments: argparse.Namespace) -> None:
    """Refuse combinations that mean nothing. Raises Failure."""
    elsewhere = ("all", "sysroot", "cmdline", "initrd", "system_keys")
    what = ""
    if given := [name for name in elsewhere if getattr(arguments, name)]:
        what = f"--{given[0].replace('_', '-')} is for deployments, and cannot be used with files or a commit"
    elif bool(arguments.keys) == bool(arguments.cert):
        what = "files and commits need one of --keys= and --cert="
    elif arguments.repo and (arguments.image or arguments.digest or arguments.signature):
        what = "--repo= has digest and signature; omit --image=, --digest= and --signature="
    elif arguments.repo and not arguments.deployment:
        what = "--repo= needs a commit, by checksum or branch"
    elif arguments.deployment and not arguments.repo:
        what = f"{arguments.deployment} is a deployment, and cannot be used with files"
    elif not arguments.repo and not arguments.image and not (arguments.digest and arguments.signature):
        what = "give --image=, or --digest= and --signature="
    if what:
        raise Failure(USAGE, f"Failed to read the command line: {what}")


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
    state = f" ({deployed.state})" if deployed.state else ""
    return _format(f"{deployed.name}{state}, as the disk names it:", record)


def _format(head: str, record: Judgement) -> str:
    lines = [[head, record["verdict"]]]
    if name := _name_image(record):
        lines.append(["  image", name])
    if "image" in record:
        lines.append(["  digest", f"{record['image']['algorithm']}:{record['image']['digest']}"])
    elif "digest" in record:
        lines.append(["  digest", record["digest"]])
    if signature := record.get("signature"):
        lines.append(["  signer", f"{signature['subject']} ({signature['algorithm']}, until {signature['not_after']})"])
    if inner := record.get("inside"):
        lines.append(["  inside", f"{inner['algorithm']} by serial {inner['serial']} of {inner['issuer']}"])
    lines.append(["  keys", f"{record.get('keyring', {}).get('certificates', 0)} from {record['keys']}"])
    lines += [[f"  {kind}", line] for kind, line in continuity.describe(record)]
    if signature := record.get("uki_signature"):
        lines.append(["  UKI", f"{signature['state']}: {signature['text']}"])
    lines += [["  missing", line] for line in record["missing"]]
    if "not_covered" in record:
        lines.append(["  not covered", ", ".join(record["not_covered"])])
    for finding in record.get("findings", ()):
        lines.append(["  deviation", f"{finding['name']}: the kernel {finding['kernel']}; {finding['remedy']}"])
    first, *rest = lines
    return "\n".join([table([first], _COLOURS), *([table(rest, {})] if rest else [])])
