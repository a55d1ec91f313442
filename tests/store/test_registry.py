"""Publication is all or nothing, damage is named, and aliases are the only thing that changes."""

import json
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.errors import ArtifactError, UnknownModelError
from app.store.manifest import Manifest, StateTensor, Tokenizer, Variant
from app.store.registry import Aliases, Registry, describe_files

FILES = {"fp32/encode.onnx": b"encode graph", "fp32/step.onnx": b"step graph", "tokenizer/tokenizer.model": b"pieces"}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "store")


def fill(folder: Path, name: str = "en-de", version: str = "1", **changes: Any) -> None:
    """A version whose files are whole, though no model."""
    for file, content in FILES.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    state = [StateTensor(name="memory", kind="memory", dtype="float32", shape=[-1, 8], length_axis=1)]
    manifest = Manifest(
        name=name,
        version=version,
        task="translate",
        architecture="transformer",
        num_parameters=100,
        created_at=datetime(2026, 11, 23, tzinfo=UTC),
        created_by={"seq2serve": "0.1"},
        vocabulary_size=100,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        max_source_length=50,
        max_target_length=60,
        tokenizer=Tokenizer(),
        variants={"fp32": Variant(encode="fp32/encode.onnx", step="fp32/step.onnx", state=state)},
        files=describe_files(folder),
    )
    content = manifest.model_dump(mode="json") | changes
    (folder / "manifest.json").write_text(json.dumps(content))


def publish(registry: Registry, version: str = "1", name: str = "en-de") -> Path:
    with registry.staging(name) as staging:
        fill(staging, name, version)
        return registry.publish(staging)


def test_a_published_version_is_whole_and_resolves(registry: Registry) -> None:
    folder = publish(registry)
    found, manifest = registry.resolve("en-de", "1")
    assert found == folder == registry.root / "en-de" / "versions" / "1"
    assert registry.verify(found) == manifest
    assert (folder / "fp32" / "step.onnx").read_bytes() == FILES["fp32/step.onnx"]
    assert os.listdir(folder.parent) == ["1"]


def test_a_published_folder_is_readable_by_other_users(registry: Registry) -> None:
    assert publish(registry).stat().st_mode & 0o055 == 0o055


def test_a_flipped_byte_is_named_with_both_checksums(registry: Registry) -> None:
    folder = publish(registry)
    (folder / "fp32" / "step.onnx").write_bytes(b"step grapH")
    message = r"fp32/step.onnx: sha256 starts [0-9a-f]{4}, manifest says [0-9a-f]{4}; publish the version again"
    with pytest.raises(ArtifactError, match=message):
        registry.verify(folder)


def test_a_truncated_file_is_named_with_both_sizes(registry: Registry) -> None:
    folder = publish(registry)
    (folder / "fp32" / "step.onnx").write_bytes(b"step")
    with pytest.raises(ArtifactError, match="fp32/step.onnx: has 4 bytes, manifest says 10"):
        registry.verify(folder)


def test_a_missing_file_is_named(registry: Registry) -> None:
    folder = publish(registry)
    (folder / "tokenizer" / "tokenizer.model").unlink()
    with pytest.raises(ArtifactError, match="tokenizer/tokenizer.model: is missing"):
        registry.verify(folder)


def test_a_file_that_nobody_listed_is_refused(registry: Registry) -> None:
    folder = publish(registry)
    (folder / "fp32" / "weights.bin").write_bytes(b"?")
    with pytest.raises(ArtifactError, match="fp32/weights.bin: is not in the manifest"):
        registry.verify(folder)


@pytest.mark.parametrize("link", ["fp32/step.onnx", "fp32", "manifest.json"])
def test_symbolic_links_are_refused(registry: Registry, tmp_path: Path, link: str) -> None:
    folder = publish(registry)
    (folder / link).rename(tmp_path / "elsewhere")
    (folder / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=rf"{link}: is a (symbolic )?link"):
        registry.verify(folder)


def test_a_folder_without_manifest_was_not_copied_whole(registry: Registry) -> None:
    folder = publish(registry)
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="has no manifest.json, so it was not copied whole"):
        registry.resolve("en-de", "1")


def test_half_a_manifest_is_refused(registry: Registry) -> None:
    folder = publish(registry)
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="manifest.json: not readable"):
        registry.resolve("en-de", "1")


