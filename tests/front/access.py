"""Callers of two tenants, and how they call."""

from __future__ import annotations

import hashlib
from typing import Any

from kling_flows.v1 import video_task_pb2 as pb

from .rig import Served, create_request

ADS, NEWS, READER = "token-of-ads", "token-of-news", "token-of-a-reader"


def entry(name: str, token: str, tenant: str, scopes: str = '"read", "write", "admin"') -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'[[token]]\nname = "{name}"\nsha256 = "{digest}"\ntenant = "{tenant}"\nscopes = [{scopes}]\n'


def bearer(token: str) -> dict[str, Any]:
    return {"metadata": (("authorization", f"Bearer {token}"),)}


async def create(served: Served, token: str, prompt: str = "a cat", **fields: Any) -> pb.VideoTask:
    return await served.stub.CreateVideoTask(create_request(prompt, **fields), **bearer(token))
