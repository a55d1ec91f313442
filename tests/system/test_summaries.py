"""Summaries by a real server: a long document among short ones, and nothing of it in the log."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.system.conftest import StartServer


def test_a_long_document_does_not_hold_up_others(
    start_server: StartServer, tiny_summarizer_store: Path, sentence_pairs: list[tuple[str, str]]
) -> None:
    server = start_server(MODEL_STORE=str(tiny_summarizer_store), LOG_LEVEL="debug")
    sentences = [source for source, _ in sentence_pairs]
    pages = "\n\n".join(" ".join(["Canarytext.", *sentences[:40]]) for _ in range(20))
    short = " ".join(sentences[:2])

    def ask(text: str) -> dict[str, object]:
        answer = server.client.post("/summarize", json={"text": text})
        assert answer.status_code == 200, answer.text
        content: dict[str, object] = answer.json()
        return content

    with ThreadPoolExecutor(9) as threads:
        long = threads.submit(ask, pages)
        others = list(threads.map(ask, [short] * 24))
        answer = long.result()
    assert isinstance(answer["parts"], int) and answer["parts"] > 20 and answer["summary"]
    assert all(other == others[0] for other in others)
    assert server.metric("seq2serve_http_requests_total", route="/summarize", code="200") == 25
    assert server.metric("seq2serve_requests_in_progress") == 0
    assert "anarytext" not in server.log()
    assert server.client.get("/models").json()[0]["task"] == "summarize"