@pytest.mark.parametrize("found", [2, None, "1"])
def test_another_format_says_what_this_program_reads(registry: Registry, found: object) -> None:
    with registry.staging("en-de") as staging:
        fill(staging, format_version=found)
        with pytest.raises(ArtifactError, match=rf"format_version is {found!r}, this program reads 1"):
            registry.publish(staging)


def test_a_wrong_field_is_named(registry: Registry) -> None:
    with registry.staging("en-de") as staging:
        fill(staging, max_target_length=0)
        with pytest.raises(ArtifactError, match="manifest.json: max_target_length: "):
            registry.publish(staging)


@pytest.mark.parametrize(
    "path", ["../../../aliases.json", "/etc/passwd", "fp32/../x", "fp32//x", "manifest.json", ".."]
)
def test_files_outside_the_folder_are_refused(registry: Registry, path: str) -> None:
    with registry.staging("en-de") as staging:
        fill(staging, files={path: {"sha256": "0" * 64, "bytes": 1}})
        with pytest.raises(ArtifactError, match="is no file inside the folder"):
            registry.publish(staging)


def test_a_graph_without_checksum_is_refused(registry: Registry) -> None:
    with registry.staging("en-de") as staging:
        fill(staging, variants={"fp32": {"encode": "fp32/encode.onnx", "step": "/tmp/step.onnx", "state": []}})
        with pytest.raises(ArtifactError, match="/tmp/step.onnx: is in use, but has no checksum"):
            registry.publish(staging)


def test_a_shortlist_without_checksum_is_refused(registry: Registry) -> None:
    graphs = {"encode": "fp32/encode.onnx", "step": "fp32/step.onnx", "shortlist": "../shortlist.onnx", "state": []}
    with registry.staging("en-de") as staging:
        fill(staging, variants={"int8-fast": graphs})
        with pytest.raises(ArtifactError, match="../shortlist.onnx: is in use, but has no checksum"):
            registry.publish(staging)


def test_a_version_is_never_replaced(registry: Registry) -> None:
    folder = publish(registry)
    before = folder.stat().st_ino
    with pytest.raises(ArtifactError, match="version '1' exists already"):
        publish(registry)
    assert folder.stat().st_ino == before
    assert os.listdir(folder.parent) == ["1"]


def test_a_failed_publication_leaves_nothing_behind(registry: Registry) -> None:
    with registry.staging("en-de") as staging:
        fill(staging)
        (staging / "fp32" / "step.onnx").unlink()
        with pytest.raises(ArtifactError):
            registry.publish(staging)
    assert list(registry.root.rglob("*")) == []


def test_a_name_that_is_not_the_folders_is_refused(registry: Registry) -> None:
    with registry.staging("de-en") as staging:
        fill(staging, name="en-de")
        with pytest.raises(ArtifactError, match="name 'en-de' is not the model"):
            registry.publish(staging)


def test_a_renamed_folder_is_refused(registry: Registry) -> None:
    folder = publish(registry)
    folder.rename(folder.with_name("2"))
    with pytest.raises(ArtifactError, match="is of en-de 1, its folder of en-de 2"):
        registry.resolve("en-de", "2")


def test_a_version_cannot_be_called_like_an_alias(registry: Registry) -> None:
    with pytest.raises(ArtifactError, match="'current' is the name of an alias"):
        publish(registry, version="current")


def test_of_two_that_publish_the_same_version_one_wins(registry: Registry) -> None:
    ready, outcomes = threading.Barrier(4), []

    def run() -> None:
        with registry.staging("en-de") as staging:
            fill(staging)
            ready.wait()
            try:
                registry.publish(staging)
                outcomes.append("published")
            except ArtifactError:
                outcomes.append("refused")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["published", "refused", "refused", "refused"]
    registry.verify(registry.folder("en-de", "1"))
    assert [entry.version for entry in registry.list()] == ["1"]


def test_what_a_crash_left_half_done_is_not_listed(registry: Registry) -> None:
    folder = publish(registry)
    left = folder.parent / ".staging-left"
    left.mkdir()
    fill(left)
    (folder.parent.parent / ".aliases-left").write_text("{")
    assert [(entry.version, entry.reason) for entry in registry.list()] == [("1", None)]


def test_what_a_crash_left_long_ago_is_removed_by_the_next_build(registry: Registry) -> None:
    versions = publish(registry).parent
    for name, age_days in ((".staging-old", 3), (".staging-running", 1)):
        fill(versions / name)
        os.utime(versions / name, (time.time() - age_days * 86_400,) * 2)
    publish(registry, version="2")
    assert {path.name for path in versions.iterdir()} == {".staging-running", "1", "2"}


