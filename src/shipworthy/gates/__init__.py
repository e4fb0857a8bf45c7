"""Pure decisions on evidence."""

__all__: list[str] = []
