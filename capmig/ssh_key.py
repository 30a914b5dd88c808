"""The private key as it arrives in a secret: made whole, unlocked, or refused with the mistake that was made."""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from pathlib import Path

from capmig.errors import Refused

_HOW = "Paste the private key file as it is, all lines from -----BEGIN to -----END, into the secret."
_ASKPASS = "#!/bin/sh\nprintf '%s\\n' \"$CAPMIG_PASSPHRASE\"\n"
_WRONG_PASSPHRASE = "incorrect passphrase"


def write_key(text: str, passphrase: str, folder: Path) -> str:
    """Write the key to `folder`/key (mode 0600) without its passphrase, and return its public half as one line.

    The passphrase reaches ssh-keygen by its environment alone. Raises Refused, naming ssh-key or ssh-key-passphrase.
    """
    mistake = recognise_mistake(text)
    if mistake:
        raise Refused([f"ssh-key: {mistake}"], todo=_HOW)
    path = folder / "key"
    write_private(path, normalise(text))

    public = _keygen(["-y", "-P", "", "-f", str(path)])
    if public.returncode != 0 and _WRONG_PASSPHRASE in public.stderr:
        if not passphrase:
            raise Refused(["ssh-key-passphrase: it is empty, but the key in ssh-key is locked with a passphrase"])
        _unlock(path, passphrase, folder)
        public = _keygen(["-y", "-P", "", "-f", str(path)])
    elif public.returncode == 0 and passphrase:
        raise Refused(
            ["ssh-key-passphrase: the key in ssh-key has no passphrase"],
            todo="Remove this input, or give the key that it belongs to.",
        )
    if public.returncode != 0:
        reason = public.stderr.strip().rpartition(": ")[2]
        raise Refused([f"ssh-key: OpenSSH cannot read this private key ({reason}): damaged, or cut off"], todo=_HOW)
    return public.stdout.strip()


def normalise(text: str) -> str:
    """One line end for all, no blanks around lines, and the final newline: without these OpenSSH reads no key."""
    return "\n".join(line.strip() for line in text.removeprefix("\ufeff").strip().splitlines()) + "\n"


def recognise_mistake(text: str) -> str:
    """The usual mistakes, for which OpenSSH has but one message ("error in libcrypto"); empty when none is seen."""
    text = normalise(text).strip()
    begin = re.search(r"-----BEGIN ([A-Z0-9 ]*)-----", text)
    if not text:
        return "it is empty"
    if "PuTTY-User-Key-File" in text:
        return "this is a key in PuTTY's format: convert it with `puttygen KEY.ppk -O private-openssh`"
    if re.match(r"(ssh|ecdsa|sk)-\S+ AAAA|-----BEGIN (SSH2 |RSA )?PUBLIC KEY-----|---- BEGIN SSH2 PUBLIC", text):
        return "this is the public half of a key; the private half is needed (the file without .pub)"
    if begin is None:
        if "PRIVATE KEY-----" in _base64_text(text):
            return "this is a key encoded once more in base64; give it as it is"
        return "this is no private key: there is no line -----BEGIN … PRIVATE KEY-----"
    if "PRIVATE KEY" not in begin[1]:
        return f"this is no private key but: {begin[1]}"
    if "\\n" in text:
        return "it holds the two characters \\n where a line should end"
    if "-----END" not in text:
        return "it is cut off: there is no line -----END … PRIVATE KEY-----"
    if "\n" not in text:
        return "its line ends are lost: all is on one line"
    return ""


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file that was never readable by anyone else."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8", newline="\n") as file:
        file.write(text)


def _base64_text(text: str) -> str:
    try:
        return base64.b64decode(text, validate=False).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""


def _unlock(path: Path, passphrase: str, folder: Path) -> None:
    askpass = folder / "askpass"
    write_private(askpass, _ASKPASS, 0o700)
    changed = _keygen(
        ["-p", "-N", "", "-f", str(path)],
        CAPMIG_PASSPHRASE=passphrase,
        SSH_ASKPASS=str(askpass),
        SSH_ASKPASS_REQUIRE="force",
    )
    askpass.unlink()
    if _WRONG_PASSPHRASE in changed.stderr:
        raise Refused(["ssh-key-passphrase: it is not the passphrase of the key in ssh-key"])


def _keygen(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ssh-keygen", *arguments],
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        check=False,
        start_new_session=True,
    )
