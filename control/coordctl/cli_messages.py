"""`coordctl import` and `coordctl export`: the old file tool's tree in and out."""

from __future__ import annotations

from pathlib import Path

import click

from coordctl.cli_options import site_of, site_option, yes_option
from coordctl.errors import CoordctlError
from coordctl.output import confirm, note, progress, say

_path = click.argument("path", type=click.Path(path_type=Path))


@click.command("import")
@site_option
@_path
@yes_option
@click.option("--allow-rejects", is_flag=True, help="Exit 0 even if something was rejected.")
@click.pass_context
def import_(context: click.Context, path: Path, *, yes: bool, allow_rejects: bool) -> None:
    """Read the old file tool's messages from PATH.

    PATH is the folder that holds inbox/ and events.log. It is only read. What
    can't be taken as it stands is listed with its place and reason in a file in
    the current folder. A repeat skips what the server has.
    """
    from coordctl import legacy_import
    from coordctl.api import Api
    from coordctl.legacy_folder import OldFolder
    from coordctl.legacy_tree import OldTree
    from coordctl.runs import Run

    site = site_of(context)
    run = Run(site.folder, "import")
    rejects_file = Path.cwd() / f"coordctl-import-rejects-{run.id}.jsonl"
    with OldFolder(path) as folder, Api(site.url, site.token(), site.authority) as api:
        if why := api.ready():
            raise CoordctlError(f"the server at {site.url} is not ready: {why}",
                                mend="coordctl up")
        rejects = legacy_import.RejectsFile(rejects_file)
        with progress() as bar, rejects:
            task = bar.add_task(f"Reading {path.name or path}", total=None)
            found = legacy_import.survey(OldTree(folder), rejects, lambda: bar.advance(task))
            bar.update(task, total=bar.tasks[0].completed)
        kinds = found.kinds
        note(f"{path} → {site.url}")
        note(f"  {kinds['sent']:>9,} messages, {kinds['deleted']:,} of them deleted since"
             f" and {kinds['read']:,} read")
        if found.repeats:
            note(f"  {found.repeats:>9,} lines that repeat an earlier READ or DELETED: left out")
        note(f"  {rejects.count:>9,} rejects"
             + (f", {rejects.count - rejects.lost:,} of them imported nevertheless"
                if rejects.count else ""))
        if rejects.count:
            note(f"Rejects: {rejects_file.name}")
        confirm("Import them?", yes=yes)
        run.log(f"{path.resolve()}: {found.changes} changes, {rejects.count} rejects")
        # The tree is read again, not held; the rejects are those of what was really sent.
        rejects = legacy_import.RejectsFile(rejects_file)
        with progress() as bar, rejects:
            task = bar.add_task("Importing", total=found.changes)
            applied, skipped = legacy_import.send(OldTree(folder), api, rejects,
                                                  lambda n: bar.advance(task, n))
    run.log(f"{applied} new, {skipped} there before, {rejects.count} rejects")
    say(f"{applied:,} new, {skipped:,} there before, {rejects.count:,} rejects"
        f" (run {run.id}).")
    if rejects.count and not allow_rejects:
        raise CoordctlError(f"{rejects.count:,} rejects, {rejects.lost:,} of them not imported; "
                            "all else is",
                            mend=f"less {rejects_file.name}")


@click.command()
@site_option
@_path
@yes_option
@click.pass_context
def export(context: click.Context, path: Path, *, yes: bool) -> None:
    """Write all messages to PATH as the old file tool's tree.

    PATH must be absent or empty: it is there whole at the end, or not at all.
    """
    from coordctl import legacy_export
    from coordctl.api import Api
    from coordctl.runs import Run

    site = site_of(context)
    run = Run(site.folder, "export")
    target = legacy_export.Target(path, run.id)
    with Api(site.url, site.token(), site.authority) as api:
        with progress() as bar:
            task = bar.add_task("Counting", total=None)

            def step(last: int) -> None:
                bar.update(task, total=last, advance=1)

            losses = legacy_export.count(api.feed(), step)
            changes = int(bar.tasks[0].completed)
            bar.update(task, total=changes)
        note(f"{site.url} → {target.path}")
        note(f"  {losses.messages - losses.gone:>9,} messages, and the events of all")
        for line in losses.lines():
            note(f"  {line}")
        confirm("Write them?", yes=yes)
        run.log(f"{target.path}: {losses.messages - losses.gone} messages")
        with progress() as bar, target:
            task = bar.add_task("Writing", total=changes)
            files = target.write(api.feed(), lambda _: bar.advance(task))
    run.log(f"{files} files")
    say(f"{files:,} messages in {target.path} (run {run.id}).")
