"""Scenario ``front``: the gRPC server by itself, beside bare gRPC, under load from processes of their own."""
