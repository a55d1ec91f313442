"""`seq2serve transcribe`: files beside their recordings, and one bad file that stops nothing."""

import json
from pathlib import Path

import pytest
import srt
from typer.testing import CliRunner

from app.cli import app
from app.errors import AppError, InputError
from tests.audio.recordings import encoded, speech_like


def run(store: Path, *arguments: str, sent: bytes | None = None) -> str:
    options = ["--store", str(store), "--language", "en", "--variant", "fp32", "--threads", "1"]
    result = CliRunner().invoke(app, ["transcribe", *arguments, *options], input=sent, catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture
def recordings(tmp_path: Path, talk: bytes) -> Path:
    """A folder of two recordings and something else."""
    folder = tmp_path / "talks"
    (folder / "old").mkdir(parents=True)
    (folder / "one.wav").write_bytes(talk)
    (folder / "old" / "two.MP3").write_bytes(encoded(speech_like(0.8, seed=1), "mp3", "mp3").getvalue())
    (folder / "notes.txt").write_text("not a recording")
    return folder


def test_every_format_is_written_beside_its_recording(tiny_whisper_store: Path, recordings: Path) -> None:
    run(tiny_whisper_store, str(recordings), *(f"--format={form}" for form in ("srt", "vtt", "json", "txt")))
    written = {path.relative_to(recordings).as_posix() for path in recordings.rglob("*.*")}
    others = {f"{name}.{form}" for name in ("one", "old/two") for form in ("srt", "vtt", "json", "txt")}
    assert written == others | {"one.wav", "old/two.MP3", "notes.txt"}
    transcript = json.loads((recordings / "one.json").read_text("utf-8"))
    assert transcript["duration_s"] == 1.5
    assert (recordings / "one.txt").read_text("utf-8") == transcript["text"] + "\n" != "\n"
    said = [" ".join(segment["text"].split()) for segment in transcript["segments"]]
    assert [cue.content for cue in srt.parse((recordings / "one.srt").read_text("utf-8"))] == [s for s in said if s]
    assert (recordings / "old" / "two.vtt").read_text("utf-8").startswith("WEBVTT\n")


def test_into_a_folder_to_standard_output_and_from_standard_input(
    tiny_whisper_store: Path, recordings: Path, tmp_path: Path
) -> None:
    one = recordings / "one.wav"
    run(tiny_whisper_store, str(one), "--output", str(tmp_path / "new" / "texts"))
    text = (tmp_path / "new" / "texts" / "one.txt").read_text("utf-8")
    assert run(tiny_whisper_store, str(one), "--stdout") == text
    assert run(tiny_whisper_store, "-", sent=one.read_bytes()) == text
    assert not (recordings / "one.txt").exists()


def test_a_bad_file_is_named_and_the_others_go_on(
    tiny_whisper_store: Path, recordings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(recordings / name) for name in ("notes.txt", "missing.wav", "one.wav")]
    with pytest.raises(InputError, match="2 of 3 recordings could not be transcribed"):
        run(tiny_whisper_store, *arguments, "--output", str(recordings / "out"))
    assert [path.name for path in (recordings / "out").iterdir()] == ["one.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{talks}/one.wav", "--format", "doc"], "there is no format 'doc'; there is txt, srt, vtt, json"),
        (["{talks}/one.wav", "{talks}/one.flac"], "would be written to the same files"),
        (["{empty}"], "the folder holds no recording"),
        (["{talks}/one.wav", "--model", "other"], "other"),
        (["{talks}/one.wav", "--language", "xx"], "no current model"),
    ],
)
def test_what_can_not_be_is_told_at_once(
    tiny_whisper_store: Path, recordings: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    given = [argument.format(talks=recordings, empty=tmp_path / "empty") for argument in arguments]
    with pytest.raises(AppError, match=message):
        options = ["--store", str(tiny_whisper_store)]
        CliRunner().invoke(app, ["transcribe", *given, *options], catch_exceptions=False)
    assert not list(recordings.glob("*.txt*"))[1:]


def test_help_has_an_example() -> None:
    shown = CliRunner().invoke(app, ["transcribe", "--help"]).stdout
    assert "Example: seq2serve transcribe" in shown
