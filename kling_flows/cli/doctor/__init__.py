"""What ``kling-flows doctor`` looks at: everything that ``serve`` and the other commands need, without a server too.

Nothing is changed: what would be made by ``serve`` is not made, a ledger is not brought up to date, nothing is bought.
"""

from kling_flows.cli.doctor.examination import examine
from kling_flows.cli.doctor.finding import Finding, Level

__all__ = ["Finding", "Level", "examine"]
