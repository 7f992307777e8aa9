"""Blocks and tasks as anybody's flows use them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import prefect
import pytest
from prefect import flow
from pydantic import ValidationError

from kling_flows import (
    CometApiCredentials,
    KlingCredentials,
    KlingTextToVideo,
    TextToVideoRequest,
    VideoArchive,
    archive_video,
    submit_video,
    text_to_video,
    wait_for_video,
)
from kling_flows.engine.durations import duration_key
from kling_flows.errors import ConfigurationError, VideoTaskFailed
from kling_flows.ledger import Ledger, State, VideoTask, durations
from kling_flows.settings import Settings
from kling_flows.upstream.constants import SANDBOX_ACCESS_KEY, SANDBOX_SECRET_KEY
from tests.stack import Sandbox

from .rig import Prefect

pytestmark = pytest.mark.xdist_group("prefect-plugin")

_BLOCKS = (KlingCredentials, CometApiCredentials, VideoArchive, KlingTextToVideo)


def _credentials(provider: Sandbox) -> KlingCredentials:
    return KlingCredentials(access_key=SANDBOX_ACCESS_KEY, secret_key=SANDBOX_SECRET_KEY, base_url=provider.url)


def _charges(provider: Sandbox, prompt: str) -> int:
    return [charge["prompt"] for charge in provider.charges()].count(prompt)


@pytest.mark.parametrize("block", _BLOCKS)
def test_a_block_has_all_that_the_catalogue_and_its_form_show(block: type[prefect.blocks.core.Block]) -> None:
    assert block.get_description()
    assert block.get_code_example() or block.__doc__
    assert str(block._logo_url).endswith(".svg")
    assert "prefect.md" in str(block._documentation_url)
    fields = block.model_json_schema()["properties"]
    assert fields
    assert all("description" in field and "title" in field for field in fields.values()), fields


def test_the_package_shows_its_blocks_to_who_looks_through_it() -> None:
    import kling_flows

    assert {block.__name__ for block in _BLOCKS} <= set(dir(kling_flows))


@pytest.mark.parametrize(
    "keys", [{}, {"access_key": "a"}, {"secret_key": "s"}, {"api_key": "k", "access_key": "a", "secret_key": "s"}]
)
def test_credentials_are_one_kind_of_key(keys: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="API key"):
        KlingCredentials(**keys)


def test_no_secret_shows() -> None:
    blocks = [
        KlingCredentials(api_key="tell-nobody-1"),
        CometApiCredentials(api_key="tell-nobody-2"),
        VideoArchive(url="s3://videos", options={"aws_secret_access_key": "tell-nobody-3"}),
    ]
    for block in blocks:
        assert "tell-nobody" not in repr(block) + str(block) + block.model_dump_json() + repr(block.settings())


def test_credentials_of_a_block_are_not_mixed_with_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLING_API_KEY", "somebody-elses")
    client = KlingCredentials(access_key="access", secret_key="secret").get_client()
    assert client.account.name != KlingCredentials(api_key="somebody-elses").get_client().account.name
    assert client.account.base_url == "https://api-singapore.klingai.com"


async def _teach(request: TextToVideoRequest, seconds: float) -> None:
    """Let the ledger know how long such videos take at Kling: nobody looks long before that."""
    key = duration_key("kling", request)
    async with await Ledger.open(Settings.load().ledger_address) as ledger:
        await ledger._write(lambda connection: durations.learn_duration(connection, key, seconds))


async def test_saved_blocks_are_used_by_their_names(connected: Prefect, provider: Sandbox, tmp_path: Path) -> None:
    await _credentials(provider).asave("tests", overwrite=True)
    await VideoArchive(url=str(tmp_path / "elsewhere")).asave("tests", overwrite=True)
    request = TextToVideoRequest(prompt="Paid by a block")
    await _teach(request, 1.0)
    task = await text_to_video(
        request,
        credentials_block="kling-credentials/tests",
        archive_block="video-archive/tests",
    )
    assert task.upstream is not None
    assert task.upstream.provider == "kling"
    assert (tmp_path / "elsewhere").as_uri() in task.artifacts[0].uri
    [run] = connected.runs(flow_runs={"id": {"any_": [task.flow_run.id if task.flow_run else ""]}})
    assert SANDBOX_SECRET_KEY not in str(run)


async def test_a_block_that_is_not_there_is_named(connected: Prefect) -> None:
    with pytest.raises(ConfigurationError, match="kling-credentials/nobody"):
        await text_to_video(TextToVideoRequest(prompt="Nobody's"), credentials_block="kling-credentials/nobody")


def test_a_job_is_triggered_awaited_and_fetched_without_an_event_loop(connected: Prefect, provider: Sandbox) -> None:
    job = KlingTextToVideo(request=TextToVideoRequest(prompt="A job in plain Python"))
    run = job.trigger()
    assert _charges(provider, "A job in plain Python") == 1
    assert run.wait_for_completion() is None
    task = run.fetch_result()
    assert task.state is State.SUCCEEDED
    assert task.artifacts
    assert _charges(provider, "A job in plain Python") == 1


async def test_a_job_in_an_event_loop_is_awaited_and_two_triggers_are_two_videos(
    connected: Prefect, provider: Sandbox
) -> None:
    job = KlingTextToVideo(request=TextToVideoRequest(prompt="A job in a loop"))
    first, second = await asyncio.gather(job.trigger(), job.trigger())
    await asyncio.gather(first.wait_for_completion(), second.wait_for_completion())
    assert (await first.fetch_result()).id != (await second.fetch_result()).id
    assert _charges(provider, "A job in a loop") == 2


async def test_a_job_without_a_video_says_why(connected: Prefect) -> None:
    run = await KlingTextToVideo(request=TextToVideoRequest(prompt="[sandbox:fail] no job")).trigger()
    with pytest.raises(VideoTaskFailed, match="failed it"):
        await run.wait_for_completion()
    with pytest.raises(VideoTaskFailed):
        await run.fetch_result()


async def test_a_flow_that_is_tried_again_goes_on_with_the_video_that_is_paid(
    connected: Prefect, provider: Sandbox
) -> None:
    attempts: list[str] = []

    @flow(retries=1)
    async def trailer(prompt: str) -> VideoTask:
        submitted = await submit_video(TextToVideoRequest(prompt=prompt))
        attempts.append(submitted.id)
        if len(attempts) == 1:
            raise RuntimeError("something else in the flow breaks")
        return await archive_video(await wait_for_video(submitted))

    task = await trailer("In somebody's own flow")
    assert task.state is State.SUCCEEDED
    assert task.artifacts
    assert attempts == [task.id] * 2
    assert _charges(provider, "In somebody's own flow") == 1


def test_a_flow_without_an_event_loop_uses_the_tasks_too(connected: Prefect, provider: Sandbox) -> None:
    @flow
    def trailer(prompt: str) -> VideoTask:
        submitted = submit_video.submit(TextToVideoRequest(prompt=prompt))
        return archive_video.submit(wait_for_video.submit(submitted)).result()

    assert trailer("In a plain flow").artifacts
    assert _charges(provider, "In a plain flow") == 1


async def test_two_flows_on_one_ledger_make_one_video_of_one_task(connected: Prefect, provider: Sandbox) -> None:
    request = TextToVideoRequest(prompt="Wanted twice")

    @flow
    async def trailer() -> VideoTask:
        submitted = await submit_video(request, "wanted-twice")
        return await archive_video(await wait_for_video(submitted))

    first, second = await asyncio.gather(trailer(), trailer())
    assert first.artifacts == second.artifacts
    assert _charges(provider, request.prompt) == 1
