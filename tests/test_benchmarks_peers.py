"""The scoreboard: what peers declare, what is planned and calculated, and one run of the simplest peer."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from benchmarks.figures import Growth
from benchmarks.peers import aims, growth, page, results, run
from benchmarks.peers.books import Counts, charges_by_job
from benchmarks.peers.cells import Cell
from benchmarks.peers.contract import FOLDER, ContractError, Kind, Peer, Process, peers, read
from benchmarks.peers.environments import Environment
from benchmarks.peers.feed import Result, Results, job_id
from benchmarks.peers.figures import FIGURES, Several, calculate, cpu_per_process
from benchmarks.peers.meter import PeerMeter
from benchmarks.peers.places import Place
from benchmarks.peers.plan import duration, fitting, plan
from benchmarks.peers.processes import Command, NotReady
from benchmarks.peers.proxy import CuttingProxy
from benchmarks.peers.results import Stored, Told
from benchmarks.peers.run import MemorySample, PeerObserved, Row, Watched, measure
from benchmarks.peers.scenarios import SCENARIOS, is_of

NOTHING = Counts(creates=0, reads=0, downloads=0, tasks=0, in_flight=0, bytes_served=0)


def _charge(number: int, task: str, *, refunded: bool = False) -> dict[str, object]:
    prompt = f"Many paper boats on a river at dusk, {job_id(number)}"
    return {"task_id": task, "prompt": prompt, "created_at": 1_000_000 + number * 500, "refunded": refunded}


def _observed() -> PeerObserved:
    """Four jobs: one is fine, one was paid twice, one was paid and is lost, one was never created."""
    charges = charges_by_job(
        [_charge(0, "a"), _charge(1, "b"), _charge(1, "c"), _charge(2, "d"), _charge(3, "e", refunded=True)],
        [{"task_id": task, "finished_at_ms": 1_020_000} for task in "abc"] + [{"task_id": "d", "finished_at_ms": None}],
    )
    return PeerObserved(
        jobs=[job_id(number) for number in range(4)],
        fed={job_id(number): 999.0 for number in range(4)},
        accepted={job_id(number): 1_000.0 + number for number in range(3)},
        results={job_id(0): Result(True, 1_021.0), job_id(1): Result(True, 1_023.0), job_id(2): Result(False, 1_030.0)},
        charges=charges,
        before=NOTHING,
        after=replace(NOTHING, creates=4, reads=12, tasks=4),
        cpu={"worker": 0.3, "redis": 0.1},
        memory_before=100 * 1024,
        samples=[MemorySample(1, 200 * 1024), MemorySample(4, 500 * 1024), MemorySample(0, 900 * 1024)],
        seconds=31.0,
    )


def _stored(peer: str, variant: str = "plain", scenario: str = "burst", tasks: int = 4, **figures: float) -> Stored:
    return Stored(
        peer=peer,
        variant=variant,
        scenario=scenario,
        tasks=tasks,
        repeat=1,
        figures={**calculate(_observed()), **figures},
        cpu={"worker": 1.0},
        packages=(),
        killed=True,
        gave_up=False,
        measured_at="2026-11-22T00:00:00+00:00",
    )


def _peer(name: str, kind: Kind = Kind.QUEUE, **more: object) -> Peer:
    declared = Peer(name=name, folder=FOLDER / name, title=name, kind=kind, durable=True, environment="own")
    return replace(declared, **more)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*/peer.toml")), ids=lambda file: file.parent.name)
def test_every_peer_keeps_the_contract(file: Path) -> None:
    for peer in read(file):
        assert peer.title
        for word in [*peer.submit, *(word for process in peer.processes.values() for word in process.argv)]:
            if word.endswith(".py"):
                assert (peer.folder / word).exists(), f"{peer.name} starts {word}, which is not there"


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*/requirements.txt")), ids=lambda file: file.parent.name)
def test_every_peers_packages_are_pinned(file: Path) -> None:
    lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
    assert all("==" in line for line in lines if line)


ODD = """\
title = "Odd"
kind = "loop"
durable = false
environment = "own"
submit = ["true"]"""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('services = ["mysql"]', "services are out of"),
        ('restart = ["worker"]', "restart names processes"),
        ('variants = ["careful"]', "variants are plain"),
        ("nonsense = 1", "unknown keys: nonsense"),
        ("quiet_seconds = 300", "quiet_seconds above 90 and quiet_reason go together"),
        ("quiet_seconds = 30", "quiet_seconds is at least 90"),
    ],
)
def test_a_peer_that_breaks_the_contract_is_named(tmp_path: Path, change: str, words: str) -> None:
    file = tmp_path / "odd" / "peer.toml"
    file.parent.mkdir()
    file.write_text(f"{ODD}\n{change}\n")
    with pytest.raises(ContractError, match=f"^odd: .*{words}"):
        read(file)


def test_only_the_first_interval_of_a_peer_meets_more_than_the_burst() -> None:
    first, second = read(FOLDER / "quickstart-loop" / "peer.toml")
    assert (first.name, first.poll_seconds, first.scenarios) == ("quickstart-loop-5s", 5, ())
    assert (second.name, second.poll_seconds, second.scenarios) == ("quickstart-loop-15s", 15, ("burst",))


def test_doubles_and_losses_come_from_the_books() -> None:
    figures = calculate(_observed())
    assert (figures["finished"], figures["doubles"], figures["lost"]) == (2, 1, 2)


def test_figures_are_per_finished_task_and_at_the_most_in_flight() -> None:
    figures = calculate(_observed())
    assert figures["reads_per_task"] == 6
    assert figures["cpu_per_1000"] == pytest.approx(200)
    assert cpu_per_process(_observed()) == pytest.approx({"worker": 150, "redis": 50})
    assert figures["memory_per_task"] == 100
    assert (figures["lag_p50"], figures["lag_p95"]) == (1, 3)
    assert figures["acceptance_p99"] == 3
    assert figures["accepted_per_second"] == pytest.approx(1)
    assert figures["starts_per_second"] == pytest.approx(3)


def test_bytes_beyond_the_video_were_fetched_again() -> None:
    seen = replace(_observed(), jobs=[job_id(0)], size=100 * 2**20, fetched=190 * 2**20, watched=Watched(100, 900, 2))
    figures = calculate(seen)
    assert (figures["refetched_mib"], figures["missed"], figures["cuts"]) == (90, 2, 100)


def test_growth_is_the_slope_on_logarithmic_scales() -> None:
    linear = Growth.of([(100, 3.0), (1_000, 30.0), (10_000, 300.0)])
    assert linear is not None
    assert (linear.exponent, linear.factor) == pytest.approx((1, 0.03))
    square = Growth.of([(100, 1.0), (1_000, 100.0)])
    assert square is not None
    assert square.exponent == pytest.approx(2)
    assert Growth.of([(100, 3.0), (100, 4.0)]) is None


def test_every_figure_is_followed_through_the_sizes_by_total_or_by_itself() -> None:
    peer = _peer("other")
    cells = {
        scenario: [Cell(peer, "plain", [_stored(peer.name, scenario=scenario, tasks=tasks, **figures)])]
        for scenario, tasks, figures in (
            ("burst-100", 100, {"cpu_per_1000": 50.0, "reads_per_task": 6.0, "lag_p95": 2.0}),
            ("burst", 1_000, {"cpu_per_1000": 50.0, "reads_per_task": 0.6, "lag_p95": 2.0}),
        )
    }
    points = growth.points(cells)
    assert points["CPU"]["other"] == [(100, 5.0), (1_000, 50.0)]
    assert points["lag p95"]["other"] == [(100, 2.0), (1_000, 2.0)]
    fits = growth.fits(points)
    assert [round(fits[head]["other"].exponent, 2) for head in ("CPU", "reads", "lag p95")] == [1, 0, 0]
    assert "| other | 100, 1,000 | 1.00 | 0.00 |" in page.text(cells, None)


def test_a_burst_that_nobody_finished_has_a_page_without_exponents() -> None:
    nothing = dict.fromkeys(("cpu_per_1000", "reads_per_task", "memory_per_task"))
    stored = _stored("other")
    lost = replace(stored, figures={**stored.figures, **nothing})
    text = page.text({"burst": [Cell(_peer("other"), "plain", [lost])]}, None)
    assert "## Growth" in text
    assert "| other | 1" not in text.partition("## Growth")[2]


def test_several_runs_have_a_median_and_a_spread() -> None:
    assert Several.of([3.0, None, 1.0, 2.0]) == Several(2, 1, 3, 3)
    assert Several.of([None]) is None


def test_results_are_read_as_they_grow_and_a_good_one_stays(tmp_path: Path) -> None:
    file = tmp_path / "results"
    results = Results(file)
    assert results.read() == {}
    good = json.dumps({"job": "job-00001", "ok": True, "at": 2.0, "file": None})
    bad = json.dumps({"job": "job-00001", "ok": False, "at": 3.0, "file": None})
    file.write_text(f"{good}\n{bad}")
    assert results.read() == {"job-00001": Result(True, 2.0)}
    file.write_text(f"{good}\n{bad}\n")
    assert results.read() == {"job-00001": Result(True, 2.0)}


def test_ours_comes_first_and_what_does_not_fit_is_told() -> None:
    planned = plan(peers(), repeats=2)
    taken, left = fitting(planned, 30 * 60)
    assert taken[0].row.peer.ours
    assert sum(one.share for one in taken) <= 30 * 60
    assert {one.row.label for one in taken}.isdisjoint(one.row.label for one in left)
    assert len(taken) + len(left) == len(planned)


def test_few_runs_beside_each_other_take_as_long_as_the_longest() -> None:
    killed = plan(peers(), scenarios=["kill-polling"])
    longest = max(killed, key=lambda one: one.seconds)
    assert longest.share < longest.seconds
    assert duration([longest]) == longest.seconds
    assert fitting([longest], longest.share) == ([], [longest])
    assert duration(killed) >= sum(one.share for one in killed)


def test_the_burst_is_repeated_by_ours_and_by_every_other() -> None:
    again = {(one.row.scenario.name, one.row.peer.name) for one in plan(peers(), repeats=3) if one.row.repeat == 3}
    others = {peer.name for peer in peers() if peer.not_measured is None and not peer.ours}
    assert again == {("burst", name) for name in ("kling-flows", *others)}


def test_the_whole_time_has_room_for_ours_and_for_every_peer_in_a_burst_and_under_every_fault() -> None:
    taken, _ = fitting(plan(peers(), repeats=3), 57 * 60)
    rows = {(one.row.scenario.name, one.row.peer.name, one.row.variant) for one in taken}
    faults = [scenario.name for scenario in SCENARIOS.values() if scenario.breaks]
    measured = [peer for peer in peers() if peer.not_measured is None and not peer.ours and not peer.scenarios]
    assert {(name, "kling-flows", "plain") for name in SCENARIOS} <= rows
    for peer in measured:
        assert {(name, peer.name, "plain") for name in ("burst", "download", *faults)} <= rows
        assert {(name, peer.name, "careful") for name in ("accept-then-drop", "kill-creating")} <= rows


async def test_a_place_can_be_left_before_the_end_and_is_given_back_once() -> None:
    places = asyncio.Semaphore(1)
    async with Place(places) as place:
        assert places.locked()
        place.leave()
        place.leave()
        async with Place(places):
            assert places.locked()
    assert not places.locked()
    await places.acquire()
    assert places.locked()


def test_a_scenario_can_be_asked_for_by_its_family() -> None:
    chosen = {one.row.scenario.name for one in plan(peers(), scenarios=["kill"], tasks=5)}
    assert chosen == {"kill-creating", "kill-polling", "kill-downloading"}
    assert not is_of("burst", ["burst-100"])


def test_what_was_written_is_not_missing_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FILES", tmp_path)
    row = Row(_peer("other"), "plain", SCENARIOS["burst"], 4)
    assert not results.is_stored(row)
    written = results.write(row, Environment((), FOLDER), _observed())
    assert results.is_stored(row)
    assert not results.is_stored(replace(row, repeat=2))
    assert [asdict(stored) for stored in results.stored()] == [{**asdict(written), "packages": []}]


def test_a_call_that_goes_on_keeps_what_the_former_could_not_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "FILES", tmp_path)

    def told(command: str, left_out: Sequence[str], **failed: str) -> Told:
        return Told(command=command, minutes=2, left_out=left_out, failed=failed, services=["Redis 7"])

    results.write_session(told("first", ["a", "b"], c="crashed", d="not installed"), [])
    results.write_session(told("second", ["b"], e="crashed"), ["a", "c"], results.session())
    session = results.session()
    assert session is not None
    assert (session["command"], session["minutes"], session["services"]) == ("first; second", 4, ["Redis 7"])
    assert (session["left_out"], session["failed"]) == (["b"], {"d": "not installed", "e": "crashed"})


def test_every_figure_has_an_explanation_for_when_it_is_not_the_best() -> None:
    explained = tomllib.loads(page.EXPLANATIONS.read_text())
    assert set(FIGURES) <= set(explained)
    for key in explained:
        figure, _, scenario = key.partition(":")
        assert figure in FIGURES
        assert not scenario or scenario in SCENARIOS


SESSION = {"minutes": 1, "measured_at": "today", "command": "python -m benchmarks.peers", "machine": {"cores": "2"}}


def test_the_page_marks_the_best_explains_what_is_not_and_lists_what_was_not_measured() -> None:
    ours = next(peer for peer in peers() if peer.ours)
    other = _peer("other")
    cells = {
        "burst": [
            Cell(ours, "plain", [_stored(ours.name, doubles=0, lost=0, cpu_per_1000=20, reads_per_task=0.5)]),
            Cell(other, "plain", [_stored(other.name, doubles=0, lost=0, cpu_per_1000=10, reads_per_task=6)]),
        ],
        "kill-creating": [
            Cell(ours, "plain", [_stored(ours.name, scenario="kill-creating", doubles=0, lost=0)]),
            Cell(other, "careful", [_stored(other.name, "careful", "kill-creating", 2)]),
        ],
    }
    left_out = ["paced: other, 5 jobs", "paced: one, 5 jobs", "burst: other, 5 jobs, repeat 2"]
    text = page.text(cells, {**SESSION, "left_out": left_out, "failed": {"odd": "not installed: no"}})
    assert "**0.50**" in text
    assert "- **CPU s per 1,000 tasks, all processes**: 20.0, the best 10.0 (1,000 jobs at once). Whoever" in text
    assert "| other, careful | 1 / 2 of 2 |" in text
    assert "- paced, left out as the time was over: other, 5 jobs; one, 5 jobs" in text
    assert "- repeats, left out as the time was over: 1" in text
    assert "- odd: not installed: no" in text


def test_the_page_names_what_a_peer_asks_for_and_counts_what_that_needs() -> None:
    airflow = next(peer for peer in peers() if peer.name == "airflow")
    pinned = ("apache-airflow==3", "httpx==0.28", "anyio==4", "zipp==4")
    text = page.text({"burst": [Cell(airflow, "plain", [replace(_stored("airflow"), packages=pinned)])]}, None)
    assert f"- {airflow.title}: apache-airflow==3, httpx==0.28, and 2 that these need\n" in text


def test_the_page_says_who_is_waited_for_longer_and_why() -> None:
    text = page.text({}, None)
    patient = [peer for peer in peers() if peer.quiet_reason is not None]
    assert patient
    for peer in patient:
        assert f"- {peer.label}: lost only after {peer.quiet_seconds:g} s, because {peer.quiet_reason}." in text


def test_who_lost_something_is_not_the_best() -> None:
    cells = [
        Cell(_peer("quick"), "plain", [_stored("quick", lost=1, cpu_per_1000=1)]),
        Cell(_peer("whole"), "plain", [_stored("whole", lost=0, cpu_per_1000=5)]),
    ]
    assert page.best(FIGURES["cpu_per_1000"], "cpu_per_1000", cells) == 5


def test_aims_compare_with_the_cheapest_durable_peer_and_with_the_loop() -> None:
    ours, loop = _peer("kling-flows", Kind.OURS), _peer("quickstart-loop-5s", Kind.LOOP, durable=False, poll_seconds=5)
    queue = _peer("queue")

    def cell(peer: Peer, scenario: str = "burst", tasks: int = 1_000, **figures: float) -> Cell:
        stored = _stored(peer.name, scenario=scenario, tasks=tasks, **{"doubles": 0.0, "lost": 0.0, **figures})
        return Cell(peer, "plain", [stored])

    cells = {
        "burst": [
            cell(ours, cpu_per_1000=20, reads_per_task=0.1, lag_p95=4),
            cell(loop, cpu_per_1000=5, reads_per_task=6, lag_p95=5),
            cell(queue, cpu_per_1000=41, reads_per_task=6, lag_p95=5, lost=1),
        ],
        "burst-100": [cell(ours, "burst-100", 100, cpu_per_1000=60)],
    }
    judged = {aim.title.partition(" (")[0]: aim.met for aim in aims.judge(cells)}
    assert judged == {
        "fewest upstream reads per task": True,
        "detection lag p95, s: no worse than the best at the same interval": True,
        "CPU at most half of the cheapest durable peer's": True,
        "CPU within five times that of the bare loop": True,
        "0 paid twice and 0 lost, everywhere": True,
        "CPU grows linearly to 10,000 in flight": True,
    }


def _python(script: str, folder: Path, *, piped: bool = False) -> Command:
    argv = (sys.executable, "-c", script)
    return Command("python", argv, environment=os.environ, folder=folder, log=folder / "log", piped=piped)


async def test_the_meter_counts_children_that_were_too_quick_to_be_seen(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    async with _python(f"{child}; print('READY', flush=True); input()", tmp_path, piped=True) as command:
        assert command.process.stdout is not None
        await command.process.stdout.readline()
        reading = PeerMeter([command], {}).read()
    assert reading.cpu["python"] >= 0.15
    assert reading.memory["python"] > 2**20


async def test_nothing_of_a_command_is_left_behind(tmp_path: Path) -> None:
    script = "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid)"
    async with _python(script, tmp_path) as command:
        await command.process.wait()
        child = int((tmp_path / "log").read_text().split()[0])
        assert psutil.pid_exists(child)
    async with asyncio.timeout(20):
        while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


async def test_a_command_that_ends_early_is_not_ready_and_shows_its_log(tmp_path: Path) -> None:
    script = "raise SystemExit('no such thing')"
    async with _python(script, tmp_path) as command:
        with pytest.raises(NotReady, match=r"(?s)python ended with 1:.*no such thing"):
            await command.wait_ready()


async def test_the_proxy_cuts_once_and_counts_what_came(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 1_000_000)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, CuttingProxy.running(server.sockets[0].getsockname()[1], 900_000) as proxy:
        received: list[int] = []
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            total = 0
            try:
                while piece := await reader.read(65_536):
                    total += len(piece)
            except ConnectionResetError:
                pass
            received.append(total)
            writer.close()
    assert received[0] <= 900_000
    assert received[1] == 1_000_000
    assert received[0] <= proxy.passed - 1_000_000 <= 900_000


async def test_the_quickstarts_loop_makes_its_videos_and_forgets_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is measured here that a start could disturb.
    monkeypatch.setattr(run, "_LONGEST_CALMING", 0)
    faults = ({"fault": "accept_then_drop", "times": 1},)
    scenario = replace(SCENARIOS["accept-then-drop"], seconds=(0.5, 0.5), poll_seconds=0.2, faults=faults)
    [peer, *_] = read(FOLDER / "quickstart-loop" / "peer.toml")
    environment = Environment((Path(sys.executable).parent,), peer.folder)
    seen = await measure(Row(peer, "plain", scenario, 5), environment, tmp_path, tmp_path, limit=60)
    figures = calculate(seen)
    assert (figures["finished"], figures["lost"], figures["doubles"]) == (4, 1, 0)
    assert sum(len(charges) for charges in seen.charges.values()) == 5
    assert len(list((tmp_path / "downloads").iterdir())) == 4


def _mute() -> Peer:
    """It takes jobs and does nothing with them."""
    script = "import time\nprint('READY', flush=True)\nwhile True: time.sleep(1)"
    return _peer(
        "mute",
        processes={"worker": Process((sys.executable, "-c", script))},
        submit=(sys.executable, "-c", "import sys; sys.stdin.read()"),
        restart=("worker",),
        quiet_seconds=1.5,
    )


async def test_who_only_waits_to_be_given_up_says_so_and_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "_LONGEST_CALMING", 0)
    monkeypatch.setattr(run, "_IDLE_SECONDS", 0.5)
    row = Row(_mute(), "plain", SCENARIOS["accept-then-drop"], 2)
    environment = Environment((Path(sys.executable).parent,), FOLDER)
    idle = asyncio.Event()
    seen = await measure(row, environment, tmp_path, tmp_path, limit=60, idle=idle.set)
    assert idle.is_set()
    assert seen.gave_up
    assert calculate(seen)["lost"] == 2


async def test_what_the_harness_cuts_short_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_LONGEST_CALMING", 0)
    row = Row(replace(_mute(), quiet_seconds=60), "plain", SCENARIOS["accept-then-drop"], 2)
    environment = Environment((Path(sys.executable).parent,), FOLDER)
    with pytest.raises(TimeoutError, match=r"^0 of 2 jobs had ended when its 1 s were over$"):
        await measure(row, environment, tmp_path, tmp_path, limit=1)
