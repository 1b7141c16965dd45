"""Image captioning: one input, a sequence out (document 001, one-to-many).

The document names the task and gives no data and no model: both are ours. The images are generated, and so are what
they are called; a few pairs of colour and shape never occur in training, so that a caption must be put together.
"""

import functools
import io
import itertools
import os
import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import jaxseq
from experiments import plots
from experiments.experiment import SMOKE_EXAMPLES, Data, Experiment, Run, Saved, UserError, Variant, summarize
from jaxseq import arguments
from jaxseq.cells import GRUState
from jaxseq.datasets import synthetic
from jaxseq.layers import Dense, Embedding
from jaxseq.vocabulary import Vocabulary

_STOP = "<END>"
_VOCABULARY = Vocabulary(("<PAD>", "<START>", "<UNK>", _STOP, *synthetic.CAPTION_WORDS))
_IMAGE_BYTES, _IMAGE_PIXELS = 1 << 20, 1000  # of a file that is read, and of a side of it
_STEPS = 8  # "three small red circles in the middle" and the stop
_SIZES = {"training": 12_000, "validation": 1_000, "test": 1_000, "unseen combinations": 1_000, "unseen pairs": 1_000}
_SAMPLES = 4  # of each kind of test image, in the table and the picture
_FILES = 4  # test images as PNG files, to try `predict` on

# Every colour and every shape occurs in training, these pairs of them never: a quarter of all.
UNSEEN_PAIRS = tuple((colour, list(synthetic.SHAPES)[index % 4]) for index, colour in enumerate(synthetic.COLOURS))


@functools.cache
def combinations() -> dict[str, list[tuple[str, ...]]]:
    """(count, size, colour, shape, place) of what is shown: in training, in unseen combinations, in unseen pairs."""
    words = (synthetic.COUNTS, synthetic.SIZES, synthetic.COLOURS, synthetic.SHAPES, synthetic.PLACES)
    every = list(itertools.product(*words))
    pairs = [one for one in every if one[2:4] in UNSEEN_PAIRS]
    others = [one for one in every if one[2:4] not in UNSEEN_PAIRS]
    order = np.random.default_rng(0).permutation(len(others))
    fifth = len(others) // 5
    held_out, shown = ([others[number] for number in part] for part in (order[:fifth], order[fifth:]))
    return {"training": shown, "unseen combinations": held_out, "unseen pairs": pairs}


