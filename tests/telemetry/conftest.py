"""Fronts over a ledger of the test's own, as the front's own tests have them."""

from tests.front.conftest import access_file, rig

__all__ = ["access_file", "rig"]
