"""Alembic's entry: runs the migrations on the connection that the ledger hands over."""

from alembic import context


def migrate() -> None:
    """Run them in the transaction that is open."""
    context.configure(connection=context.config.attributes["connection"], transaction_per_migration=False)
    context.run_migrations()


if __name__ == "env_py":  # the name under which Alembic loads this file; any other import does nothing
    migrate()
