"""The front: a stateless gRPC server over the ledger. Run it with ``python -m grpc_server``."""