def test_promotions_at_the_same_time_follow_one_another(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = [str(number) for number in range(4)]
    for version in versions:
        publish(registry, version)
    written: list[Aliases] = []
    write = Registry._write_aliases

    def slowly(self: Registry, name: str, aliases: Aliases) -> None:
        time.sleep(0.02)
        written.append(aliases)
        write(self, name, aliases)

    monkeypatch.setattr(Registry, "_write_aliases", slowly)
    threads = [threading.Thread(target=registry.promote, args=("en-de", version)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.previous for one in written] == [None, *(one.current for one in written[:-1])]


def test_list_shows_a_broken_version_beside_the_others(registry: Registry) -> None:
    publish(registry, "1")
    broken = publish(registry, "2")
    publish(registry, "1", name="de-en")
    registry.promote("en-de", "2")
    (broken / "manifest.json").write_text("{}")
    entries = registry.list()
    assert [(entry.name, entry.version, entry.aliases, entry.manifest is None) for entry in entries] == [
        ("de-en", "1", (), False),
        ("en-de", "1", (), False),
        ("en-de", "2", ("current",), True),
    ]
    assert "format_version" in str(entries[2].reason)


def test_broken_aliases_do_not_hide_the_versions(registry: Registry) -> None:
    publish(registry)
    aliases = registry.root / "en-de" / "aliases.json"
    aliases.write_text('{"current": 1}')
    (entry,) = registry.list()
    assert entry.manifest is not None
    assert str(entry.reason).startswith("en-de/aliases.json: current")
    with pytest.raises(ArtifactError, match="delete it and promote a version"):
        registry.resolve("en-de")


def test_an_empty_or_missing_store_lists_nothing(registry: Registry) -> None:
    assert registry.list() == ()


def test_a_lone_version_is_not_current_until_promoted(registry: Registry) -> None:
    publish(registry)
    with pytest.raises(
        UnknownModelError, match="no version is current; there are: 1; `seq2serve promote en-de VERSION`"
    ):
        registry.resolve("en-de")
    registry.promote("en-de", "1")
    assert registry.resolve("en-de")[0].name == "1"


def test_promote_keeps_what_was_current_as_previous(registry: Registry) -> None:
    for version in ("1", "2", "3"):
        publish(registry, version)
        registry.promote("en-de", version)
    assert json.loads((registry.root / "en-de" / "aliases.json").read_text()) == {"current": "3", "previous": "2"}
    registry.promote("en-de", "3")
    assert registry.resolve("en-de", "previous")[0].name == "2"


def test_rollback_goes_back_and_forth(registry: Registry) -> None:
    for version in ("1", "2"):
        publish(registry, version)
        registry.promote("en-de", version)
    assert registry.rollback("en-de") == "1"
    assert registry.resolve("en-de")[0].name == "1"
    assert registry.rollback("en-de") == "2"


def test_rollback_without_a_previous_version_says_so(registry: Registry) -> None:
    publish(registry)
    registry.promote("en-de", "1")
    with pytest.raises(UnknownModelError, match="no version is previous"):
        registry.rollback("en-de")


def test_a_damaged_version_cannot_be_promoted_or_rolled_back_to(registry: Registry) -> None:
    first = publish(registry, "1")
    publish(registry, "2")
    registry.promote("en-de", "1")
    registry.promote("en-de", "2")
    (first / "fp32" / "step.onnx").write_bytes(b"x")
    with pytest.raises(ArtifactError):
        registry.rollback("en-de")
    with pytest.raises(ArtifactError):
        registry.promote("en-de", "1")
    assert registry.resolve("en-de")[0].name == "2"


@pytest.mark.parametrize("name", ["../en-de", "en-de/versions", "", ".hidden", "EN-DE", "en-de\n", "a" * 65])
def test_what_is_no_name_never_becomes_a_path(registry: Registry, name: str) -> None:
    publish(registry)
    for arguments in ((name, "1"), ("en-de", name), (name, "current")):
        with pytest.raises(UnknownModelError, match="names no model or version"):
            registry.resolve(*arguments)


def test_an_unknown_version_says_which_there_are(registry: Registry) -> None:
    publish(registry)
    with pytest.raises(UnknownModelError, match="no version '7'; there are: 1"):
        registry.resolve("en-de", "7")
    with pytest.raises(UnknownModelError, match="has no versions of it"):
        registry.resolve("fr-en", "7")
