"""Result URLs and what they serve."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from kling_flows.sandbox.videos import TINY_CLIP

from .caller import Api, eventually, fetch

CLIP = TINY_CLIP.read_bytes()


def test_whole_video_with_its_headers(api: Api) -> None:
    answer = fetch(api.video_url())
    assert (answer.status_code, answer.content) == (200, CLIP)
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-length"] == str(len(CLIP))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"].startswith('"')


def test_head_has_the_same_headers_and_no_body(api: Api) -> None:
    url = api.video_url()
    got, head = fetch(url), fetch(url, "HEAD")
    assert head.content == b""
    for name in ("content-length", "etag", "accept-ranges", "content-type"):
        assert head.headers[name] == got.headers[name]


@pytest.mark.parametrize(
    ("wanted", "first", "last"),
    [
        ("0-99", 0, 99),
        ("100-", 100, len(CLIP) - 1),
        ("-50", len(CLIP) - 50, len(CLIP) - 1),
        ("5-9999999", 5, len(CLIP) - 1),
    ],
)
def test_range(shared: Api, wanted: str, first: int, last: int) -> None:
    answer = fetch(shared.video_url(), headers={"range": f"bytes={wanted}"})
    assert (answer.status_code, answer.content) == (206, CLIP[first : last + 1])
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(CLIP)}"
    assert answer.headers["content-length"] == str(last - first + 1)


def test_range_beyond_the_end_is_refused(shared: Api) -> None:
    answer = fetch(shared.video_url(), headers={"range": f"bytes={len(CLIP)}-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(CLIP)}"


def test_range_of_a_changed_file_gives_the_whole(shared: Api) -> None:
    url = shared.video_url()
    etag = fetch(url, "HEAD").headers["etag"]
    same = fetch(url, headers={"range": "bytes=10-", "if-range": etag})
    changed = fetch(url, headers={"range": "bytes=10-", "if-range": '"another"'})
    assert (same.status_code, changed.status_code) == (206, 200)


def test_url_expires_and_a_query_gives_a_fresh_one(start: Callable[..., Api]) -> None:
    api = start(url_lifetime=1.5)
    task_id = api.created()
    url = api.wait_for(task_id)["task_result"]["videos"][0]["url"]
    expired = eventually(lambda: answer if (answer := fetch(url)).status_code != 200 else None)
    assert expired.status_code == 403
    assert "403 Forbidden" in expired.text
    fresh = api.task(task_id)["task_result"]["videos"][0]["url"]
    assert fresh != url
    assert fetch(fresh).content == CLIP


def test_url_lives_for_30_days_by_default(api: Api) -> None:
    task = api.finished()
    expires = int(httpx.URL(task["task_result"]["videos"][0]["url"]).params["expires"])
    assert expires - task["updated_at"] == pytest.approx(30 * 86_400_000, abs=60_000)


def test_url_that_is_not_ours_is_refused(shared: Api) -> None:
    url = httpx.URL(shared.video_url())
    later = str(int(url.params["expires"]) + 1)
    for changed in (
        url.copy_set_param("sig", "0" * 32),
        url.copy_set_param("sig", "é"),
        url.copy_set_param("expires", later),
        url.copy_set_param("expires", ""),
        url.copy_with(query=None),
        url.copy_with(path="/sandbox/videos/850000000000000001.mp4"),
    ):
        assert fetch(changed).status_code == 403


def test_watermark_has_a_url_of_its_own(api: Api) -> None:
    (video,) = api.finished(watermark_info={"enabled": True})["task_result"]["videos"]
    assert video["watermark_url"] not in ("", video["url"])
    assert fetch(video["watermark_url"]).status_code == 200


def test_no_key_is_needed_for_a_download_and_none_is_in_the_url(api: Api) -> None:
    url = api.video_url()
    assert url.startswith(f"{api.server.url}/sandbox/videos/")
    assert fetch(url).status_code == 200


def test_bytes_and_calls_are_counted(api: Api) -> None:
    url = api.video_url()
    fetch(url)
    fetch(url, headers={"range": "bytes=0-9"})
    fetch(url, "HEAD")
    stats = api.server.stats()
    assert stats["calls"]["download"] == 2
    assert stats["bytes_served"] == len(CLIP) + 10
