"""Generated from ``protos/kling_flows/v1`` by ``make protos``; do not edit."""
