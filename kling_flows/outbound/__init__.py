"""Requests to addresses that came from outside: the provider's result URLs and the callback URLs of callers.

The rules are here and need no HTTP client; the client that obeys them is in :mod:`kling_flows.outbound.client`.
"""

from kling_flows.outbound.addresses import PUBLIC_ONLY, AddressPolicy, check_url, policy_for

__all__ = ["PUBLIC_ONLY", "AddressPolicy", "check_url", "policy_for"]
