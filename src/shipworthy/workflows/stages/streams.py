"""Streams: a source of large text files is validated as it is read, where its rows need nothing else first."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shipworthy.contract.types import Contract
from shipworthy.data.stream import Streamed, is_large, stream_source
from shipworthy.workflows.shipping import Shipping
from shipworthy.workflows.sources import Gathered

if TYPE_CHECKING:
    from shipworthy.data.sources.read import SourceRead
    from shipworthy.workflows.stages.standing import Standing


def streamed_source(contract: Contract) -> str | None:
    """The source whose rows nothing but validation looks at; None where there is none."""
    (name, source), *others = contract.data.sources.items()
    is_alone = not others and contract.data.prepare is None and not contract.data.keys
    return name if is_alone and source.path is not None and source.broken == "refuse" else None


def stream_large(shipping: Shipping, gathered: Gathered, standing: "Standing | None") -> list[Streamed]:
    """Let a large source be validated when it is read, or as much of it as is new.

    Args:
        shipping: what is shipped.
        gathered: its sources.
        standing: what need not be read.

    Returns:
        What becomes of it, once it was read; empty where it was read as a whole.
    """
    contract, root = shipping.contract, shipping.parts.project.root
    name, streamed = streamed_source(contract), list[Streamed]()
    if name is None or name in gathered.broken or not is_large(contract.data.sources[name], root):
        return streamed
    found = gathered.found[name]

    def read() -> "SourceRead":
        before = None if standing is None else standing.before
        validated = stream_source(contract, name, root, files_of(found.origins, root), before=before)
        if validated is None or (standing is not None and not standing.fits(validated.schema)):
            return found.read()
        streamed.append(validated if standing is None else standing.joined(validated, name))
        return streamed[0].read

    gathered.found[name] = replace(found, read=read)
    return streamed


def files_of(origins: Mapping[str, str], root: Path) -> dict[Path, str]:
    """The files of a source with their digests, by the nodes that lineage has for them."""
    return {root / node.removeprefix("file:"): digest for node, digest in origins.items()}
