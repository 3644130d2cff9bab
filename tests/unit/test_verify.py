# SPDX-License-Identifier: LGPL-2.1-or-later
"""Test verify.py: each vector gets the verdict of the manifest, and any changed byte is refused."""

from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from bootseal import digest, libcrypto
from bootseal.digest import Digest
from bootseal.formats import pkcs7
from bootseal.stages import keyring, verify
from bootseal.values import BootKeyring, Unverified
from unit.support import (
    MANIFEST,
    VECTORS,
    candidate,
    certificate,
    content,
    make_certificate,
    message,
    private_key,
    refusal,
    signature,
    signed_bytes,
    tlv,
    trusting,
    verdict,
)

VECTOR_LIST: list[dict[str, Any]] = MANIFEST["vectors"]
# The refusals other than `bad-signature`.
VERDICTS = {
    "wrong-signature": """A-fsv-p256-bs1024 D-alg-confusion D-big-endian-header D-formatted-image-digest D-other-digest
        D-raw-image-digest F-pss-sig-as-pkcs1 G-ecdsa-nn G-rsa-empty G-rsa-long G-rsa-no-digestinfo G-rsa-plus-n G-rsa-zero
        H-bitflip-tail""",
    "untrusted-signer": "C-untrusted H-issuer-other-string-type H-serial-wrong",
    "bad-digest": "D-31-byte-digest-file D-hex-digest-file",
    "no-keys": """A-fsv-k256 A-fsv-p192 A-fsv-p224 A-fsv-rsa1024 A-fsv-rsa2048e3 C-eku-server C-ku-certsign-only
        C-ku-keyagreement G-rsa-e3-forgery C-chain-12-deep C-chain-inter-trusted C-chain-leaf-expired-signingtime
        C-chain-missing-inter
        C-chain-root-trusted C-chain-root-trusted-with-root""",
}
EXPECTED = {name: verdict_ for verdict_, names in VERDICTS.items() for name in names.split()}


def judge(vector: dict[str, Any]) -> Any:
    boot_keyring = keyring.load([str(VECTORS / path) for path in vector["trust"]])
    signed = (VECTORS / vector["signature"]).read_bytes()
    return verify.verify(candidate(signed, (VECTORS / vector["content"]).read_bytes()), boot_keyring)


@pytest.mark.parametrize("vector", VECTOR_LIST, ids=lambda v: str(v["id"]))
def test_vector_gives_its_verdict(vector: dict[str, Any]) -> None:
    refused = EXPECTED.get(vector["id"], "bad-signature")
    assert verdict(judge, vector) == ("accepted" if vector["userspace"] == "accept" else refused)


@pytest.mark.parametrize("name", sorted(v["id"] for v in VECTOR_LIST if v["group"] == "chain" and v["userspace"] == "reject"))
def test_certificate_chain_is_refused_with_any_keyring(name: str) -> None:
    """The vectors trust a CA without digitalSignature, so they do not reach the signature."""
    assert verdict(verify.verify, candidate(signature(name)), trusting("p256")) in ("bad-signature", "untrusted-signer")


def test_manifest_is_complete() -> None:
    counts = MANIFEST["counts"]
    accepted = [v for v in VECTOR_LIST if v["userspace"] == "accept"]
    assert (len(VECTOR_LIST), len(accepted)) == (counts["vectors"], counts["userspace_accept"]) == (126, 25)
    assert set(EXPECTED) <= {v["id"] for v in VECTOR_LIST}


def test_verified_digest_has_all_fields() -> None:
    signed, trust = signature("A-fsv-p256"), trusting("p256")
    found = verify.verify(candidate(signed), trust)
    assert found.digest == Digest("sha256", content())
    assert found.signed == digest.of_bytes(content(), "sha256")
    assert found.signature == signed
    assert found.value == pkcs7.parse(signed).value
    assert (found.hash_name, found.signer.algorithm) == ("sha256", "ecdsa-sha256")
    assert found.signer.certificate is trust.certificates[0]


@pytest.mark.parametrize(("name", "algorithm"), [("A-fsv-p256", "sha256"), ("A-fsv512-p256", "sha512")])
def test_the_signed_digest_is_that_of_the_digest_file(name: str, algorithm: str) -> None:
    assert verify.verify(candidate(signature(name)), trusting("p256")).signed.algorithm == algorithm


def test_digest_file_of_64_bytes_is_sha512() -> None:
    found = verify.verify(candidate(signature("A-fsv-p256-img512"), content("digest-sha512")), trusting("p256"))
    assert found.digest.algorithm == "sha512"


