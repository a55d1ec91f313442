"""LibreTranslate as it is, but for two things; run by the Python that LibreTranslate is installed for.

Its sentence splitter would load a model from the internet: here a text is one sentence, which spares it that work.
Our model reads the piece of the target language first: the tokenizer of a package puts it there.
"""

from argostranslate import tokenizer, translate
from libretranslate.main import main


class OneSentence:
    def __init__(self, package: object) -> None:
        pass

    def split_sentences(self, text: str) -> list[str]:
        return [text]


class Tokenizer(tokenizer.SentencePieceTokenizer):
    def encode(self, sentence: str) -> list[str]:
        target = self.model_file.parent.name.rpartition("_")[2]  # translate-en_de
        return [f"<2{target}>", *super().encode(sentence)]


if __name__ == "__main__":
    translate.MiniSBDSentencizer = OneSentence
    translate.package.SentencePieceTokenizer = Tokenizer
    main()
