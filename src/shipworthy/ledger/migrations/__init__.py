"""How an older database becomes this version's; run by `store` on open, under the writer lock."""

__all__: list[str] = []
