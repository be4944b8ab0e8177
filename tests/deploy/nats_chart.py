"""What the official Helm chart of NATS takes and makes, as far as our values use it.

Written from the chart at nats-2.14.6 (nats-io/k8s, helm/charts/nats): the keys of its values.yaml,
and how its templates build ``nats.conf``. `FREE` is what it hands on as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["KEYS", "merged", "nats_conf", "unknown_keys", "written"]

FREE = "free"
TREE = dict[str, Any]

MERGED: TREE = {"merge": FREE, "patch": FREE}
IMAGE: TREE = {
    "image": {"repository", "tag", "pullPolicy", "registry", "digest", "fullImageName"},
}
TLS: TREE = {"tls": {**dict.fromkeys(("enabled", "secretName", "dir", "cert", "key")), **MERGED}}
CONTAINER: TREE = {**IMAGE, "env": FREE, **MERGED}
NAMED: TREE = {**MERGED, "name": None}
PVC: TREE = {"pvc": {"enabled": None, "size": None, "storageClassName": None, **NAMED}}
KEYS: TREE = {
    "global": FREE,
    **dict.fromkeys(("nameOverride", "fullnameOverride", "namespaceOverride")),
    "tlsCA": {"enabled", "configMapName", "secretName", "dir", "key"},
    "config": {
        "cluster": {
            **dict.fromkeys(("enabled", "port", "replicas", "noAdvertise")),
            "routeURLs": {"user", "password", "useFQDN", "k8sClusterDomain"},
            **TLS,
            **MERGED,
        },
        "jetstream": {
            "enabled": None,
            "fileStore": {"enabled": None, "dir": None, **PVC, "maxSize": None},
            "memoryStore": {"enabled", "maxSize"},
            **MERGED,
        },
        "nats": {"port": None, **TLS},
        "monitor": {"enabled": None, "port": None, "tls": {"enabled"}},
        **dict.fromkeys(("lameDuckGracePeriod", "lameDuckDuration", "serverNamePrefix")),
        **MERGED,
    },
    "container": {**CONTAINER, "ports": FREE},
    "reloader": {**CONTAINER, "enabled": None, "natsVolumeMountPrefixes": None},
    "promExporter": {
        **CONTAINER,
        **dict.fromkeys(("enabled", "port", "monitorDomain")),
        "podMonitor": {"enabled": None, **NAMED},
    },
    "service": {"enabled": None, "ports": FREE, **NAMED},
    "statefulSet": NAMED,
    "headlessService": NAMED,
    "configMap": NAMED,
    "podTemplate": {
        "configChecksumAnnotation": None,
        "terminationGracePeriodSeconds": None,
        "topologySpreadConstraints": FREE,
        **MERGED,
    },
    "podDisruptionBudget": {"enabled": None, **NAMED},
    "serviceAccount": {"enabled": None, **NAMED},
    "natsBox": {"enabled": None},
    "extraResources": FREE,
}


def unknown_keys(values: Mapping[str, Any], known: Any = KEYS, path: str = "") -> list[str]:
    """The keys that the chart does not have: it ignores them without a word."""
    found = []
    for key, value in values.items():
        if key not in known:
            found.append(f"{path}{key}")
        elif isinstance(known, Mapping) and known[key] != FREE and isinstance(value, Mapping):
            found += unknown_keys(value, known[key] or {}, f"{path}{key}.")
    return found


def merged(first: Any, second: Any) -> Any:
    """As Helm merges two files of values: maps by their keys, all else is replaced."""
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return second
    both = {key: merged(first[key], second[key]) for key in first.keys() & second.keys()}
    return {**first, **second, **both}


def _tls(values: Mapping[str, Any], of: str) -> TREE:
    tls = values["config"].get(of, {}).get("tls", {})
    if not tls.get("enabled"):
        return {}
    folder = f"/etc/nats-certs/{of}"
    found = {"cert_file": f"{folder}/tls.crt", "key_file": f"{folder}/tls.key"}
    if values.get("tlsCA", {}).get("enabled"):
        found["ca_file"] = "/etc/nats-ca-cert/ca.crt"
    made: TREE = merged(found, tls.get("merge", {}))
    return {"tls": made}


def nats_conf(values: Mapping[str, Any], release: str = "nats") -> TREE:
    """The configuration of the servers, as a tree; ``<< … >>`` stands for what is not quoted."""
    config = values["config"]
    cluster, jetstream = config["cluster"], config["jetstream"]
    file_store, memory_store = jetstream["fileStore"], jetstream.get("memoryStore", {})
    memory = memory_store.get("maxSize", "1Gi") if memory_store.get("enabled") else 0
    routes_tls = _tls(values, "cluster")
    scheme = "tls" if routes_tls else "nats"
    made: TREE = {
        "server_name": "<< $POD_NAME >>",
        "port": 4222,
        "http_port": 8222,
        **_tls(values, "nats"),
        "cluster": merged(
            {
                "name": release,
                "port": 6222,
                "no_advertise": True,
                "routes": [
                    f"{scheme}://{release}-{number}.{release}-headless:6222"
                    for number in range(cluster["replicas"])
                ],
                **routes_tls,
            },
            cluster.get("merge", {}),
        ),
        "jetstream": merged(
            {
                "store_dir": "/data",
                "max_file_store": f"<< {file_store.get('maxSize', file_store['pvc']['size'])} >>",
                "max_memory_store": f"<< {memory} >>",
            },
            jetstream.get("merge", {}),
        ),
    }
    whole: TREE = merged(made, config.get("merge", {}))
    return whole


def written(tree: Mapping[str, Any]) -> str:
    """As the chart writes it to ``nats.conf``: one line for each key of the outermost map."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in tree.items()]
    return re.sub(r'"<<\s+(.*?)\s+>>"', r"\1", "\n".join([*lines, ""]))
