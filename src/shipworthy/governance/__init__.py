"""From the ledger to cards and reports."""

__all__ = ["card", "croissant", "odcs", "odcs_import", "openlineage", "portfolio"]
