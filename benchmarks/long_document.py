"""Question: does a long document come through whole, in how much time and memory?

Documents of growing length, of abstracts one after the other (500 words are a page), are summarized by the real
service: into how many parts they were cut, whether anything was left out, seconds, and resident memory at the most.

    SEQ2SERVE_DATA=... python -m benchmarks.long_document
"""

import argparse
import gzip
import json

import httpx
from rich.table import Table

from benchmarks.record import machine, make_console, write_result
from benchmarks.server import serve_command, started_server
from benchmarks.subjects import data_folder

DOCUMENTS = "summarization/paper_titles/test.jsonl.gz"
WORDS_A_PAGE = 500
PAGES = (1, 5, 20, 50)


def document(words: list[str], pages: int) -> str:
    return " ".join(words[: pages * WORDS_A_PAGE])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    console, at_start = make_console(), machine()
    lines = gzip.decompress((data_folder() / DOCUMENTS).read_bytes()).decode().splitlines()
    words = [word for line in lines for word in json.loads(line)["document"].split()]
    table = Table("pages", "words", "parts", "truncated", "seconds", "resident MB", "summary", title="Long documents")
    records = []
    environment = {"SEQ2SERVE_LOG_LEVEL": "warning", "SEQ2SERVE_REQUEST_TIMEOUT_S": "600"}
    with started_server(serve_command(), 60.0, environment=environment) as server:
        for pages in PAGES:
            text = document(words, pages)
            response = httpx.post(f"{server.url}/summarize", json={"text": text}, timeout=600.0)
            answer = response.json()
            assert response.status_code == 200, answer
            record = {
                "pages": pages,
                "words": len(text.split()),
                "parts": answer["parts"],
                "truncated": answer["truncated"],
                "warnings": answer["warnings"],
                "seconds": round(response.elapsed.total_seconds(), 2),
                "resident_mb_at_most": server.memory_mb("VmHWM"),
                "summary": answer["summary"],
            }
            records.append(record)
            table.add_row(*(str(value) for name, value in record.items() if name != "warnings"))
    console.print(table)
    content = {"question": "time, parts and memory of long documents", "machine_at_start": at_start}
    path = write_result("long_document", content | {"documents": records})
    console.print(f"written: {path.name}")


if __name__ == "__main__":
    main()