def test_the_signer_is_the_certificate_whose_key_made_it() -> None:
    trust = trusting("p256b-serial1", "p256-serial1")
    found = verify.verify(candidate(signature("C-dup-issuer-serial-good-first")), trust)
    assert found.signer.certificate is trust.certificates[1]


def test_digest_that_stands_in_is_verified() -> None:
    assert verdict(verify.verify, candidate(signature("A-fsv-p256"), stands_in=True), trusting("p256")) == "accepted"
    other = candidate(signature("A-fsv-p256"), content("digest-sha256-other"), stands_in=True)
    assert verdict(verify.verify, other, trusting("p256")) == "wrong-signature"


@pytest.mark.parametrize("size", [0, 1, 31, 33, 63, 65, 4096])
def test_digest_file_of_another_size_is_bad_digest(size: int) -> None:
    key, made_by = private_key("p256"), certificate("p256")
    signed = message(made_by, key, signed_bytes(bytes(size))).der()
    found = refusal(verify.verify, candidate(signed, bytes(size)), trusting("p256"))
    assert (found.verdict.name, found.path) == ("bad-digest", "/sysroot/d/.ostree.cfs.digest")


@pytest.mark.parametrize("size", [32, 64])
def test_signed_zeros_are_accepted(size: int) -> None:
    signed = message(certificate("p256"), private_key("p256"), signed_bytes(bytes(size))).der()
    assert verdict(verify.verify, candidate(signed, bytes(size)), trusting("p256")) == "accepted"


def test_untrusted_signer_names_serial_and_trusted_subjects() -> None:
    found = refusal(verify.verify, candidate(signature("A-fsv-p384")), trusting("p256"))
    assert (found.verdict.name, found.path) == ("untrusted-signer", "/sysroot/d/.ostree.cfs.sig")
    assert certificate("p384").serial.hex() in found.what
    assert certificate("p256").subject_text in found.what
    (_, digest_), (name, signer) = found.details
    assert name == "signer"
    assert digest_.startswith("sha256:")
    common_name = certificate("p384").issuer_text.partition("=")[2].partition(",")[0]
    assert signer == f"issuer {common_name}, serial {certificate('p384').serial.hex()}"


def test_long_signer_name_is_cut() -> None:
    """systemd ignores a STATUS of more than 4096 bytes, and a serial console accepts as many at once."""
    good = message(certificate("p256"), private_key("p256"), signed_bytes())
    spoof = "x" * 70 + " bootseal: verified" + " " * 7000
    issuer = tlv(0x30, tlv(0x31, tlv(0x30, b"\x06\x03\x55\x04\x03", tlv(0x0C, spoof.encode()))))
    odd = good._replace(serial=tlv(2, b"\x41" * 8000), issuer=issuer).der()
    assert len(odd) <= pkcs7.MAX_SIZE
    found = refusal(verify.verify, candidate(odd), trusting("p256"))
    assert found.verdict.name == "untrusted-signer"
    assert len(str(found)) < 500
    assert max(len(value) for _, value in found.details) < 500


def test_malformed_issuer_is_formatted() -> None:
    assert verify._format_issuer(b"\x30\x02\x31\x00") == ""
    assert verify._format_issuer(b"\x30\x03\x31\x01\x30") == "of 5 bytes"
    assert verify._format_issuer(b"\x30\x04\x31\x02\x30\x00") == "of 6 bytes"


def test_wrong_signature_names_the_digest() -> None:
    found = refusal(verify.verify, candidate(signature("A-fsv-p256"), content("digest-sha256-other")), trusting("p256"))
    assert content("digest-sha256-other").hex() in found.what
    assert [name for name, _ in found.details] == ["digest file says", "signer"]


def test_empty_keyring_is_untrusted_signer() -> None:
    assert verdict(verify.verify, candidate(signature("A-fsv-p256")), BootKeyring((), ())) == "untrusted-signer"


# --- sweeps: one bit, one byte, one length

SWEPT = [("A-fsv-p256", "p256"), ("A-fsv-rsa2048", "rsa2048")]


def accepted(changed: list[bytes], trust: BootKeyring) -> list[bytes]:
    return [data for data in changed if verdict(verify.verify, candidate(data), trust) == "accepted"]


