"""Artifacts in a folder: published whole or not at all, verified, listed, and chosen by version or alias.

`<root>/<name>/versions/<version>/` never changes once it is there. `<root>/<name>/aliases.json` says which version is
`current` and which was before, and changes by rename. What starts with a dot is not finished and is passed over.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from app.errors import ArtifactError, UnknownModelError
from app.store.manifest import FORMAT_VERSION, File, Manifest, Name

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
ALIASES = "aliases.json"
_STAGING_PREFIX = ".staging-"
# A build takes minutes; what is older was left by one that was killed.
_STAGING_DAYS = 2
_NAME: TypeAdapter[str] = TypeAdapter(Name)


class Aliases(BaseModel):
    """`aliases.json`: the version that is served, and the one to go back to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    current: Name | None = None
    previous: Name | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One version in the store; `reason` says why it, or its aliases, can not be read."""

    name: str
    version: str
    aliases: tuple[str, ...]
    manifest: Manifest | None
    reason: str | None = None


class Registry:
    """The store in the folder `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str, version: str) -> Path:
        """Where that version is, or would be. Raises: UnknownModelError for what is no name."""
        for value in (name, version):
            if not _is_name(value):
                raise UnknownModelError(
                    f"{value!r} names no model or version: small letters, digits, '.', '_' and '-', at most 64"
                )
        return self.root / name / "versions" / version

    def resolve(self, name: str, version_or_alias: str = "current") -> tuple[Path, Manifest]:
        """The folder and the manifest of a version. Its files are not read: `verify` does that.

        Raises: UnknownModelError if there is none, ArtifactError if its manifest, or aliases.json, is damaged.
        """
        version = version_or_alias
        if version_or_alias in Aliases.model_fields:
            version = self._aliased(name, version_or_alias)
        folder = self.folder(name, version)
        if not folder.is_dir():
            raise UnknownModelError(f"{name}: no version {version!r}; {self._versions_there(name)}")
        manifest = read_manifest(folder)
        _check_identity(manifest, name, version)
        return folder, manifest

    @contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """A new folder to build a version of `name` in, on the file system of the store.

        It is gone when the context ends, unless `publish` has moved it into place.
        """
        versions = self.folder(name, "any").parent
        versions.mkdir(parents=True, exist_ok=True)
        _remove_old_staging(versions)
        folder = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=versions))
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # empty only where nothing was ever published
                versions.rmdir()
                versions.parent.rmdir()

    def publish(self, staging: Path) -> Path:
        """Verify the finished folder, write it through to the disk and move it into place -> where it is now.

        Raises: ArtifactError if it is damaged, made for another model, or if the version exists already.
        """
        manifest = self.verify(staging)
        target = self.folder(manifest.name, manifest.version)
        if staging.resolve().parent != target.parent.resolve():
            raise ArtifactError(
                f"{MANIFEST}: name {manifest.name!r} is not the model that {staging} was made for; "
                f"build it in a folder of staging({manifest.name!r})"
            )
        if manifest.version in Aliases.model_fields:
            raise ArtifactError(f"{MANIFEST}: version {manifest.version!r} is the name of an alias; choose another")
        _sync_tree(staging)
        try:
            staging.rename(target)  # fails where a version is, even one that came this very moment
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise ArtifactError(
                    f"{manifest.name}: version {manifest.version!r} exists already and never changes; "
                    "publish under another version"
                ) from error
            raise
        for folder in (target.parent, target.parent.parent, self.root):
            _sync(folder)
        logger.info("published", extra={"model": manifest.name, "version": manifest.version})
        return target

    def promote(self, name: str, version: str) -> None:
        """Make `version` current, and what was current previous. Raises: as `resolve` and `verify` do."""
        folder, _ = self.resolve(name, version)
        self.verify(folder)
        with self._locked(name):
            before = self._read_aliases(name)
            if folder.name != before.current:
                self._write_aliases(name, Aliases(current=folder.name, previous=before.current))

    def rollback(self, name: str) -> str:
        """Make the previous version current again, and the other way round -> the version that is current now.

        Raises: UnknownModelError if there is no previous one, ArtifactError if it is damaged.
        """
        self.resolve(name, "previous")
        with self._locked(name):
            before = self._read_aliases(name)
            folder, _ = self.resolve(name, "previous")
            self.verify(folder)
            self._write_aliases(name, Aliases(current=before.previous, previous=before.current))
        return folder.name

    @staticmethod
    def verify(folder: Path) -> Manifest:
        """Check every file of a version against its manifest: none missing, none besides, sizes and checksums equal.

        Raises: ArtifactError, which names the file.
        """
        manifest = read_manifest(folder)
        _check_references(manifest)
        found = _relative_files(folder)
        listed = set(manifest.files)
        for name in sorted(listed - found):
            raise ArtifactError(f"{name}: is missing, manifest lists it; publish the version again")
        for name in sorted(found - listed):
            raise ArtifactError(f"{name}: is not in the manifest; remove it, or publish the version again")
        for name, expected in sorted(manifest.files.items()):
            actual = _record(folder / name)
            if actual.bytes != expected.bytes:
                raise ArtifactError(
                    f"{name}: has {actual.bytes} bytes, manifest says {expected.bytes}; publish the version again"
                )
            if actual.sha256 != expected.sha256:
                raise ArtifactError(
                    f"{name}: sha256 starts {actual.sha256[:4]}, manifest says {expected.sha256[:4]}; "
                    "publish the version again"
                )
        return manifest

    def list(self) -> tuple[Entry, ...]:
        """Every version, by name and version; one that can not be read is there with the reason."""
        if not self.root.is_dir():
            return ()
        names = sorted(folder.name for folder in self.root.iterdir() if (folder / "versions").is_dir())
        return tuple(entry for name in names if _is_name(name) for entry in self._entries(name))

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """One process at a time reads and changes the aliases of `name`."""
        descriptor = os.open(self.root / name, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # gives the lock up too

    def _entries(self, name: str) -> Iterator[Entry]:
        problem, aliases = None, Aliases()
        try:
            aliases = self._read_aliases(name)
        except ArtifactError as error:
            problem = str(error)
        for version in self._versions(name):
            here = tuple(alias for alias, target in aliases if target == version)
            try:
                _, manifest = self.resolve(name, version)
            except (ArtifactError, UnknownModelError) as error:
                yield Entry(name, version, here, None, str(error))
            else:
                yield Entry(name, version, here, manifest, problem)

    def _versions(self, name: str) -> Iterator[str]:
        versions = self.root / name / "versions"
        if versions.is_dir():
            yield from sorted(path.name for path in versions.iterdir() if not path.name.startswith("."))

    def _versions_there(self, name: str) -> str:
        versions = ", ".join(self._versions(name))
        return f"there are: {versions}" if versions else f"the store {self.root} has no versions of it"

    def _aliased(self, name: str, alias: str) -> str:
        version: str | None = getattr(self._read_aliases(name), alias)
        if version is None:
            there = self._versions_there(name)
            raise UnknownModelError(f"{name}: no version is {alias}; {there}; `seq2serve promote {name} VERSION`")
        return version

    def _aliases_path(self, name: str) -> Path:
        return self.folder(name, "any").parent.parent / ALIASES

    def _read_aliases(self, name: str) -> Aliases:
        path = self._aliases_path(name)
        try:
            return Aliases.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return Aliases()
        except (OSError, ValidationError) as error:
            raise ArtifactError(f"{name}/{ALIASES}: {_reason(error)}; delete it and promote a version") from error

    def _write_aliases(self, name: str, aliases: Aliases) -> None:
        path = self._aliases_path(name)
        descriptor, temporary = tempfile.mkstemp(prefix=".aliases-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(aliases.model_dump_json(indent=2) + "\n")
                file.flush()
                os.fchmod(descriptor, 0o644)
                os.fsync(descriptor)
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        _sync(path.parent)
        logger.info("promoted", extra={"model": name, "version": aliases.current, "previous": aliases.previous})


def read_manifest(folder: Path) -> Manifest:
    """`manifest.json` of a version. Raises: ArtifactError if it is missing, of another format or wrong."""
    path = folder / MANIFEST
    try:
        if path.is_symlink():
            raise ArtifactError(f"{MANIFEST}: is a symbolic link, which is refused; publish the version again")
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{folder.name}: has no {MANIFEST}, so it was not copied whole; publish the version again"
        ) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{MANIFEST}: {_reason(error)}; publish the version again") from error
    found = content.get("format_version") if isinstance(content, dict) else None
    if found != FORMAT_VERSION:
        raise ArtifactError(
            f"{MANIFEST}: format_version is {found!r}, this program reads {FORMAT_VERSION}; "
            "publish the version with this program, or update the program"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise ArtifactError(f"{MANIFEST}: {_reason(error)}; publish the version again") from error


def describe_files(folder: Path) -> dict[str, File]:
    """What belongs into `files` of the manifest of this folder: every file but the manifest itself."""
    return {name: _record(folder / name) for name in sorted(_relative_files(folder))}


def _remove_old_staging(versions: Path) -> None:
    oldest = time.time() - _STAGING_DAYS * 24 * 3600
    for folder in versions.glob(f"{_STAGING_PREFIX}*"):
        with suppress(FileNotFoundError):
            if folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)


def _check_references(manifest: Manifest) -> None:
    """Every file that the manifest names lies in the folder and has a checksum."""
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or str(path) != name or name == MANIFEST or "\\" in name:
            raise ArtifactError(f"{MANIFEST}: {name!r} is no file inside the folder; publish the version again")
    graphs = [file for variant in manifest.variants.values() for file in variant.graphs]
    for name in [manifest.tokenizer.file, *graphs]:
        if name not in manifest.files:
            raise ArtifactError(f"{name}: is in use, but has no checksum in the manifest; publish the version again")


def _check_identity(manifest: Manifest, name: str, version: str) -> None:
    if (manifest.name, manifest.version) != (name, version):
        raise ArtifactError(
            f"{MANIFEST}: is of {manifest.name} {manifest.version}, its folder of {name} {version}; "
            "publish the version again"
        )


def _relative_files(folder: Path) -> set[str]:
    """Every file but the manifest, by its path from the folder. Raises: ArtifactError for anything but plain files."""
    found = set()
    for path in folder.rglob("*"):
        name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
        if stat.S_ISREG(mode):
            found.add(name)
        elif not stat.S_ISDIR(mode):
            raise ArtifactError(f"{name}: is a link or a special file, which is refused; put the file itself there")
    return found - {MANIFEST}


def _record(path: Path) -> File:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return File(sha256=digest, bytes=file.tell())


def _is_name(value: str) -> bool:
    try:
        _NAME.validate_python(value)
    except ValidationError:
        return False
    return True


def _reason(error: Exception) -> str:
    """What is wrong, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return f"{place}: {first['msg']}" if place else first["msg"]
    return f"not readable ({error})"


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    """Have the file, or the entries of the folder, written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
