"""From the ledger to cards and reports."""

__all__: list[str] = []
