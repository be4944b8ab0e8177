"""Transports are found in four ways, and what is wrong with one is said exactly."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr

from skyring.errors import ConfigError
from skyring.settings import DeliverySettings, Settings, TransportSettings, load_settings
from skyring.transports import Callback, DeliveryInfo, Outcome, Transport
from skyring.transports.loading import GROUP, TransportSpec, find, installed
from skyring.transports.registry import Loaded, load_transports

SOURCE = """
from skyring.transports import Outcome, Transport

class Pigeon(Transport):
    async def deliver(self, callback, payload, info):
        return Outcome.delivered()
"""
TWO = SOURCE + SOURCE.replace("Pigeon", "Raven")


class Stork(Transport):
    """With options."""

    class Options(Transport.Options):
        babies_max: int = Field(default=2, ge=1)
        key: SecretStr | None = None

    options: Options

    async def deliver(self, callback: Callback, payload: bytes, info: DeliveryInfo) -> Outcome:
        return Outcome.delivered()


class Crane(Stork):
    """With an option that has to be given."""

    class Options(Transport.Options):
        river: str

    options: Options  # type: ignore[assignment]


def load(*specs: TransportSpec, **options: dict[str, Any]) -> dict[str, Loaded]:
    settings = Settings.model_validate({"transport": options}).transport
    return load_transports(DeliverySettings(), settings, specs)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def birds(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that can be imported and has an entry point for each of its transports."""
    monkeypatch.syspath_prepend(str(elsewhere))
    package = elsewhere / "birds"
    package.mkdir()
    (package / "__init__.py").write_text(TWO + "\nRaven.name = 'other'\n")
    info = elsewhere / "birds-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: birds\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\npigeon = birds:Pigeon\nraven = birds:Raven\ndodo = birds:Dodo\n"
        "gone = no_such_birds:Gone\n"
    )
    importlib.invalidate_caches()
    yield package
    sys.modules.pop("birds", None)


def test_http_is_always_there_and_asking_for_it_changes_nothing() -> None:
    assert load("http", "http").keys() == {"http"}
    assert load()["http"].source == "built in"


# A class or an object


def test_a_class_and_an_object() -> None:
    stork = Stork(Stork.Options(babies_max=7))
    loaded = load(stork)
    assert loaded["stork"].transport is stork
    assert stork.options.babies_max == 7
    assert loaded["stork"].source == f"{__name__}:Stork"
    made = load(Stork)["stork"].transport
    assert isinstance(made, Stork)
    assert made.options == Stork.Options()


@pytest.mark.parametrize("given", [object, object(), None, 5, Outcome, Outcome.delivered()])
def test_what_is_no_transport(given: Any) -> None:
    with pytest.raises(ConfigError, match="is not a Transport: it is not derived from"):
        find(given)


def test_without_deliver() -> None:
    class Ostrich(Transport):
        pass

    class Kiwi(Transport):
        deliver = None  # type: ignore[assignment]

    for kind in (Ostrich, Ostrich(), Kiwi):
        with pytest.raises(ConfigError, match=r"(Ostrich|Kiwi).* has no deliver method"):
            find(kind)


def test_deliver_has_to_be_asynchronous() -> None:
    class Penguin(Transport):
        def deliver(self, callback: object, payload: object, info: object) -> Outcome:  # type: ignore[override]
            return Outcome.delivered()

    with pytest.raises(ConfigError, match=r"Penguin: deliver has to be defined with async def"):
        find(Penguin)


def test_options_that_are_none() -> None:
    class Heron(Stork):
        Options = dict  # type: ignore[assignment]

    with pytest.raises(ConfigError, match=r"class Options is not derived from Transport\.Options"):
        find(Heron)


@pytest.mark.parametrize("name", ["", "Stork", "white stork", "a:b", "-a", "x" * 65, 5, None])
def test_a_name_that_cannot_be_one(name: Any) -> None:
    kind = type("Bird", (Stork,), {"name": name})
    with pytest.raises(ConfigError, match="a transport's name has 1 to 64 of a-z"):
        load(kind)


def test_a_name_with_another_meaning() -> None:
    with pytest.raises(ConfigError, match="no transport can have the name 'load'"):
        load(type("Bird", (Stork,), {"name": "load"}))


