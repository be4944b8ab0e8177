"""Every setting as a command line option, an environment variable and a TOML key.

Derived from `skyring.settings.Settings`; the command line and the reference are generated from it,
so a new setting needs no line of code here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

from skyring.settings import Group, Settings

__all__ = ["SettingOption", "nest", "setting_options", "unknown_variables"]

ENV_PREFIX = "SKYRING_"
OTHER_NAMES = {
    ("port",): ("-p",),
    ("transport", "load"): ("-t",),
    ("nats", "servers"): ("-s", "--seeds"),
}
"""What else an option is called; ``--seeds`` as in the Node.js Skyring."""
OTHER_VARIABLES = frozenset({"SKYRING_URL"})
"""Variables of the other commands, which are no settings of a node."""


class SettingOption(NamedTuple):
    """One setting and all its names."""

    path: tuple[str, ...]
    """Where it stands in `Settings`: ``("storage", "path")``."""
    is_main: bool
    """Does the name of its group stand for it?"""
    group_help: str
    """What its group is about; "" for a setting outside every group."""
    description: str
    default: str
    allowed: str
    """The values that it takes, in words; "" where any of its kind will do."""
    metavar: str
    repeated: bool
    """May it be given several times on the command line?"""

    @property
    def words(self) -> tuple[str, ...]:
        """What its names are made of: what a group is for needs no word of its own."""
        return self.path[:-1] if self.is_main else self.path

    @property
    def other_names(self) -> tuple[str, ...]:
        """``-p``"""
        return OTHER_NAMES.get(self.path, ())

    @property
    def group(self) -> str:
        """``storage``; "" for a setting outside every group."""
        return self.path[0] if len(self.path) > 1 else ""

    @property
    def option(self) -> str:
        """``--storage:path``"""
        return "--" + ":".join(self.words).replace("_", "-")

    @property
    def alias(self) -> str:
        """``--storage-path``"""
        return self.option.replace(":", "-")

    @property
    def env(self) -> str:
        """``SKYRING_STORAGE__PATH``"""
        return ENV_PREFIX + "__".join(self.words).upper()

    @property
    def key(self) -> str:
        """``storage.path``"""
        return ".".join(self.words)

    @property
    def parameter(self) -> str:
        """A Python name for it: ``storage__path``"""
        return "__".join(self.path)


def setting_options() -> Iterator[SettingOption]:
    """All settings, in the order in which they are declared."""
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, Group):
            group_help = (group.__doc__ or "").strip()
            for inner_name, inner in group.model_fields.items():
                yield _option((name, inner_name), inner, group_help, inner_name == group.main)
        else:
            yield _option((name,), field, "", False)


def nest(values: Mapping[tuple[str, ...], object]) -> dict[str, Any]:
    """Values by path, as the nested mapping that `load_settings` takes."""
    nested: dict[str, Any] = {}
    for path, value in values.items():
        group = nested
        for name in path[:-1]:
            group = group.setdefault(name, {})
        group[path[-1]] = value
    return nested


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A warning for every ``SKYRING_…`` variable that stands for nothing, in order of name."""
    options = list(setting_options())
    known = {option.env for option in options} | OTHER_VARIABLES
    groups = {option.path[0].upper() for option in options if len(option.path) > 1}
    by_alias = {option.env.replace("__", "_"): option.env for option in options}
    warnings = []
    for name in sorted(environment):
        upper = name.upper()
        rest = upper.removeprefix(ENV_PREFIX)
        # An unknown setting inside a known group is refused when the settings are read.
        if rest == upper or upper in known or rest.partition("__")[0] in groups:
            continue
        hint = by_alias.get(upper)
        meant = f"; did you mean {hint}?" if hint is not None else ""
        warnings.append(f"the environment variable {name} is no setting and is ignored{meant}")
    return warnings


def _option(
    path: tuple[str, ...], field: FieldInfo, group_help: str, is_main: bool
) -> SettingOption:
    allowed, metavar = _values(field)
    return SettingOption(
        path=path,
        is_main=is_main,
        group_help=group_help,
        description=field.description or "",
        default=_shown(field.default),
        allowed=allowed,
        metavar=metavar,
        repeated=isinstance(field.default, tuple),
    )


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(default) or "none"
    return "none" if default is None else str(default) or "empty"


def _values(field: FieldInfo) -> tuple[str, str]:
    annotation = _without_none(field.annotation)
    if get_origin(annotation) is Literal:
        names = [str(value) for value in get_args(annotation)]
        return " or ".join(names), "|".join(names)
    metavar = annotation.__name__.upper() if isinstance(annotation, type) else "TEXT"
    low = next((item.ge for item in field.metadata if hasattr(item, "ge")), None)
    high = next((item.le for item in field.metadata if hasattr(item, "le")), None)
    metavar = {"STR": "TEXT", "INT": "NUMBER", "SECRETSTR": "SECRET"}.get(metavar, metavar)
    if low is not None and high is not None:
        return f"{low} to {high}", metavar
    return (f"{low} or more" if low is not None else "", metavar)


def _without_none(annotation: Any) -> Any:
    """The kind of value that a setting takes if it is given."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    is_optional = len(kinds) == 1 and type(None) in get_args(annotation)
    return kinds[0] if is_optional else annotation
