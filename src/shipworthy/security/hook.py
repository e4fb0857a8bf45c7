"""Command hooks: a program of the user's that holds a key which is never here, such as a KMS's or a signer's.

It is started without a shell, gets its input on stdin, and answers on stdout.
"""

import shlex
import subprocess
from collections.abc import Sequence

from shipworthy.kernel.errors import AccessError, UsageError

TIMEOUT_S = 30.0  # a KMS answers within one; a person who has to touch a token within some
MAX_ANSWER_BYTES = 4096  # a signature has 64, a wrapped key some hundreds
SHOWN_CHARACTERS = 200  # of what it said on stderr


def split_command(setting: str, text: str) -> tuple[str, ...]:
    """The words of a command as a setting has it.

    Raises:
        UsageError: it has none, or a quote is open.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"{setting} is no command ({error}): {text!r}") from None
    if not words:
        raise UsageError(f"{setting} is empty; give a command such as '/usr/local/bin/kms-hook --key models'")
    return words


def ask_command(setting: str, command: Sequence[str], content: bytes, *, timeout_s: float = TIMEOUT_S) -> bytes:
    """What `command` answers to `content`.

    Args:
        setting: that names the command, for errors.
        command: program and arguments.
        content: its standard input.
        timeout_s: the longest wait, in s.

    Raises:
        AccessError: it cannot be started, fails, says too much or takes too long; what is secret is not repeated.
    """
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise AccessError(f"{setting}: {command[0]} gave no answer within {timeout_s:g} s; it was ended") from None
    except OSError as error:
        raise AccessError(f"{setting}: {command[0]} cannot be started ({error.strerror}); check its path") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[:SHOWN_CHARACTERS]
        raise AccessError(f"{setting}: {command[0]} ended with {done.returncode}: {said or 'it said nothing'}")
    if len(done.stdout) > MAX_ANSWER_BYTES:
        raise AccessError(f"{setting}: {command[0]} answered {len(done.stdout)} bytes; {MAX_ANSWER_BYTES} are the most")
    return done.stdout
