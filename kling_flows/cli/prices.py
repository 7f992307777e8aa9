"""Models, prices and budgets in words for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.table import Table
from rich.text import Text

from kling_flows.cli.describe import rows_text
from kling_flows.cli.output import plain_table
from kling_flows.v1.text_to_video_pb2 import TextToVideo
from kling_flows.v1.video_task_service_pb2 import Budget, Model, ModelMode, Quote

_MODES: Final = {TextToVideo.STD: "std", TextToVideo.PRO: "pro", TextToVideo.FOUR_K: "4k"}


def model_table(models: Iterable[Model]) -> Table:
    """One row for each model."""
    table = plain_table("MODEL", "STATUS", "SECONDS", "PRICE", "ALSO TAKES", "NOTE")
    for model in models:
        able = {
            "negative prompt": model.negative_prompt_limit > 0,
            "cfg scale": model.cfg_scale,
            "camera": model.camera_control,
            "shots": model.multi_shot,
            "voices": model.voices,
        }
        instead = f", use {model.successor}" if model.successor else ""
        table.add_row(
            model.model_name,
            Model.Status.Name(model.status).lower() + instead,
            _seconds(model.durations),
            ", ".join(_mode(mode) for mode in model.modes),
            ", ".join(name for name, has in able.items() if has),
            model.note,
        )
    return table


def quote_lines(quote: Quote) -> Text:
    """What it costs, and how sure that is."""
    rows = [("units", quote.units), ("US$", quote.usd)]
    rows.extend(("uncertain", words) for words in quote.uncertainties)
    return rows_text([*rows, ("source", f"{quote.source}, {quote.as_of}")])


def budget_table(budgets: Iterable[Budget]) -> Table:
    """One row for each budget."""
    table = plain_table("TENANT", "ACCOUNT", "PERIOD", "LIMIT", "RESERVED", "SPENT")
    for budget in budgets:
        limits = [
            f"{budget.limit_units} units" if budget.limit_units else "",
            f"US$ {budget.limit_usd}" if budget.limit_usd else "",
        ]
        table.add_row(
            budget.tenant,
            budget.account,
            Budget.Period.Name(budget.period).lower(),
            ", ".join(limit for limit in limits if limit),
            f"{budget.reserved_units} units, US$ {budget.reserved_usd}",
            f"{budget.settled_units} units, US$ {budget.settled_usd}",
        )
    return table


def _mode(mode: ModelMode) -> str:
    prices = "/".join(price for price in (mode.silent_units_per_second, mode.sound_units_per_second) if price)
    return f"{_MODES.get(mode.mode, 'single')} {prices}"


def _seconds(durations: Iterable[int]) -> str:
    known = sorted(durations)
    if len(known) > 2 and known == list(range(known[0], known[-1] + 1)):
        return f"{known[0]} to {known[-1]}"
    return ", ".join(str(seconds) for seconds in known)
