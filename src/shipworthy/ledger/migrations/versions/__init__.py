"""One file for each change of the tables, in order; never edited after a release."""

__all__: list[str] = []
