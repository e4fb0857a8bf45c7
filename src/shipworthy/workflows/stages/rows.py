"""The rows of a snapshot, and how they are parted; the same each time."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.contract.types import Contract
from shipworthy.data.columns import encode
from shipworthy.data.snapshot import Snapshot, read
from shipworthy.data.split import Split, split
from shipworthy.evaluation.exact import BACKGROUND_ROWS
from shipworthy.workflows.project import Parts


def snapshot_node(ingested: Mapping[str, Any]) -> str:
    """The snapshot in lineage."""
    return f"snapshot:{ingested['snapshot']}"


def snapshot_of(parts: Parts, contract: Contract, ingested: Mapping[str, Any]) -> Snapshot:
    """The snapshot that the ingest stage took."""
    return Snapshot(ingested["snapshot"], ingested["version"], ingested["rows"], parts.project.tables / contract.system)


def background(contract: Contract, frame: pl.DataFrame, places: Split) -> NDArray[np.float32]:
    """The rows of the train part that exact reasons compare with, as the model sees them; the same each time."""
    train = frame[places.train]
    return encode(contract, train.sample(min(BACKGROUND_ROWS, train.height), seed=contract.training.seed))


def parted(parts: Parts, contract: Contract, ingested: Mapping[str, Any]) -> tuple[pl.DataFrame, Split]:
    """The snapshot's rows and how they are parted; the same each time."""
    frame = read(snapshot_of(parts, contract, ingested), parts.project.vault)
    return frame, split(contract, frame, contract.training.seed)
