"""Keys, signing, tokens, who may do what. Loads nothing unaudited."""

__all__ = [
    "access",
    "archive",
    "binding",
    "datakeys",
    "files",
    "hook",
    "keyring",
    "keys",
    "master",
    "model_key",
    "signing",
    "tls",
    "tokens",
    "vault",
]