@pytest.mark.parametrize(("name", "trust"), SWEPT)
def test_every_truncation_is_refused(name: str, trust: str) -> None:
    good = signature(name)
    assert accepted([good], trusting(trust)) == [good]
    assert accepted([good[:size] for size in range(len(good))], trusting(trust)) == []


@pytest.mark.parametrize(("name", "trust"), SWEPT)
def test_every_flipped_bit_is_refused(name: str, trust: str) -> None:
    good = signature(name)
    flipped = []
    for bit in range(len(good) * 8):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        flipped.append(bytes(changed))
    assert accepted(flipped, trusting(trust)) == []


@pytest.mark.parametrize(("name", "trust"), SWEPT)
def test_every_byte_deleted_doubled_or_replaced_is_refused(name: str, trust: str) -> None:
    good = signature(name)
    changed = []
    for at in range(len(good)):
        changed += [good[:at] + good[at + 1 :], good[: at + 1] + good[at:]]
        changed += [good[:at] + bytes([value]) + good[at + 1 :] for value in (0x00, 0x7F, 0x80, 0xFF)]
    assert accepted([data for data in changed if data != good], trusting(trust)) == []


@pytest.mark.parametrize(("name", "trust"), SWEPT)
def test_every_flipped_bit_of_the_digest_is_refused(name: str, trust: str) -> None:
    boot_keyring, signed = trusting(trust), signature(name)
    for bit in range(256):
        changed = bytearray(content())
        changed[bit // 8] ^= 1 << bit % 8
        assert verdict(verify.verify, candidate(signed, bytes(changed)), boot_keyring) == "wrong-signature"


# --- the arithmetic


def rsa_message(value: bytes) -> bytes:
    return message(certificate("rsa2048"), private_key("rsa2048"), signed_bytes())._replace(value=value).der()


def test_rsa_value_of_another_length_is_refused() -> None:
    """PKCS#1 requires a value as long as the modulus, including leading zeros."""
    key = private_key("rsa2048")
    assert isinstance(key, rsa.RSAPrivateKey)
    data = signed_bytes()
    value = key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    assert verdict(verify.verify, candidate(rsa_message(value)), trusting("rsa2048")) == "accepted"
    for wrong in (value[1:], b"\0" + value, value + b"\0", value[:-1]):
        assert verdict(verify.verify, candidate(rsa_message(wrong)), trusting("rsa2048")) == "wrong-signature"


def test_value_over_another_hash_is_refused() -> None:
    """The value is over SHA-512, but the message says SHA-256."""
    key = private_key("rsa2048")
    assert isinstance(key, rsa.RSAPrivateKey)
    value = key.sign(signed_bytes(), padding.PKCS1v15(), hashes.SHA512())
    assert verdict(verify.verify, candidate(rsa_message(value)), trusting("rsa2048")) == "wrong-signature"


@pytest.mark.parametrize("shift", ["r + n", "s + n"])
def test_ecdsa_numbers_above_the_order_are_refused(shift: str) -> None:
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    good = pkcs7.parse(signature("A-fsv-p256"))
    r, s = utils.decode_dss_signature(good.value)
    value = utils.encode_dss_signature(r + order * (shift == "r + n"), s + order * (shift == "s + n"))
    changed = message(certificate("p256"), private_key("p256"), signed_bytes())._replace(value=value)
    assert verdict(verify.verify, candidate(changed.der()), trusting("p256")) == "wrong-signature"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: str(c.name))
@pytest.mark.parametrize("hash_name", ["sha256", "sha384", "sha512"])
def test_ecdsa_with_generated_keys(curve: ec.EllipticCurve, hash_name: str) -> None:
    key = ec.generate_private_key(curve)
    made_by = keyring.certificate("x.der", make_certificate(key))
    signed = message(made_by, key, signed_bytes(), hash_name).der()
    assert verdict(verify.verify, candidate(signed), BootKeyring((made_by,), ())) == "accepted"
    # the same name and serial, another key
    other = keyring.certificate("y.der", make_certificate(ec.generate_private_key(curve)))
    assert verdict(verify.verify, candidate(signed), BootKeyring((other,), ())) == "wrong-signature"
    assert verdict(verify.verify, candidate(signed), BootKeyring((other, made_by), ())) == "accepted"


def test_certificate_of_the_same_name_with_another_kind_of_key_is_skipped() -> None:
    key = private_key("p256")
    made_by = keyring.certificate("x.der", make_certificate(key))
    namesake = keyring.certificate("y.der", make_certificate(private_key("rsa2048")))
    signed = message(made_by, key, signed_bytes()).der()
    assert verdict(verify.verify, candidate(signed), BootKeyring((namesake, made_by), ())) == "accepted"
    assert verdict(verify.verify, candidate(signed), BootKeyring((namesake,), ())) == "bad-signature"


