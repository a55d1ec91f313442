"""Which public model a folder holds, and who reads it."""

from pathlib import Path

from app.errors import CheckpointError
from app.pretrained import whisper
from app.pretrained.huggingface import download, read_json

_READ = "a folder of Whisper as CTranslate2 (model.bin) or transformers (config.json, model.safetensors) keep it"


def read_pretrained(reference: str) -> whisper.Imported:
    """The model in a folder, or under a name on the Hugging Face Hub. Raises: CheckpointError."""
    folder = Path(reference)
    if not folder.is_dir():
        if not _is_hub_name(reference):
            raise CheckpointError(f"{reference}: no such folder; give {_READ}, or a name as openai/whisper-small")
        folder = download(reference)
    if (folder / "model.bin").exists():
        return whisper.read_ctranslate2(folder)
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder}: holds neither model.bin nor config.json; give {_READ}")
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "whisper":
        raise CheckpointError(f"{folder / 'config.json'}: model_type {kind!r} is not read yet; give {_READ}")
    return whisper.read_huggingface(folder)


def _is_hub_name(reference: str) -> bool:
    """`owner/name`, and nothing that looks like a path."""
    return reference.count("/") == 1 and not reference.startswith((".", "/", "~")) and not reference.endswith("/")