def test_a_name_that_is_taken() -> None:
    with pytest.raises(ConfigError, match=r"the name 'stork': \S+:Stork and \S+:Stork$"):
        load(Stork, Stork())
    with pytest.raises(ConfigError, match="the name 'http': built in and "):
        load(type("Bird", (Stork,), {"name": "http"}))


def test_a_class_that_needs_arguments() -> None:
    class Swan(Stork):
        def __init__(self, lake: str) -> None:
            super().__init__()

    with pytest.raises(ConfigError, match="Swan cannot be made without arguments: TypeError: "):
        load(Swan)
    assert load(Swan("Lucerne")).keys() == {"http", "swan"}


# An installed one


def test_an_installed_one(birds: Path) -> None:
    loaded = load("pigeon")["pigeon"]
    assert loaded.source == "birds 1.2, birds:Pigeon"
    assert type(loaded.transport).__qualname__ == "Pigeon"
    assert {"pigeon", "raven"} <= installed().keys()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("eagle", r"no transport 'eagle' is installed \(installed: .*dodo, .*pigeon.*\./my_tr"),
        ("dodo", r"the transport 'dodo' cannot be loaded from birds 1\.2, birds:Dodo: Attribute"),
        ("gone", r"cannot be loaded from birds 1\.2, no_such_birds:Gone: ModuleNotFoundError"),
        ("raven", r"birds:Raven is installed as 'raven' but calls itself 'other'"),
    ],
)
def test_an_installed_one_that_cannot_be_loaded(birds: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(name)


# A class of a module


def test_a_class_of_a_module(birds: Path) -> None:
    loaded = load("birds:Pigeon", "birds:Raven")
    assert loaded.keys() == {"http", "pigeon", "other"}
    assert loaded["other"].source == "birds:Raven"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("no_such_module:Bird", "no_such_module:Bird: cannot import no_such_module: ModuleNotF"),
        ("birds.no_such:Bird", r"birds\.no_such:Bird: cannot import birds\.no_such: ModuleNotF"),
        ("birds:Eagle", "birds:Eagle: there is no Eagle in it"),
        ("birds:Pigeon.wing", r"birds:Pigeon\.wing: there is no Pigeon\.wing in it"),
        ("birds:Outcome", "birds:Outcome is not a Transport"),
        ("birds:", "'birds:' is not of the form package.module:Class"),
        (":Pigeon", "':Pigeon' is not of the form package.module:Class"),
        ("birds:Pigeon:x", "is not of the form package.module:Class"),
        ("bi rds:Pigeon", "is not of the form package.module:Class"),
    ],
)
def test_a_class_that_is_not_there(birds: Path, spec: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(spec)


# A file


@pytest.mark.parametrize("spec", ["./bird.py", "bird.py", "./bird.py:Pigeon", "bird.py:Pigeon"])
def test_a_file(elsewhere: Path, spec: str) -> None:
    (elsewhere / "bird.py").write_text(SOURCE)
    loaded = load(spec)["pigeon"]
    assert loaded.source == "bird.py:Pigeon"
    assert load(str(elsewhere / "bird.py"))["pigeon"].source == f"{elsewhere}/bird.py:Pigeon"


def test_files_of_the_same_name(elsewhere: Path) -> None:
    for name in ("a", "b"):
        (elsewhere / name).mkdir()
        source = SOURCE.replace("Pigeon", f"Pigeon_{name}")
        (elsewhere / name / "bird.py").write_text(source)
    assert load("a/bird.py", "b/bird.py").keys() == {"http", "pigeon_a", "pigeon_b"}


def test_a_file_with_annotations_and_options(elsewhere: Path) -> None:
    source = "from __future__ import annotations\nfrom pydantic import Field\n" + SOURCE
    source += "    class Options(Transport.Options):\n        wings: int = Field(default=2)\n"
    (elsewhere / "bird.py").write_text(source)
    loaded = load("./bird.py", pigeon={"wings": "4"})
    assert loaded["pigeon"].transport.options.wings == 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("source", "spec", "said"),
    [
        (SOURCE, "./nest.py", "^nest.py is not there$"),
        (SOURCE, "nest/", "'nest/' is not of the form path/file.py or path/file.py:Class"),
        (SOURCE, "./bird.py:", "there is no  in it"),
        (SOURCE, "./bird.py:Eagle", r"\./bird\.py:Eagle: there is no Eagle in it"),
        (SOURCE, "./bird.py:Outcome", r"\./bird\.py:Outcome is not a Transport"),
        (TWO, "./bird.py", r"several transports \(Pigeon, Raven\); say which: bird\.py:Pigeon"),
        (
            "x = 1",
            "./bird.py",
            r"bird\.py has no class derived from skyring\.transports\.Transport",
        ),
        ("from skyring.transports import Transport", "./bird.py", "has no class derived"),
        ("x = ", "./bird.py", r"bird\.py cannot be loaded: line 1: invalid syntax"),
        ("1 / 0", "./bird.py", r"bird\.py cannot be loaded: ZeroDivisionError: division by zero"),
        ("import no_such", "./bird.py", "cannot be loaded: ModuleNotFoundError: No module named"),
        ("\0", "./bird.py", "cannot be loaded: "),
        ("import sys; sys.exit()", "./bird.py", "cannot be loaded: SystemExit"),
        (SOURCE + "\ndef __getattr__(name): raise ValueError", "./bird.py:Eagle", "cannot be had"),
    ],
)
def test_a_file_that_has_none(elsewhere: Path, source: str, spec: str, said: str) -> None:
    (elsewhere / "bird.py").write_text(source)
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=said):
        load(spec)
    if "cannot be loaded" in said:
        assert not {name for name in set(sys.modules) - before if "bird" in name}


