"""Keys, signing, tokens, who may do what. Loads nothing unaudited."""

__all__ = ["access", "keys", "signing", "tokens"]
