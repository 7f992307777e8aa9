"""npm's ``kling-api``, a client of the legacy dialect that nobody here wrote: it insists on https and signs JWTs."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from kling_flows.sandbox import SandboxServer, Tls
from kling_flows.sandbox.videos import TINY_CLIP
from kling_flows.upstream.constants import SANDBOX_ACCESS_KEY, SANDBOX_SECRET_KEY
from tests.clients.toolchains import node_and_npm
from tests.stack import PATIENCE, clean_environment

pytestmark = pytest.mark.xdist_group("foreign")

HERE = Path(__file__).parent


class Client:
    """The client, installed."""

    def __init__(self, command: list[str], folder: Path, tls: Tls) -> None:
        self._command = command
        self._folder = folder
        self._tls = tls

    def order(self, server: SandboxServer, **fields: Any) -> dict[str, Any]:
        environment = clean_environment(
            KLING_ACCESS_KEY=SANDBOX_ACCESS_KEY,
            KLING_SECRET_KEY=SANDBOX_SECRET_KEY,
            NODE_EXTRA_CA_CERTS=str(self._tls.certificate),
            NO_PROXY="*",
            no_proxy="*",
            # It reads a file of keys from there.
            HOME=str(self._folder),
        )
        done = subprocess.run(
            [*self._command, server.url, json.dumps(fields)],
            cwd=self._folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory, tls: Tls) -> Client:
    node, npm = node_and_npm()
    folder = tmp_path_factory.mktemp("node") / "foreign"
    shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("node_modules", "*.py", "__pycache__"))
    command = [*npm, "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return Client([node, str(folder / "use_kling_api.mjs")], folder, tls)


def test_it_orders_a_video_and_waits_until_it_is_there(secure: SandboxServer, client: Client, tls: Tls) -> None:
    outcome = client.order(
        secure,
        prompt="A red fox",
        model_name="kling-v2-6",
        mode="pro",
        duration="5",
        aspect_ratio="16:9",
        external_task_id="ext-0001",
    )

    assert "error" not in outcome
    assert outcome["created"]["task_status"] == "submitted"
    result = outcome["result"]
    assert (result["task_id"], result["task_status"]) == (outcome["created"]["task_id"], "succeed")
    (video,) = result["task_result"]["videos"]
    assert video["url"].startswith(secure.url)
    trusted = ssl.create_default_context(cafile=str(tls.certificate))
    assert httpx.get(video["url"], verify=trusted, trust_env=False).content == TINY_CLIP.read_bytes()
    (pack,) = outcome["account"]["resource_pack_subscribe_infos"]
    assert pack["remaining_quantity"] == 97.5
    (charge,) = secure.charges()
    assert (charge["external_task_id"], charge["units"]) == ("ext-0001", 2.5)


def test_it_understands_why_an_order_is_refused(secure: SandboxServer, client: Client) -> None:
    outcome = client.order(secure, prompt="[sandbox:reject]", model_name="kling-v2-6")

    assert outcome["error"]["code"] == 1301
    assert "content security policy" in outcome["error"]["message"]
    assert secure.charges() == []


def test_it_understands_why_a_video_failed(secure: SandboxServer, client: Client) -> None:
    outcome = client.order(secure, prompt="[sandbox:fail]", model_name="kling-v2-6")

    assert outcome["error"]["message"] == "Failure to pass the risk control system"
    assert [charge["refunded"] for charge in secure.charges()] == [True]