class Convolution(nn.Module):
    """Conv(features, 3×3, relu) → MaxPooling(2×2), as Flax's but one product: [B, H, W, C] to [B, H/2, W/2, features].

    H and W are even. Inside a loop, and every training step runs inside one, XLA's own convolution is slow on a CPU
    (`jaxseq.layers.Conv1D` goes round it too).
    """

    features: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Lays the nine pixels of each window side by side, multiplies, and takes the largest of four."""
        batch, height, width, _ = images.shape
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = [padded[:, row : row + height, column : column + width] for row, column in np.ndindex(3, 3)]
        found = nn.relu(Dense(self.features)(jnp.concatenate(windows, axis=-1)))
        return found.reshape(batch, height // 2, 2, width // 2, 2, -1).max(axis=(2, 4))


class View(NamedTuple):
    """What a caption is written from."""

    states: GRUState  # the decoder's: what the image left in it, then its own


class Captioner(nn.Module):
    """Three convolutions see the image; a Dense(H, tanh) of their features is the state that a GRU starts from.

    The Dense gets every feature at its place, and each one's largest value anywhere.

    Attributes:
      cell: a GRU, of either kind.
      embedding_size: of the words.

    Source: Vinyals et al. 2015, "Show and Tell", arXiv:1411.4555 (there the image is the decoder's first input).
    """

    cell: Any
    embedding_size: int

    def setup(self) -> None:
        """Makes the layers."""
        self.convolutions = [Convolution(features) for features in (16, 32, 64)]
        self.summary = Dense(self.cell.hidden_size)
        self.embedding = Embedding(len(_VOCABULARY), self.embedding_size)
        self.decoder = jaxseq.Recurrent(self.cell, time_major=True)
        self.head = Dense(len(_VOCABULARY))

    def __call__(self, images: jax.Array, words: jax.Array, *, train: bool = False) -> jax.Array:
        """Teacher forcing: logits [B, T, V] of each next word, from images uint8 [B, 32, 32, 3], words int [B, T]."""
        del train
        return self.decode(self.encode(images), words)[1]

    def check_inputs(self, images: jax.Array, words: jax.Array) -> None:
        """Raises ValueError where a word lies outside the vocabulary; `fit` calls it before tracing."""
        del images
        arguments.tokens("words", words, len(_VOCABULARY))

    def encode(self, images: jax.Array) -> View:
        """The state that a caption starts from, of images [B, 32, 32, 3]."""
        features = images.astype(jnp.float32) / 64
        features -= features.mean(axis=(1, 2), keepdims=True)  # the ground has another colour in every image
        for convolution in self.convolutions:
            features = convolution(features)
        largest, every = features.max(axis=(1, 2)), features.reshape(len(features), -1)
        return View(GRUState(jnp.tanh(self.summary(jnp.concatenate([largest, every], axis=-1)))))

    def decode(self, view: View, words: jax.Array) -> tuple[View, jax.Array]:
        """Goes on from `view` over words [B, T]; (view, logits [B, T, V])."""
        states, outputs = self.decoder(self.embedding.lookup(words.T), state=view.states)
        return View(states), jnp.swapaxes(self.head(outputs), 0, 1)


class _Part(NamedTuple):
    images: np.ndarray
    captions: list[str]

    def examples(self) -> jaxseq.Examples:
        """Images and the words before each step; the words to come; padding counts for nothing."""
        words = [[*_VOCABULARY.encode(caption.split()), _VOCABULARY.index(_STOP)] for caption in self.captions]
        targets = jaxseq.pad_sequences(words, _STEPS, padding="post")
        before = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=_VOCABULARY.index("<START>"))
        return jaxseq.examples((self.images, before), targets, targets != 0)


@functools.cache
def _part(name: str, smoke: bool = False) -> _Part:
    shown = combinations()
    size = SMOKE_EXAMPLES if smoke else _SIZES[name]
    rng = np.random.default_rng((1, list(_SIZES).index(name)))
    return _Part(*synthetic.captioned_images(rng, size, shown.get(name, shown["training"])))


@functools.cache
def _load(is_synthetic: bool, smoke: bool) -> Data:
    del is_synthetic  # always generated
    train, validation, test = (_part(name, smoke).examples() for name in ("training", "validation", "test"))
    unseen = ", ".join(" ".join(pair) for pair in UNSEEN_PAIRS)
    shown, held_out, pairs = (len(of_kind) for of_kind in combinations().values())
    return Data(
        train=train,
        validation=validation,
        test=test,
        source={"kind": "generated", "name": "generated images with captions", "files": []},
        notes=(
            "the document names the task only: images (32 by 32), captions and model are ours",
            f"{shown} combinations of count, size, colour, shape and place occur in training; in the study, apart: "
            f"{held_out} that do not, and all {pairs} of six pairs of colour and shape ({unseen})",
            "accuracy is that of each next word, the right words before it given; the study counts whole captions",
        ),
        encoding={"words": list(_VOCABULARY.words), "image": [synthetic.IMAGE_SIZE, synthetic.IMAGE_SIZE]},
    )


@functools.partial(jax.jit, static_argnums=0)
def _write(model: Any, params: Any, images: jax.Array) -> jax.Array:
    """The likeliest caption of each image, word by word: int [B, T]."""
    return jaxseq.greedy_decode(
        model,
        {"params": params},
        images,
        start=_VOCABULARY.index("<START>"),
        stop=_VOCABULARY.index(_STOP),
        max_steps=_STEPS,
    )


def _captions(model: Any, params: Any, images: np.ndarray) -> list[str]:
    stop = _VOCABULARY.index(_STOP)
    return [
        _VOCABULARY.decode(word for word in row if word != stop) for row in np.asarray(_write(model, params, images))
    ]


_KINDS = {  # of test images
    "test": "seen combinations",
    "unseen combinations": "unseen combinations",
    "unseen pairs": "unseen pairs of colour and shape",
}
_ATTRIBUTES = {
    "count": synthetic.COUNTS,
    "size": tuple(synthetic.SIZES),
    "colour": tuple(synthetic.COLOURS),
    "shape": (*synthetic.SHAPES, *synthetic.SHAPES.values()),
    "place": tuple(place.split()[-1] for place in synthetic.PLACES),
}


def _said(caption: str) -> dict[str, Any]:
    """A caption, and its words for each attribute; no word of one is a word of another."""
    words = caption.split()
    return {"the whole caption": caption} | {
        name: [word for word in words if word in known] for name, known in _ATTRIBUTES.items()
    }


def _agreement(written: list[list[str]], true: list[str]) -> dict[str, dict[str, Any]]:
    """Share of captions that are right as a whole, and in each attribute: of what each seed wrote, summarized."""
    truly = [_said(caption) for caption in true]
    of_seeds = [[_said(caption) for caption in captions] for captions in written]
    return {
        name: summarize(
            [
                float(np.mean([one[name] == other[name] for one, other in zip(said, truly, strict=True)]))
                for said in of_seeds
            ]
        )
        for name in truly[0]
    }


def _study(run: Run) -> dict[str, Any]:
    """Whole captions, written from the image alone: of what was seen in training, and of what was not."""
    from matplotlib import image as matplotlib_image

    trained = run.variant()
    model, params = trained.variant.model, trained.best
    test = _part("test", run.smoke)
    figures: dict[str, Any] = {}
    rows = []
    samples: list[tuple[str, str, str, np.ndarray]] = []
    for kind in ("test", "unseen combinations", "unseen pairs"):
        part = _part(kind, run.smoke)
        written = [_captions(model, one, part.images) for one in params]
        of_seeds = _agreement(written, part.captions)
        figures[f"accuracy of whole captions, {_KINDS[kind]}"] = of_seeds["the whole caption"]
        rows.append([_KINDS[kind], *of_seeds.values()])
        if kind == "test":
            others = [captions[-1:] + captions[:-1] for captions in written]
            rows.append(["the same, written of another image", *_agreement(others, part.captions).values()])
        shown = slice(_SAMPLES)
        samples += [
            (_KINDS[kind], *one)
            for one in zip(part.captions[shown], written[0][shown], part.images[shown], strict=True)
        ]
    plots.pictures(
        [image for *_, image in samples],
        [f"{true}\n→ {written}" for _, true, written, _ in samples],
        run.directory / "captions.png",
    )
    for number, image in enumerate(test.images[:_FILES]):
        matplotlib_image.imsave(run.directory / f"image_{number}.png", image)
    return {
        "figures": figures,
        "tables": {
            "captions of the test images, and what is right in them": [
                ["images of", *(f"accuracy of {quantity}" for quantity in of_seeds)],
                *rows,
            ],
            "the first test images, first seed": [
                ["image of", "true caption", "written"],
                *([kind, true, written] for kind, true, written, _ in samples),
            ],
        },
    }


def _predict(saved: Saved, text: str) -> str:
    """The caption of an image in a file, or of one of the test images."""
    text = text.strip()
    sample = re.fullmatch(r"sample (\d+)", text)
    if sample is None:
        image = _read_image(text)
        return _captions(saved.variant.model, saved.params, image[None])[0]
    number, test = int(sample[1]), _part("test")
    if number >= len(test.captions):
        raise UserError(f"TEXT must be 'sample 0' to 'sample {len(test.captions) - 1}', got {text!r}")
    written = _captions(saved.variant.model, saved.params, test.images[number : number + 1])[0]
    return f"{written} (truly: {test.captions[number]})"


def _read_image(path: str) -> np.ndarray:
    """An image file as uint8 [32, 32, 3].

    Raises:
      UserError: there is no such file, or it holds no colour image of that size.
    """
    from matplotlib import image as matplotlib_image

    if not os.path.isfile(path):
        raise UserError(f"TEXT must be the path of a PNG file, or 'sample N' for a test image, got {path!r}")
    try:
        with open(path, "rb") as stream:
            contents = stream.read(_IMAGE_BYTES)
        # Pillow takes memory for what a header declares, wherever it stands, the last of them if there are several.
        pixels = [int.from_bytes(contents[place : place + 4], "big") for place in (16, 20)]
        begins = contents.startswith(b"\x89PNG\r\n\x1a\n") and contents[12:16] == b"IHDR"
        if not begins or contents.count(b"IHDR") != 1 or max(pixels) > _IMAGE_PIXELS:
            raise ValueError(f"it is none, or of more than {_IMAGE_PIXELS} pixels a side")
        image = matplotlib_image.imread(io.BytesIO(contents), format="png")
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises of files that it cannot read
        raise UserError(f"TEXT must be the path of a PNG file, got {path!r}: {error}") from None
    size = synthetic.IMAGE_SIZE
    if image.ndim != 3 or image.shape[:2] != (size, size) or image.shape[2] not in (3, 4):
        raise UserError(f"TEXT must be a colour image of {size} by {size} pixels, got shape {image.shape}")
    image = image[..., :3]
    return image if image.dtype == np.uint8 else np.rint(255 * image).astype(np.uint8)


EXPERIMENTS = [
    Experiment(
        name="one_to_many",
        document="001_7cf08e2a96f4f12b.txt",
        title="an image → its caption, on generated images: three Conv2D → the state of a GRU(128) → Dense(29)",
        documented="one-to-many: one input, a sequence out (no figure)",
        variants=(
            Variant(
                load=_load,
                model=Captioner(jaxseq.GRU(128), embedding_size=32),
                loss=jaxseq.losses.categorical_cross_entropy,
                metrics={"accuracy": jaxseq.losses.categorical_accuracy},
                optimizer=jaxseq.adam(2e-3),
                epochs=10,
                batch_size=64,
                monitor="accuracy",
                maximize=True,
            ),
        ),
        study=_study,
        predict=_predict,
        predicts=(
            "a PNG file, 32 by 32 pixels in colour (a run writes image_0.png to image_3.png), or 'sample N' for test "
            "image N, N from 0 to 999 -> its caption"
        ),
    ),
]
