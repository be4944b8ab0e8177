"""Connections leave file descriptors for the storage."""

from __future__ import annotations

import resource

from skyring.http.server import within_descriptors
from skyring.settings import HttpSettings


def test_connections_take_no_more_than_half_of_the_descriptors() -> None:
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert within_descriptors(HttpSettings(connections_max=1)).connections_max == 1
    most = within_descriptors(HttpSettings(connections_max=descriptors)).connections_max
    assert most == descriptors // 2
