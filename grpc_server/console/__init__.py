"""The web console: pages for people, over the same service, callers and limits as gRPC."""
