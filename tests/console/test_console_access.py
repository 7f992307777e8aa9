"""Who gets what of the console, and from which page."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from grpc_server.auth.access_file import AccessList
from grpc_server.console.sessions import SESSION_SECONDS, Sessions
from kling_flows.errors import CredentialsRejected
from tests.front.access import ADS, NEWS, READER, entry
from tests.front.rig import Rig, eventually, new_record

from .conftest import Console, consoled

WISH = {"video_task": {"text_to_video": {"prompt": "a cat"}}}


async def test_on_loopback_everybody_is_let_in(console: Console) -> None:
    session = (await console.get("/api/session")).json()
    created = await console.post("/api/tasks", WISH)

    assert (session["tenant"], session["signed_in"]) == ("default", False)
    assert created.status_code == 201
    assert created.json()["state"] == "QUEUED"


async def test_a_foreign_name_that_leads_here_is_refused(console: Console) -> None:
    for path in ("/", "/static/main.js", "/api/tasks", "/api/events", "/api/session"):
        answer = await console.get(path, headers={"host": f"evil.example:{console.http.base_url.port}"})

        assert answer.status_code == 403, path
        assert "evil.example" in answer.json()["detail"]


async def test_names_of_this_machine_are_taken(console: Console) -> None:
    for host in ("localhost", "LOCALHOST", "127.0.0.1", "[::1]"):
        answer = await console.get("/api/tasks", headers={"host": f"{host}:{console.http.base_url.port}"})

        assert answer.status_code == 200, host


async def test_a_change_that_another_site_has_caused_is_refused(console: Console) -> None:
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": console.origin, "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        # A token opens nothing where none are asked for, so that it proves nothing either.
        {"origin": "https://evil.example", "authorization": "Bearer any"},
        {},
    ):
        answer = await console.http.post("/console/api/tasks", json=WISH, headers=headers)

        assert answer.status_code == 403, headers
    assert "video_tasks" not in (await console.get("/api/tasks")).json()


async def test_another_sites_page_cannot_read(console: Console) -> None:
    answer = await console.get("/api/tasks", headers={"sec-fetch-site": "cross-site"})

    assert answer.status_code == 403


async def test_a_form_of_another_kind_than_json_is_refused(console: Console) -> None:
    answer = await console.http.post(
        "/console/api/tasks", content="{}", headers={"origin": console.origin, "content-type": "text/plain"}
    )

    assert (answer.status_code, answer.json()["title"]) == (400, "INVALID_REQUEST")


async def test_without_a_session_nothing_is_shown(guarded: Console) -> None:
    for path in ("/api/tasks", "/api/events", "/api/tasks/v-1", "/api/tasks/v-1/video", "/api/models", "/api/account"):
        answer = await guarded.get(path)

        assert (answer.status_code, answer.json()["title"]) == (401, "CREDENTIALS_REJECTED"), path


async def test_the_pages_themselves_are_for_everybody(guarded: Console) -> None:
    page = await guarded.get("/tasks/v-1")

    assert page.status_code == 200
    assert "text/html" in page.headers["content-type"]


async def test_a_token_is_exchanged_for_a_cookie_that_scripts_cannot_read(guarded: Console) -> None:
    answer = await guarded.post("/api/session", {"token": ADS})
    cookie = answer.headers["set-cookie"]

    assert answer.status_code == 204
    assert {"HttpOnly", "SameSite=strict", "Path=/console"} <= {part.strip() for part in cookie.split(";")}
    assert "Secure" not in cookie
    assert ADS not in cookie
    assert (await guarded.get("/api/session")).json()["tenant"] == "ads"


async def test_the_cookie_is_secure_where_the_page_came_over_tls(guarded: Console) -> None:
    headers = {"origin": "https://console.example", "host": "console.example"}
    answer = await guarded.post("/api/session", {"token": ADS}, headers=headers)

    assert "Secure" in answer.headers["set-cookie"]


async def test_a_wrong_token_is_refused_and_not_repeated(guarded: Console) -> None:
    for body in ({"token": "wrong"}, {"token": ""}, {}, {"token": 7}):
        answer = await guarded.post("/api/session", body)

        assert answer.status_code == 401, body
        assert "set-cookie" not in answer.headers
        assert "wrong" not in answer.text


async def test_signing_out_ends_it(guarded: Console) -> None:
    await guarded.sign_in(ADS)
    await guarded.http.delete("/console/api/session", headers={"origin": guarded.origin})

    assert (await guarded.get("/api/tasks")).status_code == 401


async def test_a_bearer_token_serves_without_a_session(guarded: Console) -> None:
    headers = {"authorization": f"Bearer {ADS}"}
    created = await guarded.http.post("/console/api/tasks", json=WISH, headers=headers)

    assert created.status_code == 201
    assert (await guarded.get("/api/tasks", headers={"authorization": "Bearer no"})).status_code == 401


async def test_a_session_ends_when_its_token_leaves_the_access_file(guarded: Console, access_file: Path) -> None:
    await guarded.sign_in(ADS)
    access_file.write_text(entry("news", NEWS, "news"))

    async def is_refused() -> bool:
        return (await guarded.get("/api/tasks")).status_code == 401

    await eventually(is_refused)


async def test_a_session_outlives_the_server(guarded: Console, rig: Rig, tmp_path: Path, access_file: Path) -> None:
    await guarded.sign_in(ADS)
    async with consoled(rig, tmp_path, access_file=access_file) as next_one:
        cookies = "; ".join(f"{name}={value}" for name, value in guarded.http.cookies.items())
        answer = await next_one.get("/api/session", headers={"cookie": cookies})

    assert answer.json()["tenant"] == "ads"


def test_a_session_has_an_end_and_cannot_be_made_up(access_file: Path) -> None:
    now = 1_000_000.0
    access = AccessList.read(access_file)
    sessions = Sessions(b"key", "ledger-1", lambda: now)
    cookie = sessions.begin(access, ADS)
    identity = sessions.open(access, cookie)
    assert identity is not None
    assert identity.tenant == "ads"

    for forged in ("", "x", "é", cookie[:-2], cookie[2:], "A" * len(cookie)):
        assert sessions.open(access, forged) is None
    assert Sessions(b"other", "ledger-1", lambda: now).open(access, cookie) is None
    assert Sessions(b"key", "ledger-2").cookie != sessions.cookie
    now += SESSION_SECONDS
    assert sessions.open(access, cookie) is None
    with pytest.raises(CredentialsRejected):
        sessions.begin(access, "wrong")


async def test_another_tenant_sees_nothing(guarded: Console) -> None:
    await guarded.archived("vt-secret", b"a film", tenant="ads")
    await guarded.sign_in(NEWS)
    listed = (await guarded.get("/api/tasks")).json()
    found = (await guarded.get("/api/tasks", params={"text": "cat"})).json()
    async with guarded.events() as events:
        snapshot = await anext(events)

    assert "video_tasks" not in listed
    assert "video_tasks" not in found
    assert snapshot.data == {"video_tasks": [], "synced": True}
    for path in ("", "/video"):
        answer = await guarded.get(f"/api/tasks/vt-secret{path}")
        assert (answer.status_code, answer.json()["title"]) == (404, "VIDEO_TASK_NOT_FOUND")
    assert (await guarded.post("/api/tasks/vt-secret/cancel", {})).status_code == 404


async def test_who_may_only_read_cannot_create_or_cancel(guarded: Console) -> None:
    await guarded.served.ledger.create(new_record("vt-1", tenant="ads"))
    await guarded.sign_in(READER)

    assert (await guarded.get("/api/tasks/vt-1")).status_code == 200
    for path, body in (("/api/tasks", WISH), ("/api/tasks/vt-1/cancel", {})):
        answer = await guarded.post(path, body)
        assert (answer.status_code, answer.json()["title"]) == (403, "PERMISSION_MISSING")


async def test_nothing_foreign_may_run_in_a_page_or_frame_it(console: Console) -> None:
    for path in ("/", "/static/main.js", "/api/tasks", "/api/tasks/none"):
        headers = (await console.get(path)).headers
        policy = headers["content-security-policy"]

        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


async def test_the_limits_of_the_tenant_hold_here_too(rig: Rig, tmp_path: Path) -> None:
    async with consoled(rig, tmp_path, max_watches=1) as console, console.events() as events:
        await anext(events)
        answer = await console.get("/api/events")

    assert (answer.status_code, answer.json()["title"]) == (429, "RATE_LIMITED")
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("settings", [{"console": False}, {"callback_base_url": "https://calls.example"}], ids=str)
async def test_there_is_no_console_where_it_is_not_wanted_or_not_safe(rig: Rig, settings: dict[str, object]) -> None:
    served = await rig.serve(http_listen="127.0.0.1:0", **settings)
    async with httpx.AsyncClient(base_url=f"http://{served.front.http_address}", trust_env=False) as http:
        answers = [await http.get(path) for path in ("/", "/console/", "/console/api/tasks")]

    assert [answer.status_code for answer in answers] == [404, 404, 404]
