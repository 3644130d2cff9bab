# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rehearse the boot of a deployment with the boot's own functions, and leave nothing behind.

A child process does it, in a mount namespace of its own as at boot. As root it goes as far as it can without becoming a boot:
the kernel checks the signature, and init is opened through the mounted root. Everything disappears with the process. It
writes neither to the disk nor to a keyring that others see.
"""

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from .. import __version__, boot, checkinitrd, paths, reference, verdicts
from .. import record as records
from ..errors import Refusal, failed
from ..layouts import upper
from ..linux import files, syscall
from ..record import Noted, Trail
from ..stages import config, image, kernelkeys, keyring, origin, physicalroot
from ..values import (
    OVERLAY,
    TRANSIENT,
    BootKeyring,
    Deployment,
    Enrolled,
    Pinned,
    Policy,
    Request,
    RootConfig,
    Unverified,
    Verified,
    Wish,
)
from ..verdicts import Verdict
from . import deployments, imagedigest, layouts, objects
from .deployed import Deployed
from .initrd import bypasses
from .initrd.contents import Contents
from .output import IO_ERROR, Failure, os_failure

Judgement = dict[str, Any]
# Not a verdict of the boot: a build host may lack what the boot needs. The exit status is EX_TEMPFAIL of sysexits(3).
INCOMPLETE = Verdict(
    "incomplete",
    75,
    "",
    "before the first boot, run 'ostree admin post-copy' or 'bootseal deploy' where kernel and filesystem have fs-verity",
)
_CAP_SYS_ADMIN = 21
_UNIT = "initrd-root-fs.target.requires/bootseal.service"
_CONFIG_SIZE = 1 << 20
_UNITS = tuple(f"{top}/systemd/system/{_UNIT}" for top in ("usr/lib", "lib", "etc"))
_PACKAGE = "usr/lib/bootseal"
INITRD_NAMES = (*_UNITS, _PACKAGE, *bypasses.NAMES)  # names that an initrd is searched for, beside its files


class Source(NamedTuple):
    """A directory that stands for the initrd's /, and a name for its origin.

    `keys` replaces the certificates, `initrd` is what the initrd holds; both may be missing.
    """

    directory: str
    name: str
    keys: str | None = None
    initrd: Contents | None = None


def judge(deployed: Deployed, sysroot: str, source: Source) -> Judgement:
    """Return the record of the boot as far as it can be known before it: keys as in boot.json, and `missing`."""
    return _in_child(lambda: _judge(deployed, sysroot, source))


def _judge(deployed: Deployed, sysroot: str, source: Source) -> Judgement:
    def rehearse(seen: Trail, missing: list[str]) -> str:
        _rehearse_boot(deployed, sysroot, source, seen, missing)
        return "would boot"

    return conclude(rehearse, source)


def conclude(rehearse: Callable[[Trail, list[str]], str], source: Source) -> Judgement:
    """Return the record of what `rehearse` sees. It returns the message of a success, and raises Refusal."""
    seen, missing = Trail(), list[str]()
    try:
        message = rehearse(seen, missing)
        ending: Judgement = {"verdict": verdicts.VERIFIED.name, "message": message, "exit_status": 0}
    except Refusal as refusal:
        ending = _describe_refusal(refusal, source)
    judged = {**records.as_json(records.of(seen)), "bootseal": __version__} | ending
    return judged | {"keys": source.name, "missing": missing + [one.text for one in records.notes(seen)]}


def _describe_refusal(refusal: Refusal, source: Source) -> Judgement:
    # Files of the initrd were copied to a temporary directory, whose name means nothing to people.
    message = f"{refusal.what}: {refusal.path}" if refusal.verdict is INCOMPLETE else str(refusal)
    message = message.replace(source.directory + "/", "/") if source.initrd else message
    unprivileged = not _is_privileged() and isinstance(refusal.__cause__, PermissionError)
    hint = "run as root" if unprivileged else refusal.hint
    verdict = refusal.verdict
    return {"verdict": verdict.name, "message": message, "hint": hint, "exit_status": verdict.exit_status}


def _rehearse_boot(deployed: Deployed, sysroot: str, source: Source, seen: Trail, missing: list[str]) -> None:
    """Run the boot's own functions on files of this system. Raises Refusal."""
    if source.initrd:
        _check_initrd(source.initrd, source.name)
    policy = config.load(source.directory)
    trusted = seen(keyring.load(certificates(source)))
    compare_readers(trusted)
    _check_kernel(deployed, sysroot, policy, missing)
    request = deployments.parse_request(deployed)
    privileged = _is_privileged()
    if privileged:
        physicalroot.private_namespace()

    def locate(_: Wish) -> Deployment:
        return deployments.locate(deployed, request, policy, sysroot)

    try:
        deployment, pinned = boot.verified_image(request.wishes[:1], locate, trusted, policy, seen)
    except Refusal as refusal:
        found, verified = seen.last(Deployment), seen.last(Verified)
        if found and verified and _is_of_this_host(refusal, sysroot):
            missing.append(f"not tried: fs-verity, the kernel's check of the signature, and mounting ({refusal.what})")
            raise _judge_unsealed(found, verified) from refusal
        raise
    finally:
        compare_verifiers(seen.last(Unverified), trusted)
    _check_upper_layers(deployment, policy.roots[deployment.layout], deployed.options)
    if privileged:
        _rehearse_root(pinned, deployment, policy, request, seen)
    else:
        missing.append("not tried without CAP_SYS_ADMIN: the kernel's check of the signature, and mounting")


