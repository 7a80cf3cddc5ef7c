"""The `coordctl` command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from coordctl.cli_agents import agent
from coordctl.cli_lab import lab
from coordctl.cli_messages import export, import_
from coordctl.cli_options import site_option, with_site
from coordctl.cli_site import COMMANDS
from coordctl.cli_work import hook, verify
from coordctl.errors import CoordctlError


class _Group(click.Group):
    def invoke(self, context: click.Context) -> Any:
        """As click does; an error's next command is for the same site as this one was."""
        try:
            return super().invoke(context)
        except CoordctlError as error:
            error.mend = with_site(error.mend)
            raise


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"],
                                           "max_content_width": 79})
@site_option
@click.version_option(package_name="coordctl", prog_name="coordctl")
def cli() -> None:
    """Run a message server for agents: from one laptop to an enterprise.

    A site is the folder of one installation: that of --site, else the current
    folder if it holds a site.yml, else $COORDCTL_SITE, else your default site.
    """


for command in COMMANDS:
    cli.add_command(command)
cli.add_command(import_)
cli.add_command(export)
cli.add_command(agent)
cli.add_command(lab)
cli.add_command(hook)
cli.add_command(verify)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command and end the process: 0 all done, 1 not, 2 wrong use, 130 interrupted."""
    from coordctl.output import fail, note

    try:
        code = cli.main(arguments, prog_name="coordctl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        note("Interrupted. The same command goes on where this one stopped.")
        sys.exit(130)
    except CoordctlError as error:
        fail(error)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        name = f"{Path(str(error.filename))}: " if error.filename else ""
        fail(CoordctlError(f"{name}{error.strerror or error}", mend="the same command, once that "
                           "is mended"))
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
