"""`shipworthy alerts`: what monitors saw, and who looks after it."""

import os
from pathlib import Path

import click
from rich.markup import escape

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_parts, open_to_read
from shipworthy.workflows.alerting import acknowledge
from shipworthy.workflows.principals import acting

STATE_STYLES = {"open": "bold red", "acknowledged": "yellow", "closed": "dim"}


@command("alerts")
@click.option("--all", "everything", is_flag=True, help="Also those that are closed.")
@click.option("--ack", "alert_id", default=None, metavar="ALERT", help="Say that you look after this one.")
def alerts(root: Path, face: Face, everything: bool, alert_id: str | None) -> int:
    """List alerts with their cause and next step; `--ack` takes one on."""
    if alert_id is not None:
        with open_parts(root) as parts:
            taken = acknowledge(parts, acting(parts, os.environ), alert_id)
        face.result({"alert": taken})
        if not face.as_json:
            face.say(f"{escape(taken['title'])}: {escape(taken['acknowledged_by'])} looks after it.")
        return 0
    with open_to_read(root, "alerts") as ledger:
        found = [alert for alert in ledger.latest("alert") if everything or alert["state"] != "closed"]
    face.result({"alerts": found})
    if not face.as_json:
        for alert in found:
            style = STATE_STYLES.get(alert["state"], "bold")
            title = f"{alert['severity']}, {escape(alert['environment'])}: {escape(alert['title'])}"
            face.say(f"[{style}]{alert['state']}[/]  {title}")
            times = "once" if alert["count"] == 1 else f"{alert['count']} times"
            face.say(
                f"  seen:  {alert['opened'][:10]} to {alert['last_seen'][:10]}, {times}  ({escape(alert['alert'])})"
            )
            face.say(f"  cause: {escape(alert['cause'])}")
            face.say(f"  next:  {escape(alert['next'])}")
        if not found:
            face.say("No open alert." if not everything else "No alert yet.")
    return 0