def _is_of_this_host(refusal: Refusal, sysroot: str) -> bool:
    """Tell whether only this host lacks fs-verity: its kernel, or the filesystem that it builds on.

    A filesystem that could have fs-verity, on a kernel that has it, lacks it wherever it is mounted.
    """
    if refusal.verdict is not verdicts.UNSUPPORTED or deployments.is_running_sysroot(sysroot):
        return False
    return not isinstance(refusal.__cause__, OSError) or objects.kernel_lacks_fsverity()


def _judge_unsealed(deployment: Deployment, verified: Verified) -> Refusal:
    """Compare the image itself with the digest, where the kernel cannot."""
    path = deployment.image.path
    try:
        computed = imagedigest.compute(path, verified.digest.algorithm, "", deployment.image)
    except Failure as failure:
        return Refusal(verdicts.IO_ERROR if failure.status == IO_ERROR else verdicts.BAD_IMAGE, failure.what, path)
    try:
        image.compare(computed, deployment, verified)
    except Refusal as refusal:
        return refusal
    return Refusal(INCOMPLETE, "the image is the one that was signed, and must be sealed before it boots", path)


def _is_privileged() -> bool:
    """Tell whether this process may mount. Root of a container may lack the capability."""
    with open("/proc/self/status", "rb") as file:
        capabilities = next(int(line.split()[1], 16) for line in file if line.startswith(b"CapEff:"))
    return bool(capabilities >> _CAP_SYS_ADMIN & 1)


def compare_readers(trusted: BootKeyring) -> None:
    """Refuse a certificate that another reader reads otherwise. Raises Refusal."""
    for certificate in trusted.certificates:
        if difference := reference.difference(certificate):
            raise Refusal(verdicts.INTERNAL, difference, certificate.path)


def compare_verifiers(unverified: Unverified | None, trusted: BootKeyring) -> None:
    """Refuse a signature that another verifier judges otherwise, whatever the verdict is. Raises Refusal."""
    if unverified and (text := reference.disagreement(unverified, trusted)):
        raise Refusal(verdicts.INTERNAL, text, paths.signature_of(unverified.pair_path))


def _rehearse_root(pinned: Pinned, deployment: Deployment, policy: Policy, request: Request, seen: Trail) -> None:
    """Let the kernel check the signature and mount the root, but do not enroll, seal, attach or write anything."""
    keys = kernelkeys.load_privately(BootKeyring((pinned.verified.signer.certificate,), ()))
    _check_writable(deployment, policy, seen)
    syscall.mount("tmpfs", "/run", "tmpfs", 0)  # hides what mounting leaves in /run, and goes with this namespace
    method = "none" if policy.method == "none" else "keyring"
    roots = {name: _without_writing(root) for name, root in policy.roots.items()}
    policy, apart = policy._replace(method=method, roots=roots), Trail()
    mounted = boot.mounted_root(pinned, deployment, keys, policy, request, apart)
    seen(origin.look())
    seen(mounted)
    enrolled = apart.last(Enrolled)
    for gap in enrolled.gaps if enrolled else ():
        seen(Noted(verdicts.ENROLLING_INCOMPLETE, f"would not be enrolled: {gap.what}"))


def _check_upper_layers(deployment: Deployment, root: RootConfig, options: str | None) -> None:
    """Check what the boot needs of upper layers on the disk, to which only it may write. Raises Refusal."""
    for name, mode, fd in (("etc", root.etc, deployment.etc_fd), ("var", root.var, deployment.var_fd)):
        if mode != OVERLAY:
            continue
        for part in upper.NAMES:
            try:
                os.close(files.open_directory(fd, part))
            except FileNotFoundError:
                pass
            except OSError as error:
                path = f"{deployment.path}/{name}/{part}"
                raise failed(error, verdicts.MOUNT_FAILED, f"the upper layer of /{name} cannot be opened", path) from error
        if options is not None and [word for word in options.split() if word in ("ro", "rw")][-1:] != ["rw"]:
            what = f"the physical root would be read-only, but the upper layer of /{name} is on it"
            raise Refusal(verdicts.MOUNT_FAILED, what, deployment.path, "add rw to the boot entry")