def test_issuer_and_serial_must_both_match() -> None:
    key = private_key("p256")
    made_by = keyring.certificate("x.der", make_certificate(key))
    good = message(made_by, key, signed_bytes())
    trust = BootKeyring((made_by,), ())
    assert verdict(verify.verify, candidate(good.der()), trust) == "accepted"
    assert verdict(verify.verify, candidate(good._replace(serial=tlv(2, b"\x08")).der()), trust) == "untrusted-signer"
    other = keyring.certificate("y.der", make_certificate(key, name="unit tesT")).issuer
    assert verdict(verify.verify, candidate(good._replace(issuer=other).der()), trust) == "untrusted-signer"


def test_pss_value_is_refused() -> None:
    key = private_key("rsa2048")
    assert isinstance(key, rsa.RSAPrivateKey)
    value = key.sign(signed_bytes(), padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    assert verdict(verify.verify, candidate(rsa_message(value)), trusting("rsa2048")) == "wrong-signature"


def test_unverified_value_is_not_changed() -> None:
    before = candidate(signature("A-fsv-p256"))
    verify.verify(before, trusting("p256"))
    assert before == Unverified(content(), False, signature("A-fsv-p256"), "/sysroot/d/.ostree.cfs")


@pytest.mark.parametrize(("size", "shown"), [(160, "x" * 160), (161, "x" * 160 + "...")])
def test_text_of_more_than_160_characters_is_cut(size: int, shown: str) -> None:
    assert verify._shorten("x" * size) == shown


# --- the self-test


def test_rehearsal_succeeds() -> None:
    verify.rehearse()


@pytest.mark.parametrize("scheme", [0, 1], ids=["ecdsa", "rsa"])
@pytest.mark.parametrize("answer", [True, False])
def test_rehearsal_fails_with_a_verifier_of_one_answer(answer: bool, scheme: int, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    real, key = libcrypto.verify, bytes.fromhex(verify._EXAMPLES[scheme][0])

    def broken(public_key: bytes, *arguments: Any) -> bool:
        return answer if public_key == key else real(public_key, *arguments)

    monkeypatch.setattr(libcrypto, "verify", broken)
    found = refusal(verify.rehearse)
    assert (found.verdict.name, found.path) == ("internal", libcrypto.PATH)
    assert found.what == "the verifier of signatures fails its self-test"


def test_library_that_fails_is_not_a_wrong_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """boot.py turns any other exception into `internal`."""
    monkeypatch.setattr(libcrypto.load(), "EVP_DigestVerifyInit", lambda *_: 0)
    with pytest.raises(libcrypto.Failed):
        verify.verify(candidate(signature("A-fsv-p256")), trusting("p256"))


# --- what a signature covers

OF_IMAGE, OF_DIGEST_FILE = signature("D-formatted-image-digest"), signature("A-fsv-p256")
BOTH = ("digest-file", "image")


@pytest.mark.parametrize(
    ("signed", "forms", "form"),
    [
        (OF_DIGEST_FILE, ("digest-file",), "digest-file"),
        (OF_DIGEST_FILE, BOTH, "digest-file"),
        (OF_IMAGE, ("image",), "image"),
        (OF_IMAGE, BOTH, "image"),
    ],
)
def test_form_of_a_signature(signed: bytes, forms: tuple[str, ...], form: str) -> None:
    found = verify.verify(candidate(signed)._replace(forms=forms), trusting("p256"))
    covered = found.digest if form == "image" else digest.of_bytes(content(), "sha256")
    assert (found.form, found.digest, found.signed) == (form, Digest("sha256", content()), covered)


@pytest.mark.parametrize(
    ("signed", "forms", "what"),
    [
        (OF_IMAGE, ("digest-file",), "over the image's own digest, not over that of the digest file"),
        (OF_DIGEST_FILE, ("image",), "over the digest of the digest file, not over that of the image"),
    ],
)
def test_a_form_that_does_not_count_is_named(signed: bytes, forms: tuple[str, ...], what: str) -> None:
    found = refusal(verify.verify, candidate(signed)._replace(forms=forms), trusting("p256"))
    assert found.verdict.name == "wrong-signature"
    assert what in found.what
    assert found.hint != found.verdict.hint
