"""What a table skips is what the model computes in its place, in any dtype; anything else is refused by name."""

import ml_dtypes
import numpy as np
import pytest

from con360av_jax.errors import CheckpointError
from convert.rules import Skip, Table
from convert.skipped import difference, require_formulas
from convert.tables import motion, text
from convert.tables.joint import CONNECTORS, UNET
from convert.tables.motion import ANIMATEDIFF, MOTION_ADAPTER
from convert.tables.text import CLAP_TEXT, CLIP_TEXT
from convert.tables.vae import VAE
from convert.tables.vocoder import VOCODER

ADAPTER_NAME = "down_blocks.0.motion_modules.1.transformer_blocks.0.pos_embed.pe"
OWN_NAME = (
    "module.up_blocks.3.motion_modules.2.temporal_transformer.transformer_blocks.0.attention_blocks.1.pos_encoder.pe"
)
DTYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)
TABLES: tuple[Table, ...] = (UNET, CONNECTORS, MOTION_ADAPTER, ANIMATEDIFF, CLIP_TEXT, CLAP_TEXT, VAE, VOCODER)


def stacked(frames: int, width: int) -> np.ndarray:
    """The first half of the frames' encodings twice, as some lengthen their motion modules."""
    half = motion.skipped((1, frames, width))[:, : frames // 2]
    return np.concatenate([half, half], axis=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "table"), [(ADAPTER_NAME, MOTION_ADAPTER), (ADAPTER_NAME, UNET), (OWN_NAME, ANIMATEDIFF)]
)
def test_positions_pass_in_every_dtype_and_stacked_ones_in_none(name: str, table: Table, dtype: type):
    for frames, width in ((24, 320), (32, 1280), (64, 16)):
        published = motion.skipped((1, frames, width))
        require_formulas({name: published.astype(dtype)}, table)
        require_formulas({name: published.astype(dtype).astype(np.float32)}, table)  # stored wider again
        message = rf"1 tensors hold other numbers .*{name} differs in .* first at \[0, {frames // 2}, 0\]: 0, wanted"
        with pytest.raises(CheckpointError, match=message):
            require_formulas({name: stacked(frames, width).astype(dtype)}, table)


def test_one_trained_value_is_found_and_each_tensor_named():
    right = motion.skipped((1, 32, 16))
    trained = right.copy()
    trained[0, 31, 5] += 1e-3
    with pytest.raises(CheckpointError) as caught:
        require_formulas({"a.pos_embed.pe": right, "b.pos_embed.pe": trained, "c.pos_embed.pe": right[0]}, UNET)
    message = str(caught.value)
    assert "a.pos_embed" not in message
    assert "b.pos_embed.pe differs in 1 of 512 values, first at [0, 31, 5]" in message
    assert "c.pos_embed.pe has the shape (32, 16), wanted (1, frames, even width)" in message


@pytest.mark.parametrize("dtype", (np.int64, np.int32, *DTYPES))
def test_token_positions_and_types_are_compared_too(dtype: type):
    positions, types = (text.skipped(name, (1, 77)).astype(dtype) for name in ("position_ids", "token_type_ids"))
    clap = "text_model.embeddings."
    for table in (CLIP_TEXT, CLAP_TEXT):
        require_formulas({f"{clap}position_ids": positions}, table)
        with pytest.raises(
            CheckpointError, match=r"position_ids differs in 76 of 77 values, first at \[0, 1\]: 2, wanted 1"
        ):
            require_formulas({f"{clap}position_ids": positions * positions.dtype.type(2)}, table)
    require_formulas({f"{clap}token_type_ids": types}, CLAP_TEXT)
    with pytest.raises(CheckpointError, match=r"token_type_ids differs in 77 of 77 values"):
        require_formulas({f"{clap}token_type_ids": types + types.dtype.type(1)}, CLAP_TEXT)
    with pytest.raises(CheckpointError, match=r"position_ids has no axes"):
        require_formulas({f"{clap}position_ids": np.zeros((), dtype)}, CLAP_TEXT)


def test_nan_is_no_formula():
    entry = Skip("pe", because="zeros", formula=np.zeros)
    assert difference(np.zeros(3, np.float32), entry) == ""
    assert difference(np.array([0, np.nan], np.float32), entry).startswith(
        "differs in 1 of 2 values, first at [1]: nan"
    )


def test_every_skip_of_every_table_computes_what_it_skips():
    skips = [entry for table in TABLES for entry in table if isinstance(entry, Skip)]
    assert len(skips) == 6
    for entry in skips:
        assert entry.formula((1, 4, 8)).shape == (1, 4, 8)