def _without_writing(root: RootConfig) -> RootConfig:
    """Replace an upper layer on the disk, to which mounting alone writes, by one that goes with this process."""
    etc, var = (TRANSIENT if mode == OVERLAY else mode for mode in (root.etc, root.var))
    return root._replace(etc=etc, var=var)


def _check_writable(deployment: Deployment, policy: Policy, seen: Trail) -> None:
    """Check that nothing visible prevents fs-verity on the digest file. Raises Refusal if that is required."""
    if policy.method != "fsverity":
        return
    try:
        fd = files.open_regular(deployment.pair.fd, paths.digest_of(deployment.pair.name))
    except OSError:  # enrolled with a key that is gone: it is replaced, which the directory's flag does not hinder
        return
    try:
        if not files.is_immutable(fd):
            return
    finally:
        os.close(fd)
    what = "the digest file is immutable: EPERM"
    if policy.required:
        raise Refusal(verdicts.ENROLL_FAILED, f"cannot be enrolled ({what})", paths.digest_of(deployment.pair.path))
    seen(Noted(verdicts.ENROLLING_INCOMPLETE, f"would not be enrolled: {what}"))


def certificates(source: Source) -> list[str]:
    """List the paths of the boot keyring's files. Raises Failure."""
    if source.keys is None:
        return config.certificates(source.directory, keyring.DIRECTORY, keyring.SUFFIXES, _read_voa(source))
    return list_certificates(source.keys)


def list_certificates(directory: str) -> list[str]:
    """List the paths of the certificates in a directory that the user named. Raises Failure."""
    try:
        found = os.listdir(directory)
    except OSError as error:
        raise os_failure(IO_ERROR, f"Failed to read the certificates in {directory}", error) from error
    return [os.path.join(directory, name) for name in sorted(found) if name.endswith(keyring.SUFFIXES) and name[0] != "."]


def _read_voa(source: Source) -> str:
    with suppress(Refusal):  # which has its own verdict
        return config.load(source.directory).voa
    return ""


def _check_initrd(contents: Contents, name: str) -> None:
    """Refuse what the build of an initrd refuses. Raises Refusal."""
    if not any(map(contents.exists, _UNITS)) or not contents.exists(_PACKAGE):
        hint = 'add_dracutmodules+=" bootseal " in a file of /etc/dracut.conf.d, and build the initrd again'
        raise Refusal(verdicts.NO_KEYS, "bootseal is not in this initrd: it would check nothing", name, hint)
    if bypass := next(bypasses.found(contents), None):
        module, path = bypass
        hint = f'omit_dracutmodules+=" {module} " in a file of /etc/dracut.conf.d, and build the initrd again'
        raise Refusal(
            verdicts.BAD_CONFIG, f"dracut module '{module}' is in this initrd and undoes the check ({path})", name, hint
        )


def _check_kernel(deployed: Deployed, sysroot: str, policy: Policy, missing: list[str]) -> None:
    """Check the options of the deployment's own kernel. Raises Refusal."""
    path, content = layouts.of(deployed.layout).read_kernel_config(deployed.path, sysroot, _CONFIG_SIZE)
    if not path:
        missing.append("no configuration of the deployment's kernel found: its options are not known")
        return
    on = {line.partition("=")[0] for line in files.lines(content) if line.endswith(("=y", "=m"))}
    for option in checkinitrd.kernel_options(policy):
        if f"CONFIG_{option}" not in on:
            raise Refusal(verdicts.UNSUPPORTED, f"the kernel lacks CONFIG_{option}", path)
    if policy.method != "none" and "CONFIG_FS_VERITY_BUILTIN_SIGNATURES" not in on:
        missing.append("the kernel lacks CONFIG_FS_VERITY_BUILTIN_SIGNATURES: it will not hold the digest itself")


def _in_child(work: Callable[[], Judgement]) -> Judgement:
    """Return the result of a function that changes its process for good. Raises RuntimeError without one."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)  # the parent reports it, and cleans up
        try:
            with open(writer, "w", encoding="utf-8") as file:
                json.dump(work(), file)
            status = 0
        except BaseException as error:  # the child must end here after any exception
            os.write(2, f"bootseal: {error.__class__.__name__}: {error}\n".encode(errors="replace"))
        os._exit(status)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        text = file.read()
    os.waitpid(child, 0)
    if not text:
        raise RuntimeError("the check ended without a verdict")
    result: Judgement = json.loads(text)
    return result
