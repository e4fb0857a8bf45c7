"""From the ledger to cards and reports."""

__all__ = ["card", "openlineage", "portfolio"]
