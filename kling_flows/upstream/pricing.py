"""What a request will cost: ``prices.toml``, loaded once and checked on loading (fact sheet 8.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeAlias

from pydantic import BaseModel, ConfigDict

from kling_flows.errors import InvalidRequest, Violation
from kling_flows.upstream.capabilities import ModelStatus, capability_map, require_dialect
from kling_flows.upstream.constants import Dialect, Provider
from kling_flows.upstream.data_file import DataFile
from kling_flows.upstream.known import Known
from kling_flows.upstream.request import TextToVideoRequest
from kling_flows.upstream.vocabulary import Mode, Rule, Sound
from kling_flows.upstream.wording import listed, seconds

#: Row of a model with a single mode, which is called nothing.
_ANY: Final = "any"
#: Units for one second, or units by seconds of the clip.
_Price: TypeAlias = Decimal | dict[int, Decimal]


class _Per(StrEnum):
    SECOND = "second"
    CLIP = "clip"


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    as_of: date


class _Unit(_Row):
    usd: Decimal


class ModePrices(BaseModel):
    """Prices of one mode, in units; ``None``: not offered, or not published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    silent: _Price | None = None
    sound: _Price | None = None
    voice: _Price | None = None


class ModelPrices(_Row):
    """Prices of one model, by mode."""

    per: _Per
    mode: dict[str, ModePrices]

    def of(self, mode: Mode) -> ModePrices | None:
        """Return the prices of a mode; a model with a single mode has one price for whatever it is called."""
        return self.mode.get(mode) or self.mode.get(_ANY)


class ProviderPrices(_Row):
    """How one provider's prices differ from Kling's, as far as that is known."""

    uncertain: str


class PriceList(BaseModel):
    """The whole file. Keys of ``model`` are values of ``model_name``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: _Unit
    model: dict[str, ModelPrices]
    provider: dict[Provider, ProviderPrices]


_FILE: Final = DataFile("prices.toml", "KLING_FLOWS_PRICES", PriceList, Decimal)


def price_list() -> PriceList:
    """Return the prices that come with the package, with what was laid over them."""
    return _FILE.content


def lay_over_prices(path: Path | None) -> Path | None:
    """Lay another file over the prices, such as what a unit of one's own pack costs; see `DataFile.lay_over`."""
    return _FILE.lay_over(path)


@dataclass(frozen=True, slots=True)
class Quote:
    """What a task is expected to cost if it succeeds; one that fails is not charged.

    Args:
        units: Units of a resource pack.
        usd: The same at the list price of a unit.
        uncertain: What is not known about it, one sentence each; empty if the published list is all there is to it.
        source: Where the price is published.
        as_of: The date that the source speaks for.
    """

    units: Decimal
    usd: Decimal
    uncertain: tuple[str, ...]
    source: str
    as_of: date


def quote(request: TextToVideoRequest, provider: Provider, dialect: Dialect = Dialect.LEGACY) -> Quote:
    """Return what a request will cost.

    Only what decides the price is looked at; `validation.check` says whether the request may be sent at all.

    Raises:
        InvalidRequest: The dialect does not have the model, or no price is published for such a request.
        ConfigurationError: The provider does not speak the dialect.
    """
    asked = (request.model_name, request.mode, request.duration, request.sound, bool(request.voice_list))
    return _QUOTES.answer((*asked, provider, dialect), lambda: _quote(request, provider, dialect))


_QUOTES: Final[Known[Quote]] = Known(price_list, capability_map)


def _quote(request: TextToVideoRequest, provider: Provider, dialect: Dialect) -> Quote:
    require_dialect(provider, dialect)
    prices = price_list()
    row = prices.model.get(request.model_name)
    if row is None or capability_map().abilities(request.model_name, dialect) is None:
        known = [name for name in prices.model if capability_map().abilities(name, dialect)]
        raise _unpriced("model_name", f"No price is published for it in the {dialect} dialect; use {listed(known)}.")
    units = _units(request, row)
    return Quote(
        units=units,
        usd=units * prices.unit.usd,
        uncertain=tuple(_uncertain(request, provider, row)),
        source=row.source,
        as_of=row.as_of,
    )


def usd_per_second(model_name: str, mode: Mode, sound: Sound) -> Decimal | None:
    """Return the list price of a second in USD; ``None`` if it is not offered, or not published.

    Prices by the clip are proportional to its length (fact sheet 8.1), so that they are told by the second as well.
    """
    prices = price_list()
    row = prices.model.get(model_name)
    by_mode = row.of(mode) if row else None
    if by_mode is None:
        return None
    price = by_mode.sound if sound is Sound.ON else by_mode.silent
    if price is None:
        return None
    if isinstance(price, dict):
        length, units = next(iter(price.items()))
        price = units / length
    return price * prices.unit.usd


def _units(request: TextToVideoRequest, row: ModelPrices) -> Decimal:
    name, mode = request.model_name, request.mode
    prices = row.of(mode)
    if prices is None:
        raise _unpriced("mode", f"No price is published for {name} in mode {mode.value!r}; use {listed([*row.mode])}.")
    price = _for_sound(request, prices)
    if price is None:
        raise _unpriced("sound", f"No price is published for {name} with sound in mode {mode.value!r}.")
    if request.duration < 1:
        raise _unpriced("duration", f"A video cannot last {request.duration} s.")
    if not isinstance(price, dict):
        return price * request.duration
    if request.duration not in price:
        raise _unpriced(
            "duration", f"Prices of {name} are published for {seconds([*price])}, not for {request.duration} s."
        )
    return price[request.duration]


def _for_sound(request: TextToVideoRequest, prices: ModePrices) -> _Price | None:
    if request.sound is Sound.OFF:
        return prices.silent
    if request.voice_list and prices.voice is not None:
        return prices.voice
    return prices.sound


def _uncertain(request: TextToVideoRequest, provider: Provider, row: ModelPrices) -> Iterator[str]:
    name = request.model_name
    prices = row.of(request.mode)
    if request.voice_list:
        if prices is None or prices.voice is None:
            yield f"Whether voices raise the price of {name} is not published; this is the price without."
        else:
            yield f"Whether {name} takes voices in text-to-video is not known: the capability map does not say so."
    match capability_map().model[name].status:
        case ModelStatus.RETIRED:
            yield f"{name} is retired and answers no more; this is its last published price."
        case ModelStatus.SUNSET:
            yield f"{name} is announced to end; whether it still answers at this price is not known."
        case ModelStatus.ACTIVE:
            pass
    differs = price_list().provider.get(provider)
    if differs is not None:
        yield differs.uncertain


def _unpriced(field: str, message: str) -> InvalidRequest:
    return InvalidRequest([Violation(field, Rule.NOT_SUPPORTED.value, message)])
