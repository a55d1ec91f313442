import pytest

from app.tasks.faults import faults

DOCUMENT = "We train a model on many papers and show that it writes good titles for most of them in one step."


@pytest.mark.parametrize(
    ("summary", "codes"),
    [
        ("A model that writes titles.", []),
        ("", ["empty"]),
        ("?!", ["empty"]),
        ("a good model a good model a good model", ["repetition"]),
        (DOCUMENT, ["copy"]),
        (DOCUMENT + " And more of it.", ["longer"]),
    ],
)
def test_faults(summary: str, codes: list[str]) -> None:
    assert [fault.code for fault in faults(summary, DOCUMENT, None)] == codes


def test_too_short() -> None:
    [fault] = faults("A model.", DOCUMENT, 5)
    assert fault.message == "the summary had 2 of at least 5 words"
