"""The sandbox over https."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from kling_flows.errors import ConfigurationError
from kling_flows.sandbox import SandboxServer, Tls
from kling_flows.upstream.constants import SANDBOX_API_KEY
from tests.sandbox.receiver import Receiver

COMMAND = [sys.executable, "-m", "kling_flows.sandbox", "--port", "0", "--video", "tiny", "--seconds", "0"]
ORDER = {"prompt": "x"}


@pytest.fixture
def http(tls: Tls) -> Iterator[httpx.Client]:
    """A client that trusts the certificate."""
    trusted = ssl.create_default_context(cafile=str(tls.certificate))
    headers = {"authorization": f"Bearer {SANDBOX_API_KEY}"}
    with httpx.Client(verify=trusted, headers=headers, trust_env=False, timeout=20) as client:
        yield client


def test_process_serves_https(tls: Tls, http: httpx.Client) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--tls-cert", str(tls.certificate), "--tls-key", str(tls.key)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        assert url.startswith("https://127.0.0.1:")
        task_id = http.post(f"{url}/text-to-video/kling-3.0", json=ORDER).json()["data"]["id"]
        (task,) = http.get(f"{url}/tasks", params={"task_ids": task_id}).json()["data"]
        assert task["outputs"][0]["url"].startswith(url)
        assert http.get(task["outputs"][0]["url"]).headers["content-type"] == "video/mp4"
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("fault", ["drop_before_accept", "reset_mid_body", "wrong_length"])
def test_answers_are_cut_under_tls_too(secure: SandboxServer, http: httpx.Client, fault: str) -> None:
    secure.set_faults([{"fault": fault, "on": "get", "times": 1}])
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        http.get(f"{secure.url}/tasks", params={"task_ids": "1"})
    assert http.get(f"{secure.url}/tasks", params={"task_ids": "1"}).json()["data"] == []


def test_callback_over_https_shows_https_urls(secure: SandboxServer, http: httpx.Client, receiver: Receiver) -> None:
    url = receiver.url
    http.post(f"{secure.url}/text-to-video/kling-3.0", json={**ORDER, "options": {"callback_url": url}})
    last = receiver.wait_for(3)[-1]
    assert last.json["outputs"][0]["url"].startswith(secure.url)


def test_unusable_certificate_is_a_configuration_error(tls: Tls, tmp_path: Path) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    for certificate, key in ((nonsense, tls.key), (tls.certificate, nonsense), (tmp_path / "missing", tls.key)):
        with pytest.raises(ConfigurationError, match=r"^tls: cannot use"):
            Tls(certificate, key)


def test_certificate_without_key_is_a_usage_error(tls: Tls) -> None:
    done = subprocess.run(
        [*COMMAND, "--tls-cert", str(tls.certificate)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "--tls-cert and --tls-key go together" in done.stderr
