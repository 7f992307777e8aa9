"""Alembic's entry: runs on the connection that ``kling_flows.ledger.migrate`` has opened."""

from alembic import context

from kling_flows.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
