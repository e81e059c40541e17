"""Builds Florence-2 checkpoint folders with a small tokenizer.

A folder has the layout of the published checkpoints, so `AutoProcessor` and `from_pretrained` read it too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import Florence2ForConditionalGeneration, GenerationConfig, PreTrainedTokenizerFast

from pipelines.florence2.tasks import BINS as BINS

BART_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
"""Ids 0 to 3, as in BART."""

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)

_TAGS = (
    *("cap", "/cap", "ncap", "/ncap", "dcap", "/dcap", "grounding", "/grounding", "seg", "/seg"),
    *("sep", "region_cap", "/region_cap", "region_to_desciption", "/region_to_desciption"),
    *("proposal", "/proposal", "poly", "/poly", "and"),
)
FLORENCE_TOKENS = (
    *("<od>", "</od>", "<ocr>", "</ocr>"),
    *(f"<loc_{index}>" for index in range(BINS)),
    *(f"<{tag}>" for tag in _TAGS),
)
"""Florence-2's additions to BART's vocabulary, in its order and spelling."""

IMAGE_TOKEN = "<image>"

# Words of a caption that are not grounded.
_BANNED_PHRASES = (
    *("I", "me", "you", "he", "him", "she", "her", "it", "we", "us", "they", "them", "one", "this", "that", "these"),
    *("those", "which", "who", "what", "each other", "the image", "image"),
)
POST_PROCESSOR: dict[str, dict[str, Any]] = {
    "pure_text": {},
    "ocr": {},
    "phrase_grounding": {"banned_grounding_tokens": sorted(_BANNED_PHRASES)},
    "description_with_bboxes": {},
    "description_with_polygons": {},
    "polygons": {},
    "bboxes": {},
    "description_with_bboxes_or_polygons": {},
}
"""Parse types for `Florence2Processor`, which rejects any type that its checkpoint does not list."""


def build_tokenizer(corpus: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on `corpus` and add Florence-2's tokens. Deterministic.

    `vocab_size` bounds the text part (4 special tokens, 256 bytes, the rest merges); the model's `vocab_size` must be
    `len(tokenizer)`.
    """
    tokenizer = Tokenizer(BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(BART_SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in (*FLORENCE_TOKENS, IMAGE_TOKEN)])
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        cls_token="<s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        clean_up_tokenization_spaces=False,
    )


def _image_settings(image_size: int, image_seq_length: int) -> dict[str, Any]:
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": None,
        "do_resize": True,
        "size": {"height": image_size, "width": image_size},
        "resample": 3,
        "do_center_crop": False,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
        "image_seq_length": image_seq_length,
    }


def save_checkpoint(
    folder: Path,
    model: Florence2ForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    image_size: int,
    image_seq_length: int,
    generation_config: GenerationConfig,
) -> None:
    """Write a complete checkpoint into `folder`, creating it if missing.

    `image_size` is the side of the square input in pixels; `image_seq_length` is the number of image tokens with the
    mean token: (image_size / total stride)^2 + 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_json(folder / "preprocessor_config.json", _image_settings(image_size, image_seq_length))
    _write_json(
        folder / "processor_config.json",
        {"processor_class": "Florence2Processor", "post_processor_config": POST_PROCESSOR},
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
