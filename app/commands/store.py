"""`seq2serve models` and `seq2serve verify`: what the store holds, and whether it is whole; and what has come to it."""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from app.errors import AppError
from app.store.registry import Registry


def list_models(store: Path, console: Console) -> None:
    """A table of every version in the store."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("model", "version", "alias"):
        table.add_column(heading, no_wrap=True)  # what other commands are given
    for heading in ("architecture", "size", "directions", "variants"):
        table.add_column(heading, overflow="fold")
    for entry in Registry(store).list():
        manifest = entry.manifest
        if manifest is None:
            table.add_row(entry.name, entry.version, ", ".join(entry.aliases), f"[red]unreadable: {entry.reason}[/]")
            continue
        table.add_row(
            entry.name,
            entry.version,
            ", ".join(entry.aliases),
            f"{manifest.architecture}, {manifest.task}",
            f"{manifest.num_parameters / 1e6:.1f} M",
            ", ".join(f"{source}-{target}" for source, target in manifest.directions),
            ", ".join(sorted(manifest.variants)),
        )
    console.print(table)


def verify_models(store: Path, console: Console) -> bool:
    """Check every version; True if all are whole."""
    registry = Registry(store)
    are_whole = True
    for entry in registry.list():
        try:
            registry.verify(registry.folder(entry.name, entry.version))
            console.print(f"{entry.name} {entry.version}: whole")
        except AppError as error:
            are_whole = False
            console.print(f"{entry.name} {entry.version}: {error}", style="red", markup=False)
    return are_whole


def tell_published(name: str, version: str, console: Console) -> None:
    """What is there now, and how it comes to answer."""
    console.print(
        f"published {name} {version}; it answers after: seq2serve promote {name} {version}",
        highlight=False,
        soft_wrap=True,
    )
