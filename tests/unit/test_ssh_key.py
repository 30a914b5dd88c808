"""The private key as it arrives in a secret."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capmig.errors import Refused
from capmig.ssh_key import normalise, recognise_mistake, write_key

BODY = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAAB"
KEY = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{BODY}\n-----END OPENSSH PRIVATE KEY-----\n"


def make_key(folder: Path, passphrase: str = "") -> tuple[str, str]:
    path = folder / "made"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "me", "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return path.read_text(), path.with_suffix(".pub").read_text().strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    private = tmp_path / "private"
    private.mkdir()
    return private


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("", "it is empty"),
        (" \r\n ", "it is empty"),
        (KEY.replace("\n", "\\n"), "the two characters \\n"),
        (base64.b64encode(KEY.encode()).decode(), "encoded once more in base64"),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI me", "the public half"),
        ("ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHA me", "the public half"),
        ("sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5 me", "the public half"),
        ("-----BEGIN PUBLIC KEY-----\nMCow\n-----END PUBLIC KEY-----", "the public half"),
        ("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----", "the public half"),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", "no private key but: CERTIFICATE"),
        ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none", "PuTTY"),
        (KEY.replace("\n", " "), "its line ends are lost"),
        (KEY.split("-----END", maxsplit=1)[0], "it is cut off"),
        ("/home/me/.ssh/id_ed25519", "there is no line -----BEGIN"),
        (BODY, "there is no line -----BEGIN"),
    ],
)
def test_recognise_mistake__tells_the_usual_ones_apart(text: str, mistake: str) -> None:
    """OpenSSH says "error in libcrypto" to all of these: each gets its own words."""
    assert mistake in recognise_mistake(text)


@pytest.mark.parametrize("text", [KEY, KEY.replace("\n", "\r\n"), KEY.strip(), "\ufeff" + KEY, f"\n\n  {KEY}\n"])
def test_recognise_mistake__accepts_what_can_be_made_whole(text: str) -> None:
    """Line ends, blanks around and a byte order mark are no mistake; the key comes out the same."""
    assert recognise_mistake(text) == ""
    assert normalise(text) == KEY


@settings(deadline=None)
@given(st.text())
def test_recognise_mistake__repeats_nothing_of_a_key(text: str) -> None:
    """However a key is cut up and written over, the answer shows none of it."""
    assert BODY not in recognise_mistake(text + BODY)
    assert BODY not in recognise_mistake(KEY.replace("OPENSSH", "X" + text))


def test_write_key__gives_the_public_half_and_a_private_file(folder: Path) -> None:
    """The file is readable for us alone, and holds the key as it was."""
    key, public = make_key(folder)
    assert write_key(key, "", folder) == public
    assert (folder / "key").read_text() == key
    assert (folder / "key").stat().st_mode & 0o777 == 0o600


def test_write_key__unlocks_with_the_passphrase(folder: Path) -> None:
    """The file that ssh reads needs no passphrase, and nothing that held it stays."""
    key, public = make_key(folder, "open sesame")
    assert write_key(key, "open sesame", folder) == public
    assert {file.name for file in folder.iterdir()} == {"made", "made.pub", "key"}


@pytest.mark.parametrize(
    ("locked_with", "given_one", "said"),
    [
        ("open sesame", "", "ssh-key-passphrase: it is empty, but the key in ssh-key is locked"),
        ("open sesame", "open barley", "ssh-key-passphrase: it is not the passphrase of the key"),
        ("", "open sesame", "ssh-key-passphrase: the key in ssh-key has no passphrase"),
    ],
)
def test_write_key__tells_the_passphrase_mistakes_apart(
    folder: Path, locked_with: str, given_one: str, said: str
) -> None:
    """Missing, wrong and not needed are three different remedies; no passphrase is repeated."""
    key, _ = make_key(folder, locked_with)
    with pytest.raises(Refused) as refused:
        write_key(key, given_one, folder)
    assert str(refused.value).startswith(said)
    assert "sesame" not in str(refused.value)


def test_write_key__refuses_a_damaged_key(folder: Path) -> None:
    """A key that looks whole and is not gets OpenSSH's own reason."""
    with pytest.raises(Refused) as refused:
        write_key(KEY, "", folder)
    assert str(refused.value).startswith("ssh-key: OpenSSH cannot read this private key (")


def test_write_key__names_the_input_of_a_mistake(folder: Path) -> None:
    """The problem begins with the input and ends with what to do; nothing is written."""
    with pytest.raises(Refused) as refused:
        write_key("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI me", "", folder)
    assert refused.value.problems[0].startswith("ssh-key: this is the public half")
    assert list(folder.iterdir()) == []
