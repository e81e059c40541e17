"""Options that several commands share."""

from __future__ import annotations

import pytest

from streamer.cli.options import with_further_keys
from streamer.core.errors import ConfigError


def test_further_keys_are_json_or_text() -> None:
    given = ["tiles=2x2", "min_score=0.5", 'then=[{"task": "region_to_ocr"}]', "changes=true", "between=22:00-06:00"]
    assert with_further_keys({"task": "ocr_with_region"}, given) == {
        "task": "ocr_with_region",
        "tiles": "2x2",
        "min_score": 0.5,
        "then": [{"task": "region_to_ocr"}],
        "changes": True,
        "between": "22:00-06:00",
    }


def test_text_of_a_further_key_may_have_equal_signs() -> None:
    assert with_further_keys({}, ["text=a=b"]) == {"text": "a=b"}


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "[" * 100_000])
def test_value_that_is_not_json_stays_text(constant: str) -> None:
    assert with_further_keys({}, [f"min_score={constant}"]) == {"min_score": constant}


@pytest.mark.parametrize("wrong", ["tiles", "=2x2", ""])
def test_further_key_without_key_or_value_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="write KEY=VALUE"):
        with_further_keys({}, [wrong])


@pytest.mark.parametrize("repeated", [["text=b"], ["tiles=2x2", "tiles=3x3"]])
def test_repeated_key_is_refused(repeated: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"--set (text|tiles): the key is given twice"):
        with_further_keys({"text": "a"}, repeated)
