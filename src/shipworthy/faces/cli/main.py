"""The `shipworthy` command: its verbs, loaded when called, and what an error becomes."""

import importlib
import os
import sys
import traceback
from pathlib import Path

import click

from shipworthy import __version__
from shipworthy.faces.cli.show import Face
from shipworthy.kernel.errors import ContractError, ShipworthyError

DONE, REFUSED, MISUSED, OUR_FAULT = 0, 1, 2, 3
EXIT_CODES = {"usage": MISUSED, "contract": MISUSED, "expression": MISUSED, "internal": OUR_FAULT}  # others: REFUSED

# verb -> (module, one line of help); the module's function of the verb's name is the command
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("init", "Write a contract and a train.py for a CSV."),
    "check": ("check", "Check contract, code and data in seconds."),
    "ship": ("ship", "Data to a signed release, deployed to local."),
    "approve": ("approve", "Approve a release for an environment, in a role that it owes."),
    "waive": ("approve", "Let a gate's verdict pass: two roles, a reason, an expiry."),
    "deploy": ("deploy", "Give a release traffic, by the environment's steps."),
    "rollback": ("deploy", "Return all traffic to the release before."),
    "serve": ("serve", "Answer predictions from the deployed release."),
    "up": ("up", "Data plane, control plane and console on this machine."),
    "control": ("control", "One step of the control loop: windows, canaries, alerts."),
    "loadtest": ("loadtest", "Hold the declared peak, and propose workers, memory and cost."),
    "score": ("score", "Score a file with the policy and records of the server."),
    "consume": ("consume", "Answer the messages of a broker, each id once."),
    "records": ("records", "The log of predictions: compact it to Parquet."),
    "outcomes": ("outcomes", "Tell what came true of earlier predictions."),
    "status": ("status", "Releases, deployments and what comes next."),
    "quality": ("quality", "Accuracy and value as they came true."),
    "alerts": ("alerts", "What monitors saw, and who acknowledged it."),
    "review": ("review", "Answers that wait for a person."),
    "user": ("user", "People and services, and their roles."),
    "token": ("token", "What callers prove themselves with: scoped, expiring, revocable."),
    "key": ("key", "What signs, what encrypts, what is not believed any more."),
    "verify": ("verify", "Prove that releases and the audit log are intact."),
    "data": ("data", "Snapshots and their sources: how they are, and how they were."),
    "lineage": ("lineage", "What something was made from, and what was made of it."),
    "card": ("documents", "Print a release's model card."),
    "contract": ("documents", "The contract's JSON Schema."),
    "audit": ("audit", "Export an anchor, prove an entry, rebuild the database."),
    "backup": ("backup", "A project in one file, and back."),
    "demo": ("demo", "A whole story on real data, in a fresh folder."),
}


class LazyCommands(click.Group):
    """A group whose commands are imported when they are called, so that `--help` is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Verbs in the order of a model's journey."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of one verb."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"shipworthy.faces.cli.{COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{cmd_name} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List verbs without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(verb, line) for verb, (_, line) in COMMANDS.items()])


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="shipworthy")
def root() -> None:
    """Take a model from a notebook to production, and keep it trustworthy there.

    Start with `shipworthy demo`, or with your own data:
    shipworthy init DIR --data FILE.csv --target COLUMN
    """


def main() -> None:
    """Run one command; say errors plainly; end with the exit code that they mean."""
    face = Face(as_json="--json" in sys.argv[1:])
    try:
        code = root.main(standalone_mode=False)
    except ContractError as error:
        face.contract_error(error)
        code = MISUSED
    except ShipworthyError as error:
        face.error(error.code, str(error))
        code = EXIT_CODES.get(error.code, REFUSED)
    except click.exceptions.Abort:
        face.error("interrupted", "interrupted; run the same command again to carry on")
        code = 130  # 128 + SIGINT, as shells count it
    except click.ClickException as error:
        hint = f" (see `{error.ctx.command_path} --help`)" if isinstance(error, click.UsageError) and error.ctx else ""
        face.error("usage", f"{error.format_message()}{hint}")
        code = MISUSED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = DONE
    except Exception as error:  # noqa: BLE001 - the outermost face: whatever is left is our fault
        code = _unexpected(face, error)
    sys.exit(code)


def _unexpected(face: Face, error: Exception) -> int:
    """Say what nobody foresaw: a package that is not installed, or a fault of ours, whose details go to a file."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("shipworthy"):
        cure = "which this command needs; run: pip install 'shipworthy[standard]'"
        face.error("missing_extra", f"`{error.name}` is not installed, {cure}")
        return REFUSED
    report = Path.cwd() / "shipworthy-error.txt"
    try:
        report.write_text("".join(traceback.format_exception(error)))
        kept = f"the details are in {report.name}; please report them"
    except OSError:
        kept = "the details could not be written"
    face.error("internal", f"internal error ({type(error).__name__}); {kept}")
    return OUR_FAULT
