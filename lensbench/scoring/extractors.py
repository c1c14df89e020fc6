"""Feature extractors for distances between sets of pictures: what one is, the Inception of FID, and any function.

A distance is named after its extractor, and the name says the weights and the resize: "inception" alone is the one of
2015-12-05 with clean-fid's resize, on which FID is defined. Every other one, be it by one resize, has a longer name.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

INCEPTION_FILE = "inception-2015-12-05.pt"
INCEPTION_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION_FILE}"
INCEPTION_DIGEST = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
INCEPTION_SIDE_PX = 299
INCEPTION_FEATURES = 2048

Resize = Literal["clean", "torchmetrics", "pytorch-fid", "tensorflow"]
RESIZES: tuple[Resize, ...] = get_args(Resize)
RESIZES_IN_WORDS: dict[Resize, str] = {
    "clean": "clean-fid 299 bicubic antialias float",
    "torchmetrics": "torchmetrics 1.8+ 299 bilinear antialias",
    "pytorch-fid": "pytorch-fid 299 bilinear, no antialias, (p - 127.5) / 127.5",
    "tensorflow": "inside the network, 299 bilinear as in TensorFlow 1 (EDM, StyleGAN)",
}


class Extractor(Protocol):
    """Pictures to features.

    `name` goes into the name of the distance, `digest` identifies the weights, `resize` says in words what is done to
    a picture before the network, and `dimensions` is F.
    """

    name: str
    digest: str
    resize: str
    dimensions: int

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One picture uint8 (H, W, 3) as the network takes it; called from several threads."""

    def embed(self, prepared: np.ndarray) -> np.ndarray:
        """Features (B, F) of a stack (B, ...) of prepared pictures."""


def features(extractor: Extractor, images: Iterable[np.ndarray], batch: int = 32) -> NDArray[np.float64]:
    """Features float64 (N, F) of pictures uint8 (H, W, 3), which may differ in size.

    Raises ValueError for another shape or type: floats that are cast on the way would wrap around silently.
    """
    prepared = [extractor.prepare(checked(image)) for image in images]
    parts = [np.empty((0, extractor.dimensions))]
    for start in range(0, len(prepared), batch):
        parts.append(np.asarray(extractor.embed(np.stack(prepared[start : start + batch])), dtype=np.float64))
    return np.concatenate(parts)


def checked(image: Any) -> np.ndarray:
    """The picture. Raises ValueError unless it is uint8 (H, W, 3)."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"a picture is uint8 (H, W, 3) with values 0 to 255, got {got}; convert it knowingly")
    return image


def cache_folder() -> Path:
    """Where weights are looked for: $LENSBENCH_CACHE, else ~/.cache/lensbench."""
    return Path(os.environ.get("LENSBENCH_CACHE") or Path.home() / ".cache" / "lensbench")


class Inception:
    """Inception-v3 (2015-12-05), pool3: the features that FID is defined on. Call it on images.

    `digest` is the sha256 of the weights and `resize` the resize in words; store both with every number, for libraries
    differ in the resize and their FIDs do not agree (Parmar et al. 2022, arXiv 2104.11222). `resize` "clean" is
    clean-fid's; "torchmetrics" and "pytorch-fid" do what those do to a picture, and "tensorflow" lets the network
    resize, as EDM's and StyleGAN's reference statistics were made (pictures of one size only).
    """

    dimensions = INCEPTION_FEATURES

    def __init__(self, path: Path, batch: int = 32, *, resize: Resize = "clean", device: str = "cpu") -> None:
        import torch

        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.batch = batch
        self.mode, self.device = resize, device
        self.resize = RESIZES_IN_WORDS[resize]
        self.name = "inception" if self.digest == INCEPTION_DIGEST else f"inception_{self.digest[:8]}"
        if resize != "clean":
            self.name += f"_{resize.replace('-', '_')}"
        try:
            self._network = torch.jit.load(str(path), map_location=device).eval()
            self._layers = self._network.layers
        except (RuntimeError, AttributeError) as error:
            raise ValueError(f"{path} is not the TorchScript Inception; take {INCEPTION_URL}") from error
        self._resize = _resizer(resize)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """One picture uint8 (H, W, 3) as float32 (299, 299, 3) in [0, 255], or as it is where the network resizes."""
        return self._resize(image)

    def embed(self, prepared: np.ndarray) -> np.ndarray:
        """Features float32 (B, 2048) of prepared pictures (B, H, W, 3)."""
        import torch

        pixels = torch.from_numpy(prepared).permute(0, 3, 1, 2).to(self.device)
        with torch.inference_mode():
            if self.mode == "tensorflow":
                found = self._network(pixels.float(), return_features=True)
            elif self.mode == "pytorch-fid":
                found = self._layers.forward(pixels / 127.5 - 1)
            else:
                found = self._layers.forward((pixels - 128) / 128)
        if found.numel() != len(prepared) * INCEPTION_FEATURES:
            raise ValueError(
                f"the network gives {found.numel() // len(prepared)} features, Inception's pool3 has 2,048"
            )
        return found.reshape(len(prepared), INCEPTION_FEATURES).float().cpu().numpy()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features float64 (N, 2048) of images uint8 (N, H, W, 3), sRGB. Raises ValueError for any other."""
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images are {images.dtype} {images.shape}; Inception takes uint8 (N, H, W, 3)")
        found = np.empty((len(images), INCEPTION_FEATURES))
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            found[start : start + len(part)] = features(self, part, self.batch)
        return found


