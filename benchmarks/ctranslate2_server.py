"""The server that people write around CTranslate2: FastAPI, and `translate_batch` for every request.

Several one-thread workers (inter_threads), the best setting for throughput; requests are not batched with each other.
"""

import argparse
import os
from pathlib import Path

import fastapi
import uvicorn
from pydantic import BaseModel

from app.text.tokenizer import EOS_ID, SentencePieceTokenizer, language_token
from benchmarks import ctranslate2_model


class Request(BaseModel):
    q: str
    source: str
    target: str
    beam_size: int = 4


def build(model: Path, tokenizer_file: Path) -> fastapi.FastAPI:
    translator = ctranslate2_model.load(model, "int8", inter_threads=len(os.sched_getaffinity(0)), intra_threads=1)
    tokenizer = SentencePieceTokenizer(tokenizer_file)
    app = fastapi.FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/translate")
    def translate(request: Request) -> dict[str, str]:
        ids = [tokenizer.id_of(language_token(request.target)), *tokenizer.encode(request.q).tolist(), EOS_ID]
        tokens = [ctranslate2_model.token(number) for number in ids]
        [result] = translator.translate_batch([tokens], beam_size=request.beam_size, length_penalty=1.0)
        return {"translatedText": tokenizer.decode([int(piece) for piece in result.hypotheses[0]])}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    app = build(arguments.model, arguments.tokenizer)
    uvicorn.run(app, port=arguments.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
