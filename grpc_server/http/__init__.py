"""The front's HTTP side: what the provider calls. It runs in the front's event loop, beside gRPC."""
