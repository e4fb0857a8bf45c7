"""`shipworthy data`: the rows behind a model."""

import click

from shipworthy.faces.cli.data_describe import describe
from shipworthy.faces.cli.data_replay import quarantine, replay


@click.group("data")
def data() -> None:
    """The rows behind a model: their versions, and what was quarantined."""


for verb in (describe, quarantine, replay):
    data.add_command(verb)
