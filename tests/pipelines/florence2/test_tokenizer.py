"""Ids and texts of the tokenizer compared with AutoTokenizer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.florence2.checkpoint_files import SHIPPED, open_folder
from pipelines.florence2.prompts import prompt_texts
from pipelines.florence2.tasks import FLORENCE_TASKS, SPECS
from pipelines.florence2.tokenizer import Tokenizer, load_tokenizer
from tests.support.checkpoints import INPUTS

TEXTS = ["", " ", "a  b", "don't , stop .", "CAFÉ 星 é", "<loc_7><loc_999>", "</s><s><pad>", "<mask> <image>", "\n\t"]


@pytest.fixture(scope="module")
def pair() -> tuple[Tokenizer, Any]:
    """Our tokenizer of the shipped model and the one of transformers."""
    from transformers import AutoTokenizer

    return load_tokenizer(open_folder(None))[0], AutoTokenizer.from_pretrained(SHIPPED)


def assert_equal(ours: Tokenizer, theirs: Any, text: str) -> None:
    framed = f"<s>{text}</s>"
    ids = theirs(framed, add_special_tokens=False).input_ids
    assert ours.encode(framed) == ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("task", SPECS)
def test_prompts_equal_transformers(pair: tuple[Tokenizer, Any], task: str) -> None:
    params = SPECS[task].parameters.model_validate(INPUTS[task])
    for text in (*prompt_texts(task, params), FLORENCE_TASKS[task].token):
        assert_equal(*pair, text)


@pytest.mark.parametrize("text", TEXTS)
def test_odd_texts_equal_transformers(pair: tuple[Tokenizer, Any], text: str) -> None:
    assert_equal(*pair, text)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_decoded_ids_equal_transformers(pair: tuple[Tokenizer, Any], data: st.DataObject) -> None:
    ours, theirs = pair
    ids = data.draw(st.lists(st.integers(0, len(theirs) - 1) | st.integers(0, 300), max_size=20))
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    text = data.draw(st.text(max_size=30))
    assert_equal(ours, theirs, text)


def test_special_tokens_equal_transformers(pair: tuple[Tokenizer, Any]) -> None:
    ours, theirs = pair
    assert len(ours) == len(theirs)
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token)
    assert (ours.eos_token_id, ours.pad_token_id) == (theirs.eos_token_id, theirs.pad_token_id)
    assert {text: id for id, text in ours.added_tokens.items()} == theirs.get_added_vocab()


@pytest.mark.parametrize(
    ("changes", "plain"),
    [
        ({"tokenizer_class": "BartTokenizer"}, False),  # adds the mask token
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, True),
        ({"clean_up_tokenization_spaces": True}, True),
        ({"add_prefix_space": True, "tokenizer_class": "BartTokenizerFast"}, False),
        ({"extra_special_tokens": {"more": "<more>"}}, False),
        ({"added_tokens_decoder": {"1510": {"content": "<new>", "special": True}}}, False),
        ({"bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False}}, True),
        ({"model_max_length": 5}, True),
    ],
    ids=lambda value: "" if isinstance(value, bool) else next(iter(value)),
)
def test_settings_of_tokenizer_equal_transformers(tmp_path: Path, changes: dict[str, Any], plain: bool) -> None:
    from transformers import AutoTokenizer

    from pipelines.florence2 import tokenizer as module

    path = Path(shutil.copytree(SHIPPED, tmp_path / "mine"))
    config = path / "tokenizer_config.json"
    described = json.loads(config.read_text()) | changes
    config.write_text(json.dumps(described))
    ours, theirs = load_tokenizer(open_folder(str(path)))[0], AutoTokenizer.from_pretrained(path)
    for text in TEXTS:
        assert_equal(ours, theirs, text)
    assert module._is_plain(json.loads((path / "tokenizer.json").read_text()), described) == plain


def test_bart_layout_of_published_checkpoints_is_plain(tmp_path: Path) -> None:
    """Published checkpoints name BartTokenizer and have the mask token among their added tokens."""
    from tokenizers import AddedToken
    from transformers import AutoTokenizer

    path = Path(shutil.copytree(SHIPPED, tmp_path / "mine"))
    saved: Any = AutoTokenizer.from_pretrained(path)
    saved.backend_tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    saved.backend_tokenizer.save(str(path / "tokenizer.json"))
    config = json.loads((path / "tokenizer_config.json").read_text())
    added = json.loads((path / "tokenizer.json").read_text())["added_tokens"]
    config |= {"tokenizer_class": "BartTokenizer", "add_prefix_space": False, "errors": "replace"}
    config["added_tokens_decoder"] = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    from pipelines.florence2 import tokenizer as module

    assert module._is_plain(json.loads((path / "tokenizer.json").read_text()), config)
    ours, theirs = load_tokenizer(open_folder(str(path)))[0], AutoTokenizer.from_pretrained(path)
    assert type(theirs).__name__ in ("BartTokenizer", "RobertaTokenizer")
    for text in TEXTS:
        assert_equal(ours, theirs, text)


def test_shipped_model_opens_without_transformers() -> None:
    code = (
        "import sys\n"
        "from pipelines.florence2.pipeline import Florence2Settings, open_engine\n"
        "open_engine(Florence2Settings(device='cpu'))\n"
        "print(*[name for name in ('transformers', 'torch._dynamo', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
