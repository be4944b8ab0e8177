"""Every setting can be given on the command line, in the environment and in a file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from pydantic import SecretStr

from skyring.cli import main
from skyring.errors import SkyringError, StorageLocked
from skyring.options import SettingOption, setting_options
from skyring.settings import Settings

OPTIONS = {option.key: option for option in setting_options()}
EVERY = pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)


class Ran(NamedTuple):
    """What a command line led to."""

    code: int
    out: str
    err: str
    settings: Settings | None


Run = Callable[..., Ran]


class StandIn(ModuleType):
    """In place of the node: keeps the settings, starts nothing."""

    code = 0
    error: SkyringError | None = None
    settings: Settings | None = None

    def serve(self, settings: Settings) -> int:
        self.settings = settings
        if self.error is not None:
            raise self.error
        return self.code


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn("skyring.server")
    monkeypatch.setitem(sys.modules, "skyring.server", stand_in)
    return stand_in


@pytest.fixture
def run(node: StandIn, capsys: pytest.CaptureFixture[str]) -> Run:
    def run_(*arguments: str) -> Ran:
        node.settings = None
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        code = exit_.value.code
        assert isinstance(code, int)
        return Ran(code, *capsys.readouterr(), node.settings)

    return run_


def other_value(option: SettingOption) -> str:
    """A valid value that is not the default."""
    if option.metavar == "NUMBER":
        return str(int(option.default) + 1)
    if option.path == ("advertise",):
        return "http://127.0.0.1:3001"
    names = option.metavar.split("|")
    return names[-1] if len(names) > 1 and names[-1] != option.default else names[0]


def value_of(settings: Settings | None, option: SettingOption) -> str:
    value: object = settings
    for name in option.path:
        value = getattr(value, name)
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def spellings(option: SettingOption) -> set[str]:
    snake = "--" + ":".join(option.words)
    return {option.option, option.alias, snake, snake.replace(":", "-"), snake.replace(":", "_")}


def test_there_are_settings_with_and_without_a_group() -> None:
    assert {"port", "storage.path", "log.level"} <= OPTIONS.keys()


@EVERY
def test_on_the_command_line_in_every_spelling(option: SettingOption, run: Run) -> None:
    value = other_value(option)
    for spelling in spellings(option):
        for arguments in ([spelling, value], [f"{spelling}={value}"]):
            ran = run("run", *arguments)
            assert (ran.code, ran.err) == (0, "")
            assert value_of(ran.settings, option) == value


@EVERY
def test_in_the_environment(
    option: SettingOption, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(option.env, other_value(option))
    ran = run("run")
    assert (ran.code, ran.err) == (0, "")
    assert value_of(ran.settings, option) == other_value(option)


@EVERY
def test_in_a_file(option: SettingOption, run: Run, tmp_path: Path) -> None:
    value = other_value(option)
    literal = value if option.metavar == "NUMBER" else f'"{value}"'
    file = tmp_path / "skyring.toml"
    *group, name = option.path
    header = f"[{group[0]}]\n" if group else ""
    file.write_text(f"{header}{name} = {literal}\n", encoding="utf-8")
    ran = run("run", "--config", str(file))
    assert (ran.code, ran.err) == (0, "")
    assert value_of(ran.settings, option) == value


@EVERY
def test_stands_in_the_help(
    option: SettingOption, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = run("run", "--help").out.split()
    assert option.option in shown
    assert any(word.startswith(option.env) for word in shown)
    assert any(word.startswith(option.default) for word in shown)


def test_nothing_given_means_the_defaults(run: Run) -> None:
    assert run("run").settings == Settings()


def test_the_short_option_for_the_port(run: Run) -> None:
    ran = run("run", "-p", "4000", "--host", "::1")
    assert ran.settings is not None
    assert (ran.settings.port, ran.settings.host) == (4000, "::1")


@pytest.mark.parametrize(
    ("old", "new"), [("leveldown", "leveldb"), ("memdown", "memory"), ("memory", "memory")]
)
def test_names_of_backends(run: Run, old: str, new: str) -> None:
    ran = run("run", "--storage:backend", old)
    assert ran.settings is not None
    assert ran.settings.storage.backend == new


def test_the_command_line_wins_over_the_environment_over_the_file(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "skyring.toml"
    file.write_text('[storage]\npath = "file"\nsync = "never"\ncache_bytes = 1048577\n')
    monkeypatch.setenv("SKYRING_STORAGE__PATH", "environment")
    monkeypatch.setenv("SKYRING_STORAGE__CACHE_BYTES", "1048578")
    ran = run("run", "--config", str(file), "--storage:path", "option")
    assert ran.settings is not None
    storage = ran.settings.storage
    assert storage.path == Path("option")
    assert storage.cache_bytes == 1_048_578
    assert storage.sync == "never"
    assert storage.open_files_max == Settings().storage.open_files_max


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "abc"], "port"),
        (["--port", "65536"], "port"),
        (["--port", ""], "port"),
        (["--storage:backend", "paper"], "storage.backend"),
        (["--storage:open-files-max", "1.5"], "storage.open_files_max"),
        (["--retry:attempts", "0"], "retry.attempts"),
        (["--config", "no-such-file.toml"], "no-such-file.toml"),
        (["--ring", "a.b"], "ring.name"),
        (["--node", "a b"], "node"),
        (["--advertise", "127.0.0.1:3000"], "advertise"),
        (["--nats", "nats://a:b@c"], "nats.servers"),
        (["--ring:lease-ms", "100"], "dead_ms <= lease_ms must hold"),
    ],
)
def test_a_wrong_value_is_one_line_and_exit_code_2(
    run: Run, arguments: list[str], said: str
) -> None:
    ran = run("run", *arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.startswith("skyring: ")
    assert ran.err.count("\n") == 1
    assert said in ran.err
    assert ran.settings is None


@pytest.mark.parametrize("content", ["port = ", "prot = 1", "[storage]\npaht = 'x'", "\udcff"])
def test_a_wrong_file(run: Run, tmp_path: Path, content: str) -> None:
    file = tmp_path / "skyring.toml"
    file.write_text(content, encoding="utf-8", errors="surrogateescape")
    ran = run("run", "--config", str(file))
    assert ran.code == 2
    assert ran.err.startswith("skyring: ")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--storage:paht", "x"], ["--port"], ["extra"]])
def test_a_wrong_command_line(run: Run, arguments: list[str]) -> None:
    ran = run("run", *arguments)
    assert ran.code == 2
    assert ran.settings is None


def test_an_unknown_option_is_met_with_the_ones_like_it(run: Run) -> None:
    assert "--storage-path" in run("run", "--storage:pth", "x").err


def test_an_unknown_variable_is_named_and_ignored(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYRING_FOO", "1")
    monkeypatch.setenv("SKYRING_STORAGE_PATH", "x")
    ran = run("run")
    assert ran.code == 0
    first, second = ran.err.splitlines()
    assert "SKYRING_FOO is no setting" in first
    assert "did you mean SKYRING_STORAGE__PATH?" in second
    assert ran.settings == Settings()


def test_known_variables_are_not_warned_about(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYRING_URL", "http://127.0.0.1:3000")
    monkeypatch.setenv("skyring_port", "3001")
    monkeypatch.setenv("SKYRING_LOG", '{"level": "error"}')
    ran = run("run")
    assert ran.err == ""
    assert ran.settings is not None
    assert (ran.settings.port, ran.settings.log.level) == (3001, "error")


def test_a_wrong_variable_inside_a_group_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYRING_STORAGE__PAHT", "x")
    ran = run("run")
    assert ran.code == 2
    assert "storage.paht" in ran.err


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_exit_code_is_that_of_the_node(run: Run, node: StandIn, code: int) -> None:
    node.code = code
    assert run("run").code == code


def test_an_error_of_the_node_is_one_line(run: Run, node: StandIn) -> None:
    node.error = StorageLocked("data is held\nby another process")
    ran = run("run")
    assert (ran.code, ran.err) == (1, "skyring: data is held by another process\n")


# Transports and their options


def transports_of(ran: Ran) -> tuple[tuple[str, ...], object]:
    assert (ran.code, ran.err) == (0, "")
    assert ran.settings is not None
    return ran.settings.transport.load, ran.settings.transport.options


def test_transports_can_be_given_again_and_again(run: Run) -> None:
    ran = run("run", "-t", "a", "--transport", "./b.py:C", "--transport=d,e", "-t", "f:G")
    assert transports_of(ran) == (("a", "./b.py:C", "d", "e", "f:G"), {})


def test_options_of_transports(run: Run) -> None:
    ran = run(
        *("run", "--transport:tcp:ack=none", "-t", "tcp", "--transport:tcp:idle-ms", "5"),
        *("--transport:my-own:key=a=b:c", "--transport:my-own:empty=", "-p", "4000"),
    )
    assert transports_of(ran) == (
        ("tcp",),
        {"tcp": {"ack": "none", "idle_ms": "5"}, "my_own": {"key": "a=b:c", "empty": ""}},
    )
    assert ran.settings is not None
    assert ran.settings.port == 4000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--transport:load:x=1"], "no transport has the name load"),
        (["--transport:tcp:ack"], "--transport:tcp:ack needs a value"),
        (["--transport:tcp"], "--transport"),
        (["--transport:tcp=none"], "--transport"),
        (["--transport::ack=none"], "--transport"),
        (["--transport:tcp:a:b=none"], "--transport"),
        (["-t"], "-t"),
    ],
)
def test_wrong_options_of_transports(run: Run, arguments: list[str], said: str) -> None:
    ran = run("run", *arguments)
    assert ran.code == 2
    assert said in ran.err
    assert ran.settings is None


# NATS


def test_seeds_are_servers_of_nats(run: Run) -> None:
    arguments = ("-s", "a:1", "--seeds", "b", "--nats", "nats://c:3,d", "--seeds=e", "-sf")
    ran = run("run", *arguments)
    assert ran.settings is not None
    assert ran.settings.nats.servers == ("a:1", "b", "nats://c:3", "d", "e", "f")


def test_no_secret_stands_in_the_help_or_in_an_error(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYRING_NATS__PASSWORD", "hush")
    monkeypatch.setenv("SKYRING_NATS__TOKEN", "hush")
    monkeypatch.setenv("SKYRING_NATS__NO_SUCH", "hush")
    assert "hush" not in run("run", "--help").out
    ran = run("run", "--nats", "nats://hush@a", "--nats:request-timeout-ms", "0")
    assert (ran.code, "hush" in ran.err) == (2, False)
    assert "nats.no_such" in ran.err
