"""The chart of Skyring, rendered."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

__all__ = ["CHART", "DEPLOY", "ROOT", "Release", "RenderError", "read_yaml", "render"]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "kubernetes" / "skyring"
RENDER_S_MAX = 60

Document = dict[str, Any]


class RenderError(Exception):
    """Helm refuses the values, or cannot render the chart."""


class Release(NamedTuple):
    """What ``helm install`` would hand to Kubernetes."""

    documents: list[Document]
    findings: list[str]
    """Warnings and errors of ``helm lint``."""

    def all(self, kind: str) -> list[Document]:
        return [each for each in self.documents if each["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Document:
        (found,) = (each for each in self.all(kind) if name in (None, each["metadata"]["name"]))
        return found

    @property
    def pod(self) -> Document:
        """The spec of the pods."""
        spec: Document = self.one("StatefulSet")["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Document:
        (container,) = self.pod["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def toml(self) -> str:
        """The settings of the nodes."""
        text = self.one("ConfigMap")["data"]["skyring.toml"]
        assert isinstance(text, str)
        return text


def read_yaml(path: Path) -> Any:
    """The only document of a file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def render(
    values: Mapping[str, Any] | None = None, name: str = "skyring", namespace: str = "timers"
) -> Release:
    """The chart with these values on top of its own.

    Raises:
        RenderError: Helm says no.
    """
    question = {"chart": str(CHART), "values": values or {}, "name": name, "namespace": namespace}
    done = subprocess.run(
        [sys.executable, "-m", "tests.deploy.render"],
        input=json.dumps(question),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=RENDER_S_MAX,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise RenderError(answer["error"])
    texts = [text for path, text in answer["manifests"].items() if not path.endswith(".txt")]
    documents = [each for text in texts for each in yaml.safe_load_all(text) if each is not None]
    return Release(documents, answer["findings"])