class FunctionExtractor:
    """Any function of pictures: `function` takes uint8 (B, H, W, 3), pictures of one size, and gives (B, F).

    `name` must tell it from every other one, and `digest` its weights.
    """

    def __init__(
        self,
        name: str,
        digest: str,
        function: Callable[[np.ndarray], np.ndarray],
        dimensions: int,
        *,
        resize: str = "none",
        prepare: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        if name == "inception" or not name or not digest:
            raise ValueError(f"an extractor of your own needs a name, not 'inception', and a digest; got {name!r}")
        self.name, self.digest, self.dimensions, self.resize = name, digest, dimensions, resize
        self._function, self._prepare = function, prepare

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """The picture as the function takes it."""
        return self._prepare(image) if self._prepare else image

    def embed(self, prepared: np.ndarray) -> np.ndarray:
        """Features (B, F). Raises ValueError when the function gives another shape."""
        found = np.asarray(self._function(prepared))
        if found.shape != (len(prepared), self.dimensions):
            raise ValueError(
                f"extractor {self.name}: {len(prepared)} pictures gave features of shape {found.shape}; "
                f"({len(prepared)}, {self.dimensions}) is needed"
            )
        return found


def inception(path: Path | None = None, *, resize: Resize = "clean", device: str = "cpu") -> Inception:
    """The FID extractor from `path`, else from the cache folder; ValueError saying what to put where if absent."""
    if reason := _inception_missing(path):
        raise ValueError(reason)
    return Inception(path or cache_folder() / INCEPTION_FILE, resize=resize, device=device)


@functools.cache
def inception_if_present() -> Inception | None:
    """The FID extractor, read once a process, where its weights are in the cache folder."""
    return None if _inception_missing(None) else inception()


def not_scored() -> list[str]:
    """What is not scored on photographs here and what to do about it, one sentence each."""
    inception_missing = _inception_missing(None)
    return [
        *([inception_missing] if inception_missing else []),
        "GenEval is not scored on photographs within a sweep; draw its prompts with lensbench generate --prompts "
        "geneval, then lensbench geneval PICTURES.",
        "CLIPScore is not computed within a sweep; draw with lensbench generate, "
        "then lensbench score PICTURES --metrics clip_score.",
    ]


def _inception_missing(path: Path | None) -> str:
    wanted = path or cache_folder() / INCEPTION_FILE
    return "" if wanted.is_file() else f"FID needs the Inception weights: put {INCEPTION_URL} at {wanted}."


def _resizer(mode: Resize) -> Callable[[np.ndarray], np.ndarray]:
    if mode == "tensorflow":
        return lambda image: image
    return clean_resize(INCEPTION_SIDE_PX) if mode == "clean" else functools.partial(_bilinear, mode == "torchmetrics")


def _bilinear(antialias: bool, image: np.ndarray) -> np.ndarray:
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
    size = (INCEPTION_SIDE_PX, INCEPTION_SIDE_PX)
    with torch.inference_mode():
        found = torch.nn.functional.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=antialias)
    return found[0].permute(1, 2, 0).numpy()


def clean_resize(side_px: int) -> Callable[[np.ndarray], np.ndarray]:
    """clean-fid's resize of one image: uint8 (H, W, 3) to float32 (S, S, 3) in [0, 255], never re-quantized."""
    try:
        from cleanfid.resize import make_resizer
    except ImportError:
        raise ValueError("distances need clean-fid's resize: pip install --no-deps clean-fid") from None
    resize: Callable[[np.ndarray], np.ndarray] = make_resizer("PIL", False, "bicubic", (side_px, side_px))
    return resize


def one_size(images: Sequence[np.ndarray], name: str) -> np.ndarray:
    """Prepared pictures in one array. Raises ValueError, one line, when their shapes differ."""
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        some = ", ".join(sorted("x".join(map(str, shape[:2])) for shape in shapes)[:3])
        raise ValueError(f"{name} does not resize and the pictures differ in size ({some}); give pictures of one size")
    return np.stack(images)
