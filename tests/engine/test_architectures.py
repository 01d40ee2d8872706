"""Every architecture for question answering in Transformers: batches change no answer, limits are told.

Models are built from their configurations, tiny and random, also in what [PAD] is embedded as.
"""

from __future__ import annotations

import inspect
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel
from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES

from qa_fast.engine import Engine, ModelError, Options
from qa_fast.models.sharing import masks_padding
from qa_fast.models.traits import position_limit

from ..helpers import oracle
from ..helpers.tiny import texts
from ..helpers.zoo import POSITIONS, ZOO, common_tokenizer, family_model, family_tokenizer, tiny

NOT_BUILT = {
    "layoutlmv2": "needs detectron2",
    "qdqbert": "needs pytorch-quantization",
}
REFUSED = {
    "lxmert": "LxmertForQuestionAnswering raised ValueError: `visual_feats` cannot be `None`",
}
# Which Transformers 5 has no more: their limits are not in a table, and not known before the run.
UNKNOWN_LIMIT = {"ernie_m", "nezha"}
ARCHITECTURES = sorted({*MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES} - {*NOT_BUILT, *REFUSED})
# Variants of some, in which other code runs.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "deberta-v2-conv": ("deberta-v2", ZOO["deberta_v2"].config),
    "falcon-alibi": ("falcon", {"alibi": True, "multi_query": False, "parallel_attn": False}),
    "longformer-wide": ("longformer", {"attention_window": 64}),
    "reformer-local": ("reformer", {"attn_layers": ["local", "local"], "hash_seed": None}),
}

# Of older releases' code.
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning"),
]

OPTIONS = Options(top_k=3, max_seq_len=64, doc_stride=16, align_to_words=False, scoring="logit")


@cache
def model_of(name: str) -> Any:
    architecture, config = VARIANTS.get(name, (name, {}))
    return tiny(architecture, common_tokenizer(), **config)


@cache
def pairs() -> list[tuple[str, str]]:
    """Contexts of one token to several chunks."""
    context = texts()[-1]
    sizes = (2, 30, 55, 70, 90, 310)
    return [("Who?", context[:size]) for size in sizes] + [
        ("How many points did they give up?", "308")
    ]


@cache
def expected(name: str) -> list[dict[Any, float]]:
    """Each chunk through the model alone, unpadded, and every span's score."""
    return [
        oracle.answers(deepcopy(model_of(name)), common_tokenizer(), *pair, OPTIONS)
        for pair in pairs()
    ]


def check(readings: Any, scores: list[dict[Any, float]]) -> None:
    for reading, found in zip(readings, scores, strict=True):
        best = sorted(found, key=lambda place: -found[place])[: len(reading.answers)]
        assert [a["score"] for a in reading.answers] == pytest.approx(
            [found[place] for place in best], rel=1e-4, abs=1e-4
        )
        top = reading.answers[0]
        assert found[top["start"], top["end"]] == pytest.approx(found[best[0]], abs=1e-4)


def test_all_architectures_are_known_here() -> None:
    """Those that cannot be built would otherwise be missed without a word."""
    missing = {*MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES} - {*ARCHITECTURES}
    assert missing <= {*NOT_BUILT, *REFUSED}
    for name in missing & {*NOT_BUILT}:
        with pytest.raises(ImportError):
            model_of(name)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *VARIANTS])
def test_batches_change_no_answer(name: str) -> None:
    for batches in ({"batch_size": 1}, {}, {"batch_size": 3}):
        engine = Engine(model_of(name), common_tokenizer(), **batches)
        readings = list(engine.read(pairs(), OPTIONS))
        assert max(reading.chunks for reading in readings) > 2
        check(readings, expected(name))
    for pair, scores in zip(
        pairs(), expected(name), strict=True
    ):  # a text by itself; some are long
        check(engine.read([pair], OPTIONS), [scores])
    check(list(engine.read(pairs()[::-1], OPTIONS))[::-1], expected(name))


def padding_changes(model: Any) -> float:
    """The most that padding changes in the logits of rows of many lengths."""
    tokens = torch.randint(3, 500, (1, 60), generator=torch.Generator().manual_seed(0))
    tokens[0, [5, 6]] = common_tokenizer().sep_token_id
    lengths, width = (9, 16, 30, 31, 33, 47, 58, 60), 64
    ids = torch.full((len(lengths), width), common_tokenizer().pad_token_id)
    mask = torch.zeros_like(ids)
    alone = []
    takes_mask = "attention_mask" in inspect.signature(model.forward).parameters
    with torch.inference_mode():
        for i, length in enumerate(lengths):
            row = tokens[:, :length].clone()
            row[0, -1] = common_tokenizer().sep_token_id
            ids[i, :length], mask[i, :length] = row[0], 1
            takes = {"attention_mask": torch.ones_like(row)} if takes_mask else {}
            alone.append(model(input_ids=row, **takes).start_logits[0])
        together = model(input_ids=ids, **({"attention_mask": mask} if takes_mask else {}))
    return max(
        float((together.start_logits[i, : len(row)] - row).abs().max())
        for i, row in enumerate(alone)
    )


