"""Settings in a program; what concerns the command line stands in test_cli_options.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from skyring.errors import ConfigError
from skyring.settings import (
    HttpSettings,
    NatsSettings,
    RingSettings,
    Settings,
    StorageSettings,
    load_settings,
)


@pytest.fixture(autouse=True)
def nothing_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def toml(tmp_path: Path, content: str) -> Path:
    file = tmp_path / "skyring.toml"
    file.write_text(content, encoding="utf-8")
    return file


def groups(settings: Settings) -> list[BaseModel]:
    values = (getattr(settings, name) for name in Settings.model_fields)
    return [value for value in values if isinstance(value, BaseModel)]


# In a program


def test_a_program_s_settings_ignore_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = Settings()
    monkeypatch.setenv("SKYRING_PORT", "4000")
    monkeypatch.setenv("SKYRING_STORAGE__BACKEND", "memory")
    monkeypatch.setenv("SKYRING_STORAGE", '{"backend": "memory"}')
    monkeypatch.setenv("PORT", "4000")
    (tmp_path / ".env").write_text("SKYRING_PORT=4000\n", encoding="utf-8")
    assert Settings() == before
    assert Settings(port=5000).port == 5000
    assert (Settings().port, Settings().storage.backend) == (3000, "leveldb")


def test_they_do_not_change() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1
    found = groups(settings)
    assert len(found) == 10
    for group in found:
        for name in type(group).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(group, name, 1)


def test_what_is_not_a_setting_is_refused() -> None:
    with pytest.raises(ValidationError, match="prot"):
        Settings(prot=1)  # type: ignore[call-arg]
    for group in groups(Settings()):
        with pytest.raises(ValidationError, match="nonsense"):
            type(group).model_validate({"nonsense": 1})


@pytest.mark.parametrize(
    ("group", "values"),
    [
        ("storage", {"backend": "paper"}),
        ("storage", {"sync": "sometimes"}),
        ("storage", {"open_files_max": 1}),
        ("timers", {"window_ms": 0}),
        ("timers", {"scheduled_max": 99}),
        ("delivery", {"in_flight_max": 0}),
        ("retry", {"attempts": 0}),
        ("retry", {"max_ms": "soon"}),
        ("http", {"connections_max": 0}),
        ("nats", {"echo_timeout_ms": 0}),
        ("ring", {"name": "a.b"}),
        ("ring", {"name": ""}),
        ("ring", {"name": "x" * 33}),
        ("ring", {"replicas": 6}),
        ("log", {"level": "loud"}),
        ("shutdown", {"drain_ms": -1}),
    ],
)
def test_values_out_of_bounds_are_refused(group: str, values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(values))):
        Settings.model_validate({group: values})


def test_every_setting_has_a_meaning_and_a_default_within_its_bounds() -> None:
    for group in [Settings(), *groups(Settings())]:
        assert type(group).__doc__
        assert type(group).model_validate(group.model_dump()) == group
        for name, field in type(group).model_fields.items():
            assert field.description or isinstance(getattr(group, name), BaseModel), name
            assert not field.is_required()


def test_names_from_the_node_js_skyring() -> None:
    assert StorageSettings(backend="leveldown").backend == "leveldb"  # type: ignore[arg-type]
    assert StorageSettings(backend="memdown").backend == "memory"  # type: ignore[arg-type]


# Looked for all around


def test_nothing_anywhere_means_the_defaults() -> None:
    loaded = load_settings()
    assert loaded == Settings()
    assert type(loaded) is Settings


def test_options_win_over_the_environment_and_that_over_the_file_one_by_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = "port = 1\nslots = 1\nhost = 'file'\n[http]\nkeep_alive_ms = 1\nconnections_max = 1\n"
    monkeypatch.setenv("SKYRING_PORT", "2")
    monkeypatch.setenv("SKYRING_SLOTS", "2")
    monkeypatch.setenv("SKYRING_HTTP__KEEP_ALIVE_MS", "2")
    monkeypatch.setenv("SKYRING_HTTP__PAGE_ENTRIES_MAX", "2")
    options = {"port": "3", "http": {"keep_alive_ms": "3"}}
    loaded = load_settings(options, toml(tmp_path, content))
    assert (loaded.port, loaded.slots, loaded.host) == (3, 2, "file")
    assert loaded.http == HttpSettings(keep_alive_ms=3, connections_max=1, page_entries_max=2)
    assert loaded.storage == StorageSettings()
    assert options == {"port": "3", "http": {"keep_alive_ms": "3"}}  # as they were


def test_what_was_loaded_no_longer_looks_around(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_settings()
    monkeypatch.setenv("SKYRING_PORT", "2")
    assert loaded.model_copy().port == 3000
    assert loaded.port == 3000


def test_a_file_named_env_is_not_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SKYRING_PORT=4000\n", encoding="utf-8")
    assert load_settings().port == 3000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("port = ", "is not TOML"),
        ("port = 1\nport = 2", "is not TOML"),
        ("prot = 1", "unknown setting prot"),
        ("[storage]\npaht = 'x'", "unknown setting storage.paht"),
        ("[stroage]\npath = 'x'", "unknown setting stroage"),
        ("port = 'many'", "port: .*got 'many'"),
        ("port = 70000", "port: .*got 70000"),
        ("[http]\nkeep_alive_ms = -1", "http.keep_alive_ms: .*got -1"),
        ("storage = 5", "storage: .*got 5"),
    ],
)
def test_a_wrong_file_is_explained_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load_settings({}, toml(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot read") as caught:
            load_settings({}, path)
        assert str(path) in str(caught.value)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "skyring.toml"
    file.write_bytes("host = 'ä'".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not TOML"):
        load_settings({}, file)


def test_all_that_is_wrong_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYRING_SLOTS", "0")
    with pytest.raises(ConfigError) as caught:
        load_settings({"port": "x", "retry": {"attempts": "0"}})
    for name in ("slots", "port", "retry.attempts"):
        assert f"{name}: " in str(caught.value)


def test_a_wrong_variable_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYRING_STORAGE__PAHT", "x")
    with pytest.raises(ConfigError, match=r"unknown setting storage\.paht"):
        load_settings()


def test_a_group_that_is_no_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYRING_STORAGE", "memory")
    with pytest.raises(ConfigError):
        load_settings()


# Transports


def test_transports_from_every_place_come_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "skyring.toml"
    file.write_text('transport = ["a", "b"]\n')
    assert load_settings({}, file).transport.load == ("a", "b")
    monkeypatch.setenv("SKYRING_TRANSPORT__TCP__ACK", "environment")
    monkeypatch.setenv("SKYRING_TRANSPORT__TCP__IDLE_MS", "5")
    loaded = load_settings({}, file).transport
    assert (loaded.load, loaded.options) == (
        ("a", "b"),
        {"tcp": {"ack": "environment", "idle_ms": "5"}},
    )
    monkeypatch.setenv("SKYRING_TRANSPORT", " c, d ,,")
    loaded = load_settings({"transport": {"tcp": {"ack": "option"}}}, file).transport
    assert (loaded.load, loaded.options) == (
        ("c", "d"),
        {"tcp": {"ack": "option", "idle_ms": "5"}},
    )
    assert load_settings({"transport": {"load": ["e", "f,g"]}}, file).transport.load == (
        *("e", "f", "g"),
    )


def test_options_of_transports_in_a_file_keep_their_types(tmp_path: Path) -> None:
    file = tmp_path / "skyring.toml"
    file.write_text('[transport]\nload = ["a"]\n[transport.a]\nn = 1\nyes = true\nl = ["x"]\n')
    loaded = load_settings({}, file).transport
    assert loaded.load == ("a",)
    assert loaded.options == {"a": {"n": 1, "yes": True, "l": ["x"]}}


def test_transports_given_in_python() -> None:
    assert Settings().transport.load == ()
    for given in (["a", "b"], ("a", "b"), "a,b", {"load": ["a", "b"]}):
        assert Settings.model_validate({"transport": given}).transport.load == ("a", "b")


@pytest.mark.parametrize(
    "content",
    ["transport = 3", "transport = [3]", "[transport]\ntcp = 3", "[transport]\nload = {}"],
)
def test_transports_that_are_none(tmp_path: Path, content: str) -> None:
    file = tmp_path / "skyring.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"^transport"):
        load_settings({}, file)


# NATS and the ring


def test_a_group_s_name_stands_for_what_it_is_for() -> None:
    for given in (["a", "b"], ("a", "b"), "a, b,", {"servers": ["a", "b"]}):
        assert Settings.model_validate({"nats": given}).nats == NatsSettings(servers=("a", "b"))
    for name in ("x", {"name": "x"}):
        assert Settings.model_validate({"ring": name}).ring == RingSettings(name="x")


def test_nats_and_ring_from_every_place_come_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = toml(tmp_path, 'nats = ["a", "b"]\nring = "file"\n')
    loaded = load_settings({}, file)
    assert (loaded.nats.servers, loaded.ring.name) == (("a", "b"), "file")
    monkeypatch.setenv("SKYRING_NATS__USER", "u")
    monkeypatch.setenv("SKYRING_NATS__CONNECT_TIMEOUT_MS", "5")
    monkeypatch.setenv("SKYRING_RING__LEASE_MS", "4000")
    loaded = load_settings({"nats": {"user": "option"}, "ring": {"lease_ms": "5000"}}, file)
    assert loaded.nats == NatsSettings(servers=("a", "b"), user="option", connect_timeout_ms=5)
    assert loaded.ring == RingSettings(name="file", lease_ms=5000)
    monkeypatch.setenv("SKYRING_NATS", "c:1,nats://d:2")
    monkeypatch.setenv("SKYRING_RING", "environment")
    loaded = load_settings({}, file)
    assert (loaded.nats.servers, loaded.nats.user) == (("c:1", "nats://d:2"), "u")
    assert loaded.ring == RingSettings(name="environment", lease_ms=4000)
    given: dict[str, Any] = {"nats": {"servers": ["e", "f,g"]}, "ring": {"name": "option"}}
    loaded = load_settings(given, file)
    assert (loaded.nats.servers, loaded.ring.name) == (("e", "f", "g"), "option")


def test_a_table_of_a_file(tmp_path: Path) -> None:
    content = (
        '[nats]\nservers = ["a"]\ntoken = "secret"\nca_file = "ca.pem"\n'
        '[ring]\nname = "x"\nlease_ms = 4000\n'
    )
    loaded = load_settings({}, toml(tmp_path, content))
    assert loaded.nats == NatsSettings(servers=("a",), token="secret", ca_file="ca.pem")  # type: ignore[arg-type]
    assert loaded.nats.token is not None
    assert loaded.nats.token.get_secret_value() == "secret"
    assert loaded.ring == RingSettings(name="x", lease_ms=4000)


def test_an_empty_variable_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("", "__USER", "__PASSWORD", "__TOKEN", "__CREDENTIALS_FILE", "__MONITORING"):
        monkeypatch.setenv(f"SKYRING_NATS{name}", "")
    monkeypatch.setenv("SKYRING_NODE", "")
    monkeypatch.setenv("SKYRING_ADVERTISE", "")
    assert load_settings() == Settings()


@pytest.mark.parametrize("given", ['{"a": 1}', "[1]", "null", "5", "true", " x ", "ä"])
def test_a_secret_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("SKYRING_NATS__PASSWORD", given)
    password = load_settings().nats.password
    assert password is not None
    assert password.get_secret_value() == given


@pytest.mark.parametrize(
    "given",
    [
        {"password": "hush", "nonsense": 1},
        {"servers": ["nats://user:hush@127.0.0.1:4222"]},
        {"servers": "hush@127.0.0.1:4222"},
        {"servers": {"hush": 1}},
        {"password": ["hush"]},
        {"token": {"hush": "hush"}},
        {"user": ["hush"]},
        {"monitoring": ["hush"]},
    ],
)
def test_no_secret_is_told(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="nats") as caught:
        load_settings({"nats": given})
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)
    for make in (lambda: Settings.model_validate({"nats": given}), lambda: NatsSettings(**given)):
        with pytest.raises(ValidationError) as invalid:
            make()
        assert "hush" not in str(invalid.value)


def test_secrets_are_not_shown() -> None:
    settings = Settings.model_validate({"nats": {"password": "hush", "token": "hush"}})
    assert "hush" not in f"{settings!r} {settings} {settings.nats!r} {settings.nats}"


@pytest.mark.parametrize(
    "times",
    [
        {"lease_ms": 2_499},
        {"suspect_ms": 500},
        {"dead_ms": 1_500},
        {"heartbeat_ms": 1_500},
        {"heartbeat_ms": 10_000, "lease_ms": 30_000},
    ],
)
def test_times_of_a_ring_that_do_not_fit_together(times: dict[str, int]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({"ring": times})
    assert str(caught.value).startswith(
        "ring: heartbeat_ms < suspect_ms < dead_ms <= lease_ms must hold, and does not for "
    )
    assert str(next(iter(times.values()))) in str(caught.value)
    RingSettings(heartbeat_ms=20, suspect_ms=40, dead_ms=60, lease_ms=60)


@pytest.mark.parametrize("name", ["a.b", "a b", "a*", "x" * 65, "ä", "a\n"])
def test_a_name_of_a_node_that_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^node: "):
        load_settings({"node": name})


@pytest.mark.parametrize(
    "url", ["127.0.0.1:3000", "ftp://a", "http://", "http://u:p@a", "http://a b", "http://a?b"]
)
def test_an_url_to_advertise_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^advertise: "):
        load_settings({"advertise": url})
    for good in ("http://a", "https://a:1", "http://[::1]:3000/timers/"):
        assert load_settings({"advertise": good}).advertise == good
