"""Encrypting the backup's copy to a public key, on its way to the disk: by age, or by OpenSSL for one in PEM."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from capmig.errors import DeployFailed, Refused

END_LIMIT = 60.0  # seconds to write what is left, once all of it was handed over
# To decrypt, OpenSSL holds three times as much in memory.
OPENSSL_MOST = 2**30


def is_for_openssl(key: str) -> bool:
    return key.startswith("-----BEGIN ")


def check(key: str) -> None:
    """Refused when the program cannot encrypt to this key."""
    try:
        with open(os.devnull, "wb") as nowhere, sealed(key, nowhere, size=1) as pipe:
            pipe.write(b"x")
    except DeployFailed as error:
        raise Refused([f"backup-download-key: {error.what}"]) from error


@contextmanager
def sealed(key: str, file: IO[bytes], *, size: int) -> Iterator[IO[bytes]]:
    """What is written here, `size` bytes in all, arrives in `file` encrypted, and only so. DeployFailed otherwise."""
    if is_for_openssl(key) and size > OPENSSL_MOST:
        raise DeployFailed(
            f"OpenSSL could not decrypt {size} bytes again: it takes them all into memory. "
            "Give an age key as backup-download-key."
        )
    with tempfile.TemporaryDirectory(prefix="capmig-key-") as folder:
        recipient, words = Path(folder) / "recipient", Path(folder) / "words"
        recipient.write_text(f"{key}\n", encoding="utf-8")
        if key.startswith("-----BEGIN PUBLIC KEY-----"):
            recipient = _certified(recipient)
        command = _command(key, recipient)
        with words.open("wb") as said:
            try:
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=said, env=_environment())
            except OSError as error:
                raise DeployFailed(f"{command[0]} cannot be run: {error.strerror}.") from error
        if process.stdin is None:
            raise AssertionError("the process was started with a pipe")
        taken = False
        try:
            with contextlib.suppress(BrokenPipeError):
                with process.stdin as stdin:
                    yield stdin
                taken = True
            if _exit_code(process) or not taken:
                why = " ".join(words.read_text(encoding="utf-8", errors="replace").split())[:500]
                raise DeployFailed(f"{command[0]} cannot encrypt: {why or f'exit code {process.returncode}'}")
        finally:
            process.kill()
            process.wait()


def _exit_code(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(timeout=END_LIMIT)
    except subprocess.TimeoutExpired as error:
        raise DeployFailed(f"Encrypting did not end within {END_LIMIT:.0f} s.") from error


def _certified(public_key: Path) -> Path:
    """A certificate of a bare public key, since OpenSSL encrypts to nothing else. Who has signed it does not matter."""
    signer, certificate = public_key.with_name("signer"), public_key.with_name("certificate")
    make_signer = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(signer)]
    sign = ["openssl", "x509", "-new", "-force_pubkey", str(public_key), "-signkey", str(signer)]
    for command in (make_signer, [*sign, "-subj", "/CN=backup", "-out", str(certificate)]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=60, check=False)
        except OSError as error:
            raise DeployFailed(f"openssl cannot be run: {error.strerror}.") from error
        if done.returncode:
            raise DeployFailed(f"openssl cannot encrypt: {' '.join(done.stderr.split())[:500]}")
    return certificate


def _command(key: str, recipient: Path) -> list[str]:
    if is_for_openssl(key):
        cms = ["openssl", "cms", "-encrypt", "-binary", "-stream", "-aes-256-gcm", "-outform", "DER"]
        return [*cms, str(recipient)]
    return ["age", "--encrypt", "--recipients-file", str(recipient)]


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