@pytest.mark.parametrize("name", [*ARCHITECTURES, *VARIANTS])
def test_padding_is_masked_where_that_is_said(name: str) -> None:
    """And where nothing is known of a model, as it comes in a callable, a trial finds the same."""
    model = model_of(name)
    changes = padding_changes(model) > 1e-3
    assert not (changes and masks_padding(model))
    if masks_padding(model) and model.config._attn_implementation == "sdpa":
        config = deepcopy(model.config)
        eager = type(model)._from_config(config, attn_implementation="eager").eval()
        eager.load_state_dict(model.state_dict())
        assert masks_padding(eager)
        assert padding_changes(eager) < 1e-3

    def callable_of_any_kind(**arguments: Any) -> Any:
        taken = inspect.signature(model.forward).parameters
        return model(**{key: value for key, value in arguments.items() if key in taken})

    callable_of_any_kind.config = model.config
    engine = Engine(callable_of_any_kind, common_tokenizer())
    check(engine.read(pairs(), OPTIONS), expected(name))
    assert engine.runtime.sharing.equal_lengths == changes


@pytest.mark.parametrize("name", [n for n in [*ARCHITECTURES, *VARIANTS] if n not in UNKNOWN_LIMIT])
def test_position_limit(name: str) -> None:
    """It is what the model can read, and a longer row is refused before the model sees it."""
    model, limit = model_of(name), position_limit(model_of(name))
    check_limit(model, common_tokenizer(), limit)


@pytest.mark.parametrize("name", ZOO)
def test_position_limit_with_a_tokenizer_of_its_own(name: str) -> None:
    model = family_model(name)
    check_limit(model, family_tokenizer(name), position_limit(model))


def check_limit(model: Any, tokenizer: Any, limit: int | None) -> None:
    text = [("Who?", "It was Ada, and nobody else. " * 60)]
    read = Engine(deepcopy(model), tokenizer).read
    if limit is None:
        (reading,) = read(text, Options(max_seq_len=2 * POSITIONS + 3))
        assert reading.chunks > 1
        return
    (reading,) = read(text, Options(max_seq_len=limit))
    assert reading.chunks > 1
    with pytest.raises(ValueError, match=rf"max_seq_len must be at most {limit}.*got {limit + 1}"):
        list(read(text, Options(max_seq_len=limit + 1)))
    ids = torch.full((1, limit + 1), 5)
    if model.config.model_type == "longformer":
        ids[0, [3, 4, -1]] = tokenizer.sep_token_id
    with pytest.raises((IndexError, RuntimeError, ValueError)), torch.inference_mode():
        model(input_ids=ids)


@pytest.mark.parametrize("architecture", ["ctrl", "openai-gpt"])
def test_position_limit_of_backbones_without_a_class_of_their_own(architecture: str) -> None:
    """They come with a head of the caller's; the table has a name, or is a tensor, of its own."""
    sizes = {"n_positions": POSITIONS, "n_embd": 32, "n_layer": 1, "n_head": 4, "dff": 40}
    model = AutoModel.from_config(
        AutoConfig.for_model(architecture, vocab_size=600, **sizes)
    ).eval()
    assert position_limit(torch.nn.Sequential(model)) == POSITIONS
    model(torch.ones(1, POSITIONS, dtype=torch.int64))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.ones(1, POSITIONS + 1, dtype=torch.int64))


@pytest.mark.parametrize(
    "rotary",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {
            "rope_type": "longrope",
            "factor": 4.0,
            "original_max_position_embeddings": 48,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
        },
    ],
    ids=lambda rotary: rotary["rope_type"],
)
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_rotary_positions_that_hang_on_the_batch_are_a_limit(
    architecture: str, rotary: dict[str, Any]
) -> None:
    """Beyond it a row would be read by frequencies of its neighbours, and of rows read before."""
    positions = 48 if rotary["rope_type"] == "dynamic" else 4 * 48
    config = AutoConfig.for_model(architecture)
    name = "rope_parameters" if hasattr(config, "rope_parameters") else "rope_scaling"
    if name == "rope_parameters":
        rotary = {"rope_theta": 10000.0, **rotary}
    model = tiny(
        architecture, common_tokenizer(), **{name: rotary, "max_position_embeddings": positions}
    )
    assert position_limit(model) == 48
    engine = Engine(deepcopy(model), common_tokenizer())
    with pytest.raises(ValueError, match="max_seq_len must be at most 48"):
        list(engine.read(pairs(), replace(OPTIONS, max_seq_len=49)))
    options = replace(OPTIONS, max_seq_len=48)
    scores = [oracle.answers(model, common_tokenizer(), *pair, options) for pair in pairs()]
    check(engine.read(pairs(), options), scores)


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_need_more_than_a_text_are_refused_with_the_reason(name: str) -> None:
    if name not in MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES:
        pytest.skip("not in this release of Transformers")
    with pytest.raises(ModelError, match=REFUSED[name]):
        list(Engine(model_of(name), common_tokenizer()).read(pairs(), OPTIONS))


@pytest.mark.parametrize("missing", ["hash_seed", "num_buckets"])
def test_random_hashes_are_refused_with_the_remedy(missing: str) -> None:
    model = tiny("reformer", common_tokenizer(), **{missing: None})
    message = r"ReformerForQuestionAnswering .* random .* hash_seed=0, num_buckets=64"
    with pytest.raises(ValueError, match=message):
        Engine(model, common_tokenizer())
