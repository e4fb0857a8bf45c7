"""`shipworthy data`: the rows behind a model."""

import click

from shipworthy.faces.cli.data_replay import quarantine, replay


@click.group("data")
def data() -> None:
    """Data: what was quarantined, and rows fixed and replayed."""


data.add_command(quarantine)
data.add_command(replay)
