"""The backup's copy encrypted by the real programs, and decrypted as the README says."""

from __future__ import annotations

import os
import random
import re
import subprocess
from pathlib import Path

import pytest

from capmig.backup.download import Copied, fetch
from capmig.backup.inputs import Backup, Download, Engine
from capmig.backup.sealing import OPENSSL_MOST, check, sealed
from capmig.errors import DeployFailed, Refused
from tests.fakes.database import DUMP as ON_THE_NODE
from tests.fakes.database import Database
from tests.fakes.world import inputs

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
DUMP = random.Random(1).randbytes(3_000_000)


def lines(program: str) -> tuple[str, str]:
    """The README's two lines with this program: that which makes a key, and that which decrypts."""
    section = README.split("\n### A copy in the workspace\n", 1)[1].split("\n## ", 1)[0]
    make, decrypt = re.findall(rf"^{program}[- ].+$", section, re.MULTILINE)
    return make, decrypt


def sh(line: str, folder: Path) -> str:
    done = subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def seal(key: str, file: Path, *, size: int = len(DUMP)) -> None:
    with file.open("wb") as target, sealed(key, target, size=size) as pipe:
        for at in range(0, len(DUMP), 65536):
            pipe.write(DUMP[at : at + 65536])


def test_sealed__with_age(tmp_path: Path) -> None:
    """What the README's lines make and decrypt is the dump, and the file gives nothing of it away."""
    make, decrypt = lines("age")
    key = re.findall("age1[a-z0-9]+", sh(make, tmp_path))[0]
    check(key)
    seal(key, tmp_path / "shop.dump.age")
    assert DUMP[1000:1032] not in (tmp_path / "shop.dump.age").read_bytes()
    sh(decrypt, tmp_path)
    assert (tmp_path / "shop.dump").read_bytes() == DUMP


def test_fetch__with_a_key(tmp_path: Path) -> None:
    """A whole download: the file in the workspace is the backup, encrypted, once size and checksum were compared."""
    make, decrypt = lines("age")
    key = re.findall("age1[a-z0-9]+", sh(make, tmp_path))[0]
    world = Database()
    backup = Backup(engine=Engine.AUTO, source="", image="", timeout=60.0, keep=5, restore=True)
    hand = world.hand()
    world.deploy(inputs(backup=backup), hand)
    wanted = Download(path=tmp_path / "shop.dump.age", workspace=tmp_path, key=key)
    copied = fetch(hand, wanted, timeout=60.0, cancelled=lambda: False)
    assert copied == Copied(file="shop.dump.age")
    sh(decrypt, tmp_path)
    assert (tmp_path / "shop.dump").read_bytes() == ON_THE_NODE


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_sealed__with_ssh_keys(tmp_path: Path, kind: str) -> None:
    """Each of several keys is enough to read it."""
    _, decrypt = lines("age")
    keys = []
    for name in ("ann", "bob"):
        sh(f"ssh-keygen -q -t {kind} -N '' -f {name}", tmp_path)
        keys.append((tmp_path / f"{name}.pub").read_text().strip())
    check("\n".join(keys))
    seal("\n".join(keys), tmp_path / "shop.dump.age")
    for name in ("ann", "bob"):
        (tmp_path / "shop.dump").unlink(missing_ok=True)
        sh(decrypt.replace("backup-key.txt", name), tmp_path)
        assert (tmp_path / "shop.dump").read_bytes() == DUMP


def test_sealed__with_a_certificate(tmp_path: Path) -> None:
    """OpenSSL's way, by the README's lines."""
    make, decrypt = lines("openssl")
    sh(make, tmp_path)
    key = (tmp_path / "backup-certificate.pem").read_text().strip()
    check(key)
    seal(key, tmp_path / "shop.dump.cms")
    assert DUMP[1000:1032] not in (tmp_path / "shop.dump.cms").read_bytes()
    sh(decrypt, tmp_path)
    assert (tmp_path / "shop.dump").read_bytes() == DUMP


@pytest.mark.parametrize("kind", ["RSA -pkeyopt rsa_keygen_bits:2048", "EC -pkeyopt ec_paramgen_curve:P-256"])
def test_sealed__with_a_bare_public_key(tmp_path: Path, kind: str) -> None:
    """One without a certificate does as well, and is decrypted in the same way."""
    _, decrypt = lines("openssl")
    sh(f"openssl genpkey -algorithm {kind} -out backup-key.pem", tmp_path)
    key = sh("openssl pkey -in backup-key.pem -pubout", tmp_path).strip()
    check(key)
    seal(key, tmp_path / "shop.dump.cms")
    assert DUMP[1000:1032] not in (tmp_path / "shop.dump.cms").read_bytes()
    sh(decrypt, tmp_path)
    assert (tmp_path / "shop.dump").read_bytes() == DUMP


def test_sealed__with_a_certificate_is_not_for_big_files(tmp_path: Path) -> None:
    """What OpenSSL could not decrypt again is not encrypted."""
    key = "-----BEGIN CERTIFICATE-----\n"
    with pytest.raises(DeployFailed, match="Give an age key"):
        seal(key, tmp_path / "x", size=OPENSSL_MOST + 1)


@pytest.mark.parametrize(
    "key",
    [
        "age1nonsense",
        "ssh-ed25519 AAAA",
        "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----",
    ],
)
def test_check__of_no_key(key: str) -> None:
    """What only looks like a key is found before anything is touched, in the program's own words."""
    with pytest.raises(Refused, match=r"backup-download-key: (age|openssl) cannot encrypt: .*[a-z]{4}"):
        check(key)


def test_check__without_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of the action's image it may be missing: that is no reason to fall over."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Refused, match="age cannot be run: No such file"):
        check("age1abc")


def test_sealed__onto_a_full_disk(tmp_path: Path) -> None:
    """The program that cannot write ends, and that is told; nobody waits for it."""
    key = re.findall("age1[a-z0-9]+", sh(lines("age")[0], tmp_path))[0]
    with pytest.raises(DeployFailed, match=r"age cannot encrypt: .*no space left"):
        seal(key, Path("/dev/full"))


def test_sealed__leaves_no_process_when_the_link_breaks(tmp_path: Path) -> None:
    """The error that broke the copy comes out, and the program is gone."""
    key = re.findall("age1[a-z0-9]+", sh(lines("age")[0], tmp_path))[0]

    def break_off() -> None:
        with (tmp_path / "x").open("wb") as file, sealed(key, file, size=9) as pipe:
            pipe.write(b"half")
            raise ConnectionError("broken")

    with pytest.raises(ConnectionError, match="broken"):
        break_off()
    assert subprocess.run(["pgrep", "--parent", str(os.getpid()), "age"], check=False).returncode == 1
