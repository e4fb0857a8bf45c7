"""What travels to a server: payloads, releases, deployment and access files; written atomically and
verified before use. Imports neither the ledger nor the contract's types."""

__all__ = ["attestation", "deployment", "files", "format", "model_signing", "verify"]