def test_a_file_with_two_names_for_one_and_a_base(elsewhere: Path) -> None:
    source = SOURCE + "\nclass Dove(Pigeon): pass\nturtle = Dove\n"
    (elsewhere / "bird.py").write_text(source)
    assert load("./bird.py").keys() == {"http", "dove"}


def test_a_file_at_home(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "bird.py").write_text(SOURCE)
    monkeypatch.setenv("HOME", str(elsewhere))
    assert load("~/bird.py").keys() == {"http", "pigeon"}


def test_a_directory(elsewhere: Path) -> None:
    (elsewhere / "birds.py").mkdir()
    with pytest.raises(ConfigError, match=r"^birds\.py is no file$"):
        load("./birds.py")


# Options


def test_options_are_checked_and_converted() -> None:
    stork = load(Stork, stork={"babies_max": "3"})["stork"].transport
    assert stork.options == Stork.Options(babies_max=3)
    assert load(Stork)["stork"].transport.options == Stork.Options()


def test_options_of_an_object_are_joined_by_those_of_the_settings() -> None:
    stork = Stork(Stork.Options(babies_max=7, key=SecretStr("s")))
    load(stork, stork={"babies_max": 3})
    assert stork.options == Stork.Options(babies_max=3, key=SecretStr("s"))


