"""Gradients that are released as they come need every step in one micro-batch: is each one?"""

from __future__ import annotations

import numpy as np

from attune.config import Config
from attune.data.batch import step_batches
from attune.data.corpus import Corpus
from attune.data.stream import Stream
from attune.errors import ConfigError
from attune.train.defaults import step_tokens

LAID_OUT = 200  # steps that are laid out to see whether sharing beginnings makes them fit, largest first


def refuse_pieces(config: Config, corpus: Corpus, stream: Stream, *, share: bool) -> None:
    """Look at the steps of a resolved config before the first is computed, where it releases gradients.

    Raises: ConfigError when a step would be several micro-batches; it names the tokens that would do for all.
    """
    if not config.train.gradient_release:
        return
    room, sizes = int(config.train.micro_tokens), step_tokens(stream, int(config.train.steps))
    for place in np.argsort(-sizes, kind="stable")[:LAID_OUT]:
        if sizes[place] <= room:
            return
        pieces = len(step_batches(corpus, stream.rows(int(place) + 1), room, share=share))
        if pieces > 1:
            raise ConfigError(
                f"train.gradient_release: a step must be one micro-batch, step {place + 1} would be {pieces}.\n"
                f"Set train.micro_tokens to auto, or to {sizes.max()} or more; make train.batch_rows smaller; or leave "
                "it off."
            )
