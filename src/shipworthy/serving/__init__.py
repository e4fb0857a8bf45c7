"""From traffic to answers and records. Needs no database, no ledger and no heavy library."""

__all__: list[str] = []
