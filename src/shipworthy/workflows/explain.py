"""Exact reasons for the rows of a table: Shapley values of the release that answered each, over its training rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.bundle.verify import verify_bundle
from shipworthy.data.requests import RequestPlan, make_requests
from shipworthy.evaluation.exact import Explainer
from shipworthy.kernel.errors import DataError, NotFoundError
from shipworthy.security.keys import load_public_keys
from shipworthy.serving.servable import Servable
from shipworthy.workflows.attest import open_release
from shipworthy.workflows.inspect import release_directory
from shipworthy.workflows.project import Parts
from shipworthy.workflows.stages.rows import background, parted

PREFIX = "reason_"
BASE, METHOD = "reason_base", "reason_method"
NAMED = "model"  # what `source` says of an answer that reasons can be given for


@dataclass(frozen=True, slots=True)
class TableReasons:
    """Explains the rows of a table that has been answered, chunk by chunk.

    Args:
        plan: how the table's rows become requests.
        servables: the releases that answer.
        explainers: of each, by its name.
    """

    plan: RequestPlan
    servables: Sequence[Servable]
    explainers: dict[str, Explainer]

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """The columns that are added: a value for each of the models' columns, what they start from, and the method."""
        columns = dict.fromkeys(name for servable in self.servables for name in servable.schema.columns)
        numbers = [*(PREFIX + name for name in columns), BASE]
        return {**dict.fromkeys(numbers, pl.Float64()), METHOD: pl.String()}

    def explain(self, rows: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
        """Reasons beside the answers; null where a row was refused or the fallback answered.

        Args:
            rows: of the table, by identifiers.
            answers: to the same rows, as the file of answers has them.
        """
        found = {name: np.full(rows.height, np.nan) for name, kind in self.schema.items() if kind == pl.Float64()}
        methods: list[str | None] = [None] * rows.height
        for servable in self.servables:
            is_its = (answers["source"] == NAMED) & (answers["release"] == servable.release)
            places = is_its.fill_null(False).arg_true().to_numpy()
            if len(places):
                self._explain(servable, rows, answers, places, found)
                for place in places.tolist():
                    methods[place] = self.explainers[servable.release].method
        numbers = pl.DataFrame(found).fill_nan(None)
        return numbers.with_columns(pl.Series(METHOD, methods, dtype=pl.String))

    def _explain(
        self,
        servable: Servable,
        rows: pl.DataFrame,
        answers: pl.DataFrame,
        places: NDArray[np.intp],
        found: dict[str, NDArray[np.float64]],
    ) -> None:
        requests = make_requests(self.plan, rows[places])
        matrix = np.array([servable.decoder.decode_object(request).floats for request in requests], dtype=np.float32)
        classes = servable.policy.classes
        given = answers["prediction"].gather(places).to_list()
        picked = np.array([classes.index(str(one)) for one in given], dtype=np.intp) if classes else None
        values = self.explainers[servable.release].explain(matrix, picked)
        for at, name in enumerate(servable.schema.columns):
            found[PREFIX + name][places] = values.values[:, at]
        found[BASE][places] = values.base


def open_table_reasons(parts: Parts, plan: RequestPlan, servables: Sequence[Servable]) -> TableReasons:
    """What explains a table that these releases answer; their training rows are read from their snapshots.

    Raises:
        NotFoundError: a release, or the snapshot that it was trained on, is not in this project.
        DataError: a snapshot's train part has no rows.
        IntegrityError: a release or a snapshot does not hold.
    """
    return TableReasons(plan, servables, {servable.release: _explainer(parts, servable) for servable in servables})


def _explainer(parts: Parts, servable: Servable) -> Explainer:
    project = parts.project
    bound = open_release(project, parts.ledger, servable.release)
    digest = str(bound.release["snapshot"])
    snapshot = parts.ledger.find_snapshot(digest)
    if snapshot is None:
        raise NotFoundError(
            f"{servable.release} was trained on the snapshot {digest[7:19]}, which this project does not know; "
            "exact reasons compare with its rows: score where it was trained"
        )
    frame, places = parted(parts, bound.contract, snapshot)
    if not len(places.train):
        raise DataError(f"the snapshot {digest[7:19]} has no train part for {servable.release}")
    keys = load_public_keys(project.public_keys)
    directory = release_directory(project, bound.release)
    payload = verify_bundle(directory, keys, str(bound.release["digest"]), project.vault).payload
    rows = background(bound.contract, frame, places)
    return Explainer(payload, rows, bound.contract.training.seed)
