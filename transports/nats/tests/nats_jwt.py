"""Keys and tokens as NATS' own tool makes them, for a server that knows users by their keys."""

from __future__ import annotations

import base64
import importlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Key", "new_key", "write_credentials"]

nkeys: Any = importlib.import_module("nkeys")  # it has no types
UNLIMITED = -1


class Key(NamedTuple):
    """A key pair."""

    seed: bytes
    public: str

    def sign(self, data: bytes) -> bytes:
        signature: bytes = nkeys.from_seed(bytearray(self.seed)).sign(data)
        return signature


def new_key(kind: str = "USER") -> Key:
    """Of a USER, an ACCOUNT or an OPERATOR."""
    seed = nkeys.encode_seed(os.urandom(32), getattr(nkeys, f"PREFIX_BYTE_{kind}"))
    return Key(seed, nkeys.from_seed(bytearray(seed)).public_key.decode())


def write_credentials(path: Path) -> str:
    """Write a .creds file; the lines of configuration for a server that accepts it."""
    operator, account, user = new_key("OPERATOR"), new_key("ACCOUNT"), new_key()
    limits = dict.fromkeys(("subs", "data", "payload"), UNLIMITED)
    account_limits = limits | dict.fromkeys(("imports", "exports", "conn", "leaf"), UNLIMITED)
    operator_jwt = _token({"type": "operator"}, operator.public, operator)
    account_jwt = _token({"type": "account", "limits": account_limits}, account.public, operator)
    user_jwt = _token({"type": "user", **limits}, user.public, account)
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
    )
    return (
        f"operator: {operator_jwt}\nresolver: MEMORY\n"
        f"resolver_preload {{ {account.public}: {account_jwt} }}"
    )


def _token(nats: dict[str, Any], subject: str, issuer: Key) -> str:
    claims = {
        "jti": subject,
        "iat": 1_700_000_000,
        "iss": issuer.public,
        "sub": subject,
        "name": "test",
        "nats": {"version": 2, **nats},
    }
    signed = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(claims)}"
    return f"{signed}.{_base64(issuer.sign(signed.encode()))}"


def _part(value: dict[str, Any]) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
