"""The flow of one video as a Prefect user runs it, and what Prefect shows of it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from kling_flows import TextToVideoRequest, text_to_video
from kling_flows.errors import VideoTaskExists, VideoTaskFailed
from tests.stack import Sandbox

from .rig import Prefect

pytestmark = pytest.mark.xdist_group("prefect-plugin")


async def test_a_video_is_shown_with_its_tags_events_progress_and_result(connected: Prefect, provider: Sandbox) -> None:
    prompt = "A paper boat, shown in Prefect"
    task = await text_to_video(TextToVideoRequest(prompt=prompt, mode="pro"), task_id="paper-boat")
    assert Path(unquote(urlsplit(task.artifacts[0].uri).path)).stat().st_size == task.artifacts[0].size_bytes
    assert task.flow_run is not None
    assert task.flow_run.name == "text-to-video/paper-boat"
    [run] = connected.runs(flow_runs={"id": {"any_": [task.flow_run.id]}})
    assert set(run["tags"]) == {"model:kling-v3", "mode:pro", "tenant:default"}
    [progress] = connected.artifacts("progress-paper-boat")
    assert progress["data"] == 100
    assert "SUCCEEDED" in progress["description"]
    [result] = connected.artifacts("video-paper-boat")
    for shown in (prompt, task.artifacts[0].uri, task.artifacts[0].sha256, "units"):
        assert shown in result["data"]
    [poster] = connected.artifacts("poster-paper-boat")
    assert poster["data"].startswith("data:image/jpeg;base64,")
    events = connected.until_event("paper-boat", "succeeded")
    states = [event.rpartition(".")[2] for event in events]
    assert states[:3] == ["queued", "submitting", "submitted"]
    assert states[-2:] == ["archiving", "succeeded"]
    assert len(states) == len(set(states))
    assert [charge["prompt"] for charge in provider.charges()].count(prompt) == 1


async def test_the_same_task_again_pays_nothing_and_another_request_is_refused(
    connected: Prefect, provider: Sandbox
) -> None:
    request = TextToVideoRequest(prompt="Once and no more")
    first = await text_to_video(request, task_id="once")
    assert (await text_to_video(request, task_id="once")).id == first.id
    with pytest.raises(VideoTaskExists, match="another request"):
        await text_to_video(TextToVideoRequest(prompt="Something else"), task_id="once")
    assert [charge["prompt"] for charge in provider.charges()].count(request.prompt) == 1


async def test_a_failed_video_fails_the_run_and_is_told(connected: Prefect) -> None:
    with pytest.raises(VideoTaskFailed):
        await text_to_video(TextToVideoRequest(prompt="[sandbox:fail] nothing to see"), task_id="nothing")
    assert connected.until_event("nothing", "failed")
    [result] = connected.artifacts("video-nothing")
    assert "FAILED" in result["data"]


async def test_what_is_shown_can_be_turned_off(connected: Prefect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLING_FLOWS_PREFECT_ARTIFACTS", "off")
    monkeypatch.setenv("KLING_FLOWS_PREFECT_EVENTS", "false")
    task = await text_to_video(TextToVideoRequest(prompt="In silence"), task_id="silent")
    assert task.artifacts
    assert not connected.artifacts("video-silent")
    assert not connected.artifacts("progress-silent")
    # Whatever is told goes the same way, in order.
    monkeypatch.setenv("KLING_FLOWS_PREFECT_EVENTS", "true")
    await text_to_video(TextToVideoRequest(prompt="Aloud"), task_id="aloud")
    connected.until_event("aloud", "succeeded")
    assert not connected.events("silent")
