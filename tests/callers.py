"""Both clients, called in the same way, so that one test holds both to one behaviour."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from shipworthy.client import AsyncClient, Client

KINDS = ("sync", "async")


class Awaited:
    """An `AsyncClient` called as a `Client` is; its loop stands still between calls."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *args, **options: self._runner.run(found(*args, **options))


class Callers:
    """Makes clients of one kind, and closes them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._runner = asyncio.Runner()
        self._made: list[Any] = []

    def make(
        self, address: str, *, system: str = "loans", sleep: Callable[[float], None] | None = None, **options: Any
    ) -> Any:
        """A client; `sleep` is called as a plain function by both kinds."""
        if self.kind == "sync":
            client: Any = Client(address, system=system, **options, **({"sleep": sleep} if sleep else {}))
        else:
            client = Awaited(AsyncClient(address, system=system, **options, **_asleep(sleep)), self._runner)
        self._made.append(client)
        return client

    def close(self) -> None:
        """Close all clients and the loop."""
        for client in self._made:
            client.close()
        self._runner.close()


def _asleep(sleep: Callable[[float], None] | None) -> dict[str, Any]:
    if sleep is None:
        return {}

    async def pause(seconds: float) -> None:
        sleep(seconds)

    return {"sleep": pause}
