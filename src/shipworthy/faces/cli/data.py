"""`shipworthy data`: the rows behind a model."""

import click

from shipworthy.faces.cli.data_describe import describe
from shipworthy.faces.cli.data_health import health
from shipworthy.faces.cli.data_replay import quarantine, replay
from shipworthy.faces.cli.data_versions import VERBS


@click.group("data")
def data() -> None:
    """The rows behind a model.

    VERSION is a number, a digest or its first 8 digits, a tag, a release such as loans:3, or `latest`.
    """


for verb in (*VERBS, describe, health, quarantine, replay):
    data.add_command(verb)
