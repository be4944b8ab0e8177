"""The files of ``deploy/nats``: what a server says to them, and what the scripts make."""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from skyring.cluster.nats_server import MESSAGE_BYTES_MAX
from skyring.testing.nats_server import server_binary
from tests.deploy.shipped import CONFIGURATION, DEPLOY, ROOT, Outcome, run

FOLDER = DEPLOY / "nats"
CERTIFICATES, PASSWORDS = FOLDER / "make-certificates", FOLDER / "make-passwords"
ENVIRONMENT = {"NATS_NAME": "nats-1", "NATS_MONITORING": "127.0.0.1:8222"}
ROLES = ("system", "node", "observer", "delivery", "receiver")

Check: TypeAlias = Callable[..., Outcome]


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """What a server has in /etc/nats."""
    made, folder = tmp_path / "made", tmp_path / "etc"
    folder.mkdir()
    assert run(CERTIFICATES, made, "nats-1", cwd=tmp_path).code == 0
    assert run(PASSWORDS, folder, cwd=tmp_path).code == 0
    for name in CONFIGURATION:
        shutil.copy(FOLDER / name, folder)
    shutil.copytree(made / "nats-1", folder / "certificates")
    return folder


@pytest.fixture
def check(etc: Path, tmp_path: Path) -> Check:
    """Has a server look at its files."""

    def look(**environment: str | None) -> Outcome:
        given = {**ENVIRONMENT, "NATS_DATA": str(tmp_path / "data"), **environment}
        without = [f"--unset={name}" for name, value in given.items() if value is None]
        return run(
            *("env", *without, str(server_binary()), "-t", "-c", "nats.conf"),
            cwd=etc,
            **{name: value for name, value in given.items() if value is not None},
        )

    return look


@pytest.mark.parametrize("name", ["nats-1", "nats-2", "nats-3"])
@pytest.mark.parametrize("monitoring", ["127.0.0.1:8222", "0.0.0.0:8222"])
def test_a_server_takes_the_files(check: Check, name: str, monitoring: str) -> None:
    done = check(NATS_NAME=name, NATS_MONITORING=monitoring)
    assert done.code == 0, done.err
    assert "is valid" in done.err


def test_all_that_is_said_of_the_cluster() -> None:
    text = (FOLDER / "nats.conf").read_text()
    megabytes = re.findall(r"^max_payload: (\d+)MB$", text, re.M)
    assert [int(number) << 20 for number in megabytes] == [MESSAGE_BYTES_MAX]
    assert re.search(r"^  sync_interval: always$", text, re.M)
    assert re.findall(r'^    "nats://(nats-\d):6222"$', text, re.M) == [
        "nats-1",
        "nats-2",
        "nats-3",
    ]


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("passwords.conf", "passwords.conf"),
        ("accounts.conf", "accounts.conf"),
        ("certificates/server.key", "certificates/server.key"),
        ("certificates/ca.pem", "ca.pem|root certificate"),
    ],
)
def test_a_file_that_is_missing_is_named(etc: Path, check: Check, missing: str, said: str) -> None:
    (etc / missing).unlink()
    done = check()
    assert done.code == 1
    assert re.search(said, done.err), done.err


@pytest.mark.parametrize("name", ["NATS_NAME", "NATS_DATA", "NATS_MONITORING"])
def test_a_variable_that_is_missing_is_named(check: Check, name: str) -> None:
    done = check(**{name: None})
    assert done.code == 1
    assert name in done.err


def test_a_password_that_is_missing_is_named(etc: Path, check: Check) -> None:
    file = etc / "passwords.conf"
    file.write_text(re.sub("^OBSERVER.*\n", "", file.read_text(), flags=re.M))
    done = check()
    assert done.code == 1
    assert "OBSERVER_PASSWORD" in done.err


# Passwords


def test_passwords_are_long_all_different_and_for_their_owner_alone(tmp_path: Path) -> None:
    found = set()
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert run(PASSWORDS, folder, cwd=tmp_path).code == 0
        text = (folder / "passwords.conf").read_text()
        passwords = dict(re.findall(r'^(\w+)_PASSWORD: "([0-9a-f]{48})"$', text, re.M))
        assert {name.lower() for name in passwords} == set(ROLES)
        found |= set(passwords.values())
        environment = (folder / "node.env").read_text()
        assert f"SKYRING_NATS__PASSWORD={passwords['NODE']}\n" in environment
        assert environment.startswith("SKYRING_NATS__USER=node\n")
        for file in folder.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(found) == 2 * len(ROLES)


