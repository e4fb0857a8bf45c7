"""`shipworthy data`: snapshots and their sources, looked at."""

import click

from shipworthy.faces.cli.data_health import health


@click.group("data")
def data() -> None:
    """Snapshots and their sources: how they are, and how they were."""


data.add_command(health)
