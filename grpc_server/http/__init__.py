"""The front's HTTP side: what the provider calls, metrics, and the way to the web console.

It runs in the front's event loop, beside gRPC.
"""