def test_a_name_with_dashes_is_found_from_the_environment() -> None:
    kind = type("Bird", (Stork,), {"name": "white-stork"})
    for spelling in ("white_stork", "white-stork"):
        loaded = load(kind, **{spelling: {"babies_max": 5}})["white-stork"].transport
        assert isinstance(loaded, Stork)
        assert loaded.options.babies_max == 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stork": {"babies": 1}}, r"unknown option transport\.stork\.babies \(it has: babies_max"),
        ({"stork": {"babies_max": 0}}, r"^transport\.stork\.babies_max: Input should be greater"),
        ({"stork": {"babies_max": "few"}}, r"^transport\.stork\.babies_max: Input should be a val"),
        ({"eagle": {"eggs": 1}}, r"^transport\.eagle\.eggs: no transport 'eagle' is loaded \(load"),
        (
            {"http": {"eggs": 1}},
            r"^unknown option transport\.http\.eggs: the transport 'http' h",
        ),
    ],
)
def test_options_that_are_wrong(options: dict[str, dict[str, Any]], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        load(Stork, **options)
    assert "\n" not in str(raised.value)


def test_an_option_that_has_to_be_given() -> None:
    with pytest.raises(ConfigError, match=r"^transport\.crane\.river has to be given$"):
        load(Crane)
    assert load(Crane, crane={"river": "Elbe"}).keys() == {"http", "crane"}


def test_a_wrong_secret_is_not_quoted() -> None:
    with pytest.raises(ConfigError) as raised:
        load(Stork, stork={"key": ["hunter2"]})
    assert "hunter2" not in str(raised.value)


def test_they_are_loaded_in_the_order_in_which_they_are_given(birds: Path) -> None:
    settings = TransportSettings(load=("birds:Raven", "birds:Pigeon"))
    loaded = load_transports(DeliverySettings(), settings, [Stork])
    assert list(loaded) == ["http", "other", "pigeon", "stork"]


def test_options_from_both_spellings_of_a_name_come_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "skyring.toml"
    file.write_text("[transport.white-stork]\nbabies_max = 3\n")
    monkeypatch.setenv("SKYRING_TRANSPORT__WHITE_STORK__KEY", "s")
    settings = load_settings({}, file).transport
    kind = type("Bird", (Stork,), {"name": "white-stork"})
    stork = load_transports(DeliverySettings(), settings, [kind])["white-stork"].transport
    assert stork.options == Stork.Options(babies_max=3, key=SecretStr("s"))


def test_names_that_options_cannot_tell_apart() -> None:
    kinds = [type("Bird", (Stork,), {"name": name}) for name in ("a-b", "a_b")]
    with pytest.raises(ConfigError, match="'a-b' and 'a_b' are one name where options are given"):
        load(*kinds)


class Flock(Stork):
    """With options that are no scalars, which it looks at when it is made."""

    class Options(Transport.Options):
        names: list[str] = []
        sizes: tuple[int, ...] | None = None
        nests: dict[str, int] = {}
        text: str = ""

    options: Options  # type: ignore[assignment]

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self.seen = self.options.names


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({"names": "a, b,,"}, Flock.Options(names=["a", "b"])),
        ({"names": '["a,b", "c"]'}, Flock.Options(names=["a,b", "c"])),
        ({"names": ["a"]}, Flock.Options(names=["a"])),
        ({"sizes": "1,2"}, Flock.Options(sizes=(1, 2))),
        ({"nests": '{"a": 1}'}, Flock.Options(nests={"a": 1})),
        ({"text": "[a, b]"}, Flock.Options(text="[a, b]")),
    ],
)
def test_options_that_are_no_scalars(given: dict[str, Any], options: Flock.Options) -> None:
    flock = load(Flock, flock=given)["flock"].transport
    assert isinstance(flock, Flock)
    assert flock.options == options
    assert flock.seen == options.names


@pytest.mark.parametrize("given", [{"nests": "a"}, {"nests": "{"}, {"sizes": "a,b"}])
def test_options_that_cannot_be_read(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^transport\.flock\."):
        load(Flock, flock=given)


def test_a_value_in_the_wrong_place_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYRING_TRANSPORT__NATS", "hunter2")
    with pytest.raises(ConfigError, match=r"transport\.nats: .*transport\.NAME\.KEY") as raised:
        load_settings()
    assert "hunter2" not in str(raised.value)
    settings = Settings.model_validate({"transport": {"nats": {"password": "hunter2"}}})
    assert "hunter2" not in repr(settings)


def test_the_list_of_transports_by_its_long_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYRING_TRANSPORT__LOAD", "./a.py,b")
    assert load_settings().transport.load == ("./a.py", "b")


def test_an_object_that_cannot_take_options() -> None:
    @dataclass(frozen=True)
    class Still(Stork):
        pass

    with pytest.raises(ConfigError, match="Still does not take its options: FrozenInstanceError"):
        load(Still)


class CannotBeTold(Exception):
    def __str__(self) -> str:
        raise ValueError


class Clumsy(Stork):
    def __init__(self) -> None:
        raise CannotBeTold


def test_an_error_that_cannot_be_told() -> None:
    with pytest.raises(ConfigError, match=r"Clumsy cannot be made .*: CannotBeTold$"):
        load(Clumsy)


# Methods of the wrong kind


def method(definition: str) -> type[Transport]:
    """A transport with one method more."""
    inside: dict[str, Any] = {}
    exec(definition, inside)
    name = definition.removeprefix("async ").split()[1].partition("(")[0]
    return type("Odd", (Stork,), {name: inside[name]})


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ("async def check(self, callback): pass", "check must not be defined with async def"),
        ("async def destination(self, callback): pass", "destination must not be defined with"),
        ("def open(self): pass", "open has to be defined with async def"),
        ("def close(self): pass", "close has to be defined with async def"),
        ("async def deliver(self, c, p, i): yield", "deliver has a yield, so it is never run"),
        ("def deliver(self, c, p, i): yield", "deliver has a yield, so it is never run"),
    ],
)
def test_methods_of_the_wrong_kind(definition: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"Odd: {said}"):
        load(method(definition))
