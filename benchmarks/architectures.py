"""Question: what does each architecture score, and how many tokens a second does the service give with it?

For every model of --store named: the score and the parity that its export measured, and target tokens a second of the
real service, two cores, int8, its own search, the 1,000 lines of Multi30k's test_2016 in lists of 32 from 8 clients.

    SEQ2SERVE_DATA=... python -m benchmarks.architectures --store STORE multi30k-en-de rnn-multi30k-en-de
"""

import argparse
import gzip
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from app.store.registry import Registry
from benchmarks.client import translate_lines
from benchmarks.record import machine, make_console, write_result
from benchmarks.server import serve_command, started_server
from benchmarks.subjects import data_folder

LINES = "translation/multi30k/test_2016_flickr.en.gz"
ROUNDS = 3


def served(name: str, store: Path, lines: list[str]) -> list[float]:
    """Target tokens a second, a round each, of a service that has only this model."""
    folder, manifest = Registry(store).resolve(name)
    with tempfile.TemporaryDirectory() as alone:
        root = Path(alone) / name
        root.mkdir()
        (root / "versions").symlink_to(folder.parent)
        (root / "aliases.json").write_text((store / name / "aliases.json").read_text("utf-8"), "utf-8")
        environment = {"SEQ2SERVE_MODEL_STORE": alone, "SEQ2SERVE_LOG_LEVEL": "warning"}
        with started_server(serve_command(), 60.0, environment=environment) as server:
            source, target = manifest.directions[0]
            rates = [_rate(server.url, {"source": source, "target": target}, lines) for _ in range(ROUNDS + 1)]
    return rates[1:]


def _rate(url: str, options: dict[str, Any], lines: list[str]) -> float:
    began = time.perf_counter()
    _, num_tokens = translate_lines(url, options, lines)
    return num_tokens / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="promoted models of the store")
    parser.add_argument("--store", type=Path, required=True)
    arguments = parser.parse_args()
    console, at_start = make_console(), machine()
    lines = gzip.decompress((data_folder() / LINES).read_bytes()).decode().splitlines()
    table = Table("model", "parameters", "BLEU", "same ids on", "tokens/s", title="Architectures on Multi30k en-de")
    records: list[dict[str, Any]] = []
    for name in arguments.models:
        folder, manifest = Registry(arguments.store).resolve(name)
        evaluation = json.loads((folder / "evaluation.json").read_text("utf-8"))
        [test] = [one for one in evaluation["test"]["int8"] if one["set"] == "test_2016_flickr"]
        bleu = next(score["value"] for score in test["scores"] if score["name"] == "BLEU")
        rates, parity = served(name, arguments.store, lines), evaluation["export"]["parity"]
        record = {
            "model": name,
            "architecture": manifest.architecture,
            "parameters": manifest.num_parameters,
            "bleu": round(bleu, 2),
            "parity": parity,
            "tokens_per_s": [round(rate, 1) for rate in rates],
        }
        records.append(record)
        same = f"{parity['num_sources']} sources"
        table.add_row(name, f"{manifest.num_parameters:,}", f"{bleu:.1f}", same, f"{statistics.median(rates):,.0f}")
    console.print(table)
    content = {"question": "score and served tokens a second of every architecture", "machine_at_start": at_start}
    path = write_result("architectures", content | {"models": records})
    console.print(f"written: {path.name}")


if __name__ == "__main__":
    main()
