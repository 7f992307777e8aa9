"""What whoever runs it knows better than the files of the package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from kling_flows.errors import ConfigurationError
from kling_flows.settings import Settings
from kling_flows.upstream import (
    Dialect,
    Provider,
    capability_map,
    lay_over_capabilities,
    lay_over_prices,
    price_list,
    quote,
    validate,
)

from .data import request

SOURCE = 'source = "our own trial"\nas_of = 2026-11-20\n'
#: CometAPI takes shots and long videos after all, and the master models are gone.
CAPABILITIES = f"""
[provider.cometapi]
absent_fields = ["voice_list", "watermark_info"]
durations = [3, 5, 10, 15]
{SOURCE}
[model.kling-v2-master]
status = "retired"
"""
PRICES = f"""
[unit]
usd = 0.126
{SOURCE}
[model.kling-v3]
mode.pro.sound = 1.25
{SOURCE}
"""
SHOTS = {
    "prompt": "",
    "multi_shot": True,
    "shot_type": "customize",
    "multi_prompt": [{"prompt": "a", "duration": 15}],
    "duration": 15,
}


@pytest.fixture(autouse=True)
def own_files_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    # Nothing of the machine's own configuration.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    yield
    lay_over_capabilities(None)
    lay_over_prices(None)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_one(text: str) -> Path:
        path = tmp_path / "known-better.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_one


def test_a_setting_changes_what_a_provider_takes_and_nothing_beside(
    monkeypatch: pytest.MonkeyPatch, write: Callable[[str], Path]
) -> None:
    before = capability_map()
    assert validate(request(**SHOTS), Provider.COMETAPI)
    monkeypatch.setenv("KLING_FLOWS_CAPABILITIES", str(write(CAPABILITIES)))
    Settings.load()
    assert validate(request(**SHOTS), Provider.COMETAPI) == ()
    (refused,) = validate(request(model_name="kling-v2-master"), Provider.KLING)
    assert refused.rule == "RETIRED_MODEL"
    after = capability_map()
    assert after.provider[Provider.COMETAPI].source == "our own trial"
    assert after.provider[Provider.COMETAPI].prompt_limit == before.provider[Provider.COMETAPI].prompt_limit
    assert after.model["kling-v3"] == before.model["kling-v3"]
    lay_over_capabilities(None)
    assert capability_map() == before


def test_settings_that_name_no_file_leave_what_was_read_and_what_rests_on_it() -> None:
    before = capability_map()
    Settings.load()
    assert capability_map() is before


def test_a_setting_changes_what_a_quote_says(monkeypatch: pytest.MonkeyPatch, write: Callable[[str], Path]) -> None:
    loud = request(mode="pro", sound="on")
    assert (quote(loud, Provider.KLING).units, quote(loud, Provider.KLING).usd) == (Decimal(6), Decimal("0.84"))
    monkeypatch.setenv("KLING_FLOWS_PRICES", str(write(PRICES)))
    Settings.load()
    found = quote(loud, Provider.KLING)
    # Exact: a number with a point never becomes a binary one.
    assert (found.units, found.usd) == (Decimal("6.25"), Decimal("0.7875"))
    assert (found.source, found.as_of) == ("our own trial", date(2026, 11, 20))
    assert quote(request(), Provider.KLING).units == Decimal(3)
    assert price_list().model["kling-v2-6"].source.startswith("fact sheet")


def test_a_model_that_nobody_knew_can_be_added(write: Callable[[str], Path]) -> None:
    text = f"""
[model."kling-5.0"]
status = "active"
[model."kling-5.0".standard]
path = "kling-5.0"
modes = ["pro"]
durations = [5]
sound = []
cfg_scale = false
voices = false
multi_shot = false
{SOURCE}
"""
    lay_over_capabilities(write(text))
    wish = request(model_name="kling-5.0", mode="pro")
    assert validate(wish, Provider.KLING, Dialect.STANDARD) == ()


def test_child_processes_get_the_same_files_wherever_they_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write: Callable[[str], Path]
) -> None:
    path = write(CAPABILITIES)
    monkeypatch.chdir(tmp_path)
    settings = Settings.load(capabilities=Path(path.name))
    assert settings.environment()["KLING_FLOWS_CAPABILITIES"] == str(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[provider.cometapi]\nprompt_limit = 500", "provider.cometapi does not say its source and as_of"),
        (f"[provider.cometapi]\nprompt_limt = 500\n{SOURCE}", "provider.cometapi.prompt_limt: Extra inputs"),
        (f"[provider.nobody]\n{SOURCE}", "provider.nobody"),
        ("[provider.cometapi", "cannot be read as TOML"),
        ("provider = 7", "provider: Input should be"),
        ('[model.kling-v3]\nstatus = "retired"', "model.kling-v3 is retired and names no successor that answers"),
        ('[model.kling-v2-6]\nstatus = "retired"\nsuccessor = "kling-v1"', "model.kling-v2-6 is retired and names"),
        (f'[model.kling-v2-6.standard]\npath = ""\n{SOURCE}', "model.kling-v2-6.standard has no path"),
    ],
)
def test_a_row_that_makes_no_sense_is_named_and_changes_nothing(
    write: Callable[[str], Path], text: str, words: str
) -> None:
    before = capability_map()
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(capabilities=write(text))
    assert caught.value.setting == "KLING_FLOWS_CAPABILITIES"
    assert words in caught.value.message
    assert capability_map() == before


@pytest.mark.parametrize("name", ["capabilities", "prices"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(ConfigurationError, match=str(missing)) as caught:
        Settings.load(**{name: missing})
    assert caught.value.setting == f"KLING_FLOWS_{name.upper()}"


@pytest.mark.parametrize(
    ("setting", "lay_over"),
    [("KLING_FLOWS_CAPABILITIES", lay_over_capabilities), ("KLING_FLOWS_PRICES", lay_over_prices)],
)
def test_the_sample_of_the_documents_is_taken(
    write: Callable[[str], Path], setting: str, lay_over: Callable[[Path | None], Path | None]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "open-questions.md").read_text(encoding="utf-8")
    (sample,) = [block for block in page.split("```toml\n")[1:] if block.startswith(f"# {setting}\n")]
    assert lay_over(write(sample.partition("```")[0]))
