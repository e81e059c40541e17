"""Finding, checking and loading checkpoints."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.florence2 import checkpoint_files
from pipelines.florence2 import pipeline as florence2
from pipelines.florence2.checkpoint import Checkpoint, load
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.pipeline import Florence2Settings, open_engine, pipeline
from pipelines.florence2.reference_engine import ReferenceEngine
from pipelines.florence2.weights import HEAD, SHARED
from streamer.core.errors import ConfigError
from tests.support.checkpoints import build_checkpoint


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "mine"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def network(checkpoint: Checkpoint) -> Any:
    """Return the checkpoint in transformers."""
    return ReferenceEngine(checkpoint, 1).network


def refusal(checkpoint: Path | str, **keys: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        pipeline.open(Florence2Settings(checkpoint=str(checkpoint), device="cpu", **keys))
    return str(caught.value)


def test_checkpoint_folder_loads(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    loaded = load(open_folder(str(checkpoint)), "auto", "auto")
    assert loaded.name == "small"
    assert loaded.images.tokens == 10
    assert loaded.generation.no_repeat_ngram_size == 3
    assert "it" in loaded.banned_phrases
    assert loaded.weights[HEAD] is loaded.weights[SHARED]
    assert "loading small (0.2 M parameters) on cpu, float32 (small model)" in caplog.text
    open_engine(Florence2Settings(checkpoint=str(checkpoint)))
    assert "loaded small in" in caplog.text


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_checkpoint_opens(checkpoint: Path, dtype: str) -> None:
    engine = pipeline.open(Florence2Settings.model_validate({"checkpoint": str(checkpoint), "dtype": dtype}))
    assert engine.model == "small"


def test_tilde_in_folder_is_expanded(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert open_folder("~/small").path == checkpoint


def test_missing_shipped_model_is_config_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoint_files, "SHIPPED", tmp_path / "tiny")
    with pytest.raises(ConfigError, match="the small model is missing from this installation"):
        open_folder(None)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors"])
def test_missing_file_is_named_in_error(copy: Path, file: str) -> None:
    (copy / file).unlink()
    assert refusal(copy) == f"checkpoint mine is not complete: {file} is missing in {copy}"


def test_weights_without_safetensors_are_refused(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    assert "model.safetensors is missing" in refusal(copy)


def test_sharded_weights_load(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: weights[key] for key in keys}, copy / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert pipeline.open(Florence2Settings(checkpoint=str(copy))).model == "mine"
    (copy / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors is missing" in refusal(copy)


def test_missing_weights_are_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["model.multi_modal_projector.image_projection.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "1 weights such as model.multi_modal_projector.image_projection.weight" in refusal(copy)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", "[]", "does not hold a JSON object"),
        ("model.safetensors", "no weights", "model.safetensors is damaged"),
        ("tokenizer.json", "{}", "its tokenizer cannot be loaded"),
    ],
)
def test_damaged_file_is_named_in_error(copy: Path, file: str, content: str, words: str) -> None:
    (copy / file).write_text(content)
    assert words in refusal(copy)


def test_weights_of_wrong_shape_are_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["model.language_model.shared.weight"] = torch.zeros(7, 32)
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert "checkpoint mine cannot be loaded" in refusal(copy)


@pytest.mark.parametrize("tokens", [11, 577])
def test_wrong_number_of_image_tokens_is_refused(copy: Path, tokens: int) -> None:
    edit(copy / "preprocessor_config.json", image_seq_length=tokens)
    assert "checkpoint mine does not run" in refusal(copy)


def test_missing_image_token_count_is_computed(copy: Path) -> None:
    edit(copy / "preprocessor_config.json", image_seq_length=None)
    assert load(open_folder(str(copy)), "cpu", "auto").images.tokens == 10


def test_image_settings_are_read_from_processor_config(copy: Path) -> None:
    before = open_folder(str(copy)).images
    images = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").unlink()
    edit(copy / "processor_config.json", image_processor=images)
    assert open_folder(str(copy)).images == before


def test_generation_settings_are_read_from_old_config(copy: Path) -> None:
    (copy / "generation_config.json").unlink()
    text = json.loads((copy / "config.json").read_text())["text_config"]
    edit(
        copy / "config.json", text_config={**text, "num_beams": 3, "no_repeat_ngram_size": 3, "forced_bos_token_id": 0}
    )
    generation = load(open_folder(str(copy)), "cpu", "auto").generation
    assert (generation.num_beams, generation.no_repeat_ngram_size, generation.forced_bos_token_id) == (3, 3, 0)
    assert (generation.decoder_start_token_id, generation.eos_token_id) == (2, 2)


def test_other_model_type_is_refused(copy: Path) -> None:
    edit(copy / "config.json", model_type="bart")
    assert refusal(copy) == "checkpoint mine is not a Florence-2: its model_type is 'bart'"


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"auto_map": {"AutoModelForCausalLM": "modeling_florence2.Florence2ForConditionalGeneration"}}),
        ("config.json", {"text_config": {"model_type": "florence2_language"}}),
        ("config.json", {"vision_config": {"model_type": "davit", "nested": [{"auto_map": {"a": "b"}}]}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("preprocessor_config.json", {"auto_map": {"AutoProcessor": "processing_florence2.Florence2Processor"}}),
    ],
)
def test_remote_code_is_refused_and_not_run(copy: Path, file: str, changes: dict[str, Any]) -> None:
    for module in ("modeling_florence2", "evil", "processing_florence2"):
        (copy / f"{module}.py").write_text("raise SystemExit('executed')")
    edit(copy / file, **changes)
    words = refusal(copy)
    assert "brings code of its own" in words
    assert "florence-community/Florence-2-base" in words


def test_microsoft_checkpoint_error_names_native_conversion() -> None:
    assert "florence-community/Florence-2-large-ft" in refusal("microsoft/Florence-2-large-ft")


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "~/no-such-folder", "../no-such-folder"])
def test_missing_folder_is_refused(name: str) -> None:
    assert refusal(name) == f"no such checkpoint folder: {name}"


def test_file_as_checkpoint_is_refused(copy: Path) -> None:
    assert "is a file" in refusal(copy / "config.json")


def test_invalid_hub_name_is_refused() -> None:
    assert "neither a folder here nor a name on the hub" in refusal("a/b/c d")


@pytest.mark.parametrize("offline", ["0", "1"])
def test_unreachable_hub_is_config_error(offline: str, tmp_path: Path) -> None:
    code = (
        "import time; time.sleep = lambda seconds: None\n"
        "from pipelines.florence2.checkpoint_files import open_folder; from streamer.core.errors import ConfigError\n"
        "try: open_folder('florence-community/Florence-2-base')\n"
        "except ConfigError as error: print(error)"
    )
    environ = {**os.environ, "HF_HUB_OFFLINE": offline, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert "is not in the local cache and the hub cannot be reached" in done.stdout
    assert done.stderr == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_missing_device_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such device: cuda:3 \(this process sees 0 CUDA devices\)"):
        load(open_folder(str(checkpoint)), "cuda:3", "auto")


def test_untied_output_head_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = build_checkpoint(tmp_path / "untied", tied=False)
    # Published fine-tunes have an untied head and a config that says "tied".
    edit(path / "config.json", tie_word_embeddings=True)
    saved = load_file(path / "model.safetensors")[HEAD]
    loaded = load(open_folder(str(path)), "cpu", "auto")
    assert torch.equal(loaded.weights[HEAD], saved)
    assert not torch.equal(loaded.weights[SHARED], saved)
    assert loaded.weights["model.language_model.encoder.embed_tokens.weight"] is loaded.weights[SHARED]
    assert loaded.weights["model.language_model.decoder.embed_tokens.weight"] is loaded.weights[SHARED]
    assert "kept untied" in caplog.text
    model = network(loaded)
    assert torch.equal(model.lm_head.weight, saved)
    assert not torch.equal(model.get_input_embeddings().weight, saved)


def test_equal_output_head_is_tied(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights[HEAD] = weights[SHARED].clone()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    edit(copy / "config.json", tie_word_embeddings=False)
    loaded = load(open_folder(str(copy)), "cpu", "auto")
    assert loaded.weights[HEAD] is loaded.weights[SHARED]
    model = network(loaded)
    assert model.lm_head.weight is model.get_input_embeddings().weight


# -- LoRA adapters; peft uses names that transformers will remove

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
TARGETS = ["q_proj", "v_proj", "out_proj", "fc1", "fc2"]


def build_adapter(folder: Path, base: Path, **keys: Any) -> Path:
    """Save a LoRA adapter of `base` with random weights."""
    from peft import LoraConfig, get_peft_model

    model = network(load(open_folder(str(base)), "cpu", "float32"))
    settings = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS, **keys})
    adapted = get_peft_model(model, settings)
    torch.manual_seed(0)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    adapted.save_pretrained(str(folder))
    edit(folder / "adapter_config.json", base_model_name_or_path=str(base))
    return folder


@pytest.mark.parametrize("keys", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["plain", "rslora", "dora"])
def test_adapter_is_merged_into_its_base(checkpoint: Path, tmp_path: Path, keys: dict[str, Any]) -> None:
    from peft import PeftModel

    folder = build_adapter(tmp_path / "gate", checkpoint, **keys)
    base = network(load(open_folder(str(checkpoint)), "cpu", "float32"))
    merged = load(open_folder(str(folder)), "cpu", "float32")
    assert merged.name == "gate"
    unmerged: Any = PeftModel.from_pretrained(base, str(folder)).eval()
    inputs = {
        "pixel_values": torch.rand(1, 3, 96, 96),
        "input_ids": torch.tensor([[base.config.image_token_id] * 10 + [0, 7, 8, 2]]),
        "decoder_input_ids": torch.tensor([[2, 0, 9]]),
    }
    with torch.inference_mode():
        ours, theirs = merged.network(**inputs).logits, unmerged(**inputs).logits
        with unmerged.disable_adapter():
            without = unmerged(**inputs).logits
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(ours, without, atol=1e-2)


def test_adapter_answers_in_both_engines(checkpoint: Path, tmp_path: Path) -> None:
    folder = build_adapter(tmp_path / "gate", checkpoint)
    for kind in ("fast", "plain"):
        settings = Florence2Settings.model_validate({"checkpoint": str(folder), "device": "cpu", "engine": kind})
        assert pipeline.open(settings).model == "gate"


def test_adapter_without_its_base_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = build_adapter(tmp_path / "gate", checkpoint)
    edit(folder / "adapter_config.json", base_model_name_or_path="/no/such/folder")
    assert "is an adapter of /no/such/folder, which cannot be used: no such checkpoint folder" in refusal(folder)
    edit(folder / "adapter_config.json", base_model_name_or_path="microsoft/Florence-2-base")
    assert "brings code of its own" in refusal(folder)
    edit(folder / "adapter_config.json", base_model_name_or_path=None)
    assert "does not describe a LoRA adapter" in refusal(folder)


def test_adapter_of_an_adapter_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = build_adapter(tmp_path / "gate", checkpoint)
    edit(folder / "adapter_config.json", base_model_name_or_path=str(folder))
    assert "is an adapter too" in refusal(folder)


def test_adapter_of_another_model_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = build_adapter(tmp_path / "gate", checkpoint)
    weights = load_file(folder / "adapter_model.safetensors")
    renamed = {name.replace("decoder", "other"): value for name, value in weights.items()}
    save_file(renamed, folder / "adapter_model.safetensors")
    assert "does not fit its base" in refusal(folder)
    wide = {name: torch.zeros(3, 3) for name in weights}
    save_file(wide, folder / "adapter_model.safetensors")
    assert "does not fit its base or is damaged" in refusal(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"x" * 100)
    assert "does not fit its base or is damaged" in refusal(folder)
    (folder / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors is missing" in refusal(folder)


def test_adapter_without_peft_names_the_command(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_adapter(tmp_path / "gate", checkpoint)
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "run `pip install 'florence-streamer[lora]'`" in refusal(folder)


@pytest.mark.parametrize("moment", ["before", "while"])
def test_files_that_change_after_they_were_chosen_are_refused(
    copy: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """`while`: between the check of the hash and the reading of the weights."""
    name, digest = pipeline.identify(Florence2Settings(checkpoint=str(copy)))
    chosen: dict[str, Any] = {"hash": digest, "int8": "off"}
    engine = pipeline.open(Florence2Settings(checkpoint=str(copy), device="cpu", **chosen))
    assert engine.model == f"{name}@{digest[:12]}"
    weights = load_file(copy / "model.safetensors")
    weights[next(iter(weights))] += 0.1

    def change() -> None:
        save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})

    if moment == "before":
        change()
    else:
        build = florence2._build

        def change_and_build(*arguments: Any) -> Any:
            change()
            return build(*arguments)

        monkeypatch.setattr(florence2, "_build", change_and_build)
    assert f"not {digest[:12]}: its files are not those that were chosen" in refusal(copy, **chosen)