@pytest.mark.parametrize("there", ["passwords.conf", "node.env"])
def test_no_password_is_written_over(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    done = run(PASSWORDS, cwd=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert f"{there} is there already" in done.err
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


# Certificates


def about(certificate: Path) -> str:
    """What openssl says of it."""
    done = run("openssl", "x509", "-noout", "-text", "-in", certificate, cwd=certificate.parent)
    assert done.code == 0, done.err
    return done.out


def alternatives(certificate: Path) -> set[str]:
    text = re.findall(r"Subject Alternative Name: *\n +(.*)", about(certificate))
    return set(", ".join(text).split(", ")) - {""}


def test_certificates_are_signed_and_hold_their_names(tmp_path: Path) -> None:
    names = ("nats-1,nats-1.example,10.0.0.1,fd00::1", "nats-2")
    done = run(CERTIFICATES, "--client", "ann", "--client", "bob", "made", *names, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    made = tmp_path / "made"
    local = {"DNS:localhost", "IP Address:127.0.0.1", "IP Address:0:0:0:0:0:0:0:1"}
    further = {"DNS:nats-1.example", "IP Address:10.0.0.1", "IP Address:FD00:0:0:0:0:0:0:1"}
    first, second = (made / name / "server.pem" for name in ("nats-1", "nats-2"))
    assert alternatives(first) == {"DNS:nats-1"} | local | further
    assert alternatives(second) == {"DNS:nats-2"} | local
    clients = [made / "clients" / f"{name}.pem" for name in ("ann", "bob")]
    for client in clients:
        assert "TLS Web Server Authentication" not in about(client)
        assert alternatives(client) == set(), "a server could take it for another server"
    for certificate in (first, second, *clients):
        verified = run(
            *("openssl", "verify", "-x509_strict", "-CAfile", made / "ca.pem", certificate),
            cwd=tmp_path,
        )
        assert verified.code == 0, verified.err
    serials = {re.findall(r"Serial Number:\s+(\S+)", about(each))[0] for each in (first, second)}
    assert len(serials) == 2


def test_keys_are_for_their_owner_and_certificates_for_everybody(tmp_path: Path) -> None:
    assert run(CERTIFICATES, "--client", "ann", "made", "nats-1", cwd=tmp_path).code == 0
    files = [path for path in (tmp_path / "made").rglob("*") if path.is_file()]
    assert len(files) == 7
    for file in files:
        mode = 0o600 if file.suffix == ".key" else 0o644
        assert stat.S_IMODE(file.stat().st_mode) == mode, file
    assert stat.S_IMODE((tmp_path / "made" / "nats-1").stat().st_mode) == 0o755


def test_servers_are_added_by_the_same_authority(tmp_path: Path) -> None:
    assert run(CERTIFICATES, "made", "nats-1", cwd=tmp_path).code == 0
    authority = (tmp_path / "made" / "ca.pem").read_bytes()
    assert run(CERTIFICATES, "--days", "30", "made", "nats-4", cwd=tmp_path).code == 0
    assert (tmp_path / "made" / "nats-4" / "ca.pem").read_bytes() == authority
    run_out = run(
        *("openssl", "x509", "-checkend", str(31 * 86_400), "-noout"),
        *("-in", tmp_path / "made" / "nats-4" / "server.pem"),
        cwd=tmp_path,
    )
    assert run_out.code == 1, "it is valid for longer"


def test_no_certificate_is_written_over(tmp_path: Path) -> None:
    assert run(CERTIFICATES, "--client", "ann", "made", "nats-1", cwd=tmp_path).code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for arguments in (("made", "nats-2", "nats-1"), ("--client", "ann", "made")):
        done = run(CERTIFICATES, *arguments, cwd=tmp_path)
        assert done.code == 1
        assert "is there already" in done.err
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_half_an_authority_is_none(tmp_path: Path) -> None:
    assert run(CERTIFICATES, "made", "nats-1", cwd=tmp_path).code == 0
    (tmp_path / "made" / "ca.key").unlink()
    done = run(CERTIFICATES, "made", "nats-2", cwd=tmp_path)
    assert (done.code, "only one of ca.pem and ca.key" in done.err) == (1, True)
    assert {path.name for path in (tmp_path / "made").iterdir()} == {"ca.pem", "nats-1"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "a directory has to be given"),
        (("made",), 2, "at least one server"),
        (("made", "nats 1"), 2, "'nats 1' is no name"),
        (("made", "../nats-1"), 2, "'../nats-1' is no name"),
        (("made", "nats-1,a b"), 2, "'a b' is no name"),
        (("made", "clients"), 2, "cannot have the name 'clients'"),
        (("--days", "many", "made", "nats-1"), 2, "--days needs a number"),
        (("--days",), 2, "--days needs a number"),
        (("--client",), 2, "--client needs a name"),
        (("--client", "", "made"), 2, "'' is no name"),
        (("--force", "made", "nats-1"), 2, "there is no option --force"),
        (("/proc/nowhere", "nats-1"), 1, "cannot make /proc/nowhere"),
        (("made", "nats-1,300.1.1.1"), 1, "300.1.1.1"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = run(CERTIFICATES, *arguments, cwd=tmp_path)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert not (tmp_path / "made" / "nats-1").exists()


@pytest.mark.parametrize("script", [CERTIFICATES, PASSWORDS], ids=lambda script: script.name)
def test_a_script_explains_itself(script: Path, tmp_path: Path) -> None:
    done = run(script, "--help", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Usage: {script.name} ")
    assert run(script, "--nonsense", cwd=tmp_path).code == 2
    nothing = tmp_path / "bin"
    nothing.mkdir()
    (nothing / "bash").symlink_to("/bin/bash")
    for name in ("mkdir", "mktemp", "rm"):
        found = shutil.which(name)
        assert found is not None
        (nothing / name).symlink_to(found)
    arguments = ("made", "nats-1") if script == CERTIFICATES else (".",)
    done = run("/usr/bin/env", script, *arguments, cwd=tmp_path, PATH=str(nothing))
    assert (done.code, "needs openssl" in done.err) == (1, True)


def test_no_secret_is_shipped() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    made = [FOLDER / name for name in ("certificates", "passwords.conf", "node.env")]
    for path in made:
        assert f"/{path.relative_to(ROOT)}" in {line.rstrip("/") for line in ignored}
    for file in (*FOLDER.rglob("*"), *(DEPLOY / "systemd").rglob("*")):
        if file.is_file() and not any(file.is_relative_to(path) for path in made):
            text = file.read_text()
            assert "PRIVATE KEY" not in text, file
            assert re.search(r'(?i)password["\w]*\s*[:=]\s*"?[0-9a-f]{8}', text) is None, file
