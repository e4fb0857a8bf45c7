"""From the ledger to cards and reports."""

__all__ = ["card", "odcs", "odcs_import", "openlineage", "portfolio"]
