"""Where forward passes happen: what the engine asks of it, and this process, which can do it.

Another place, such as a cluster, gives the same answers; the engine keeps the files and the order of things.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from featurebank.extract import backbones
from featurebank.extract.agreement import STEPS, Kept, agreement
from featurebank.extract.backbones.contract import BackboneSpec
from featurebank.extract.batches import Part, Preparer, Reader, Shelves, batches, pixels_key
from featurebank.extract.datasets.contract import Split
from featurebank.extract.device import Execution, cpu_cores
from featurebank.extract.errors import ExtractError
from featurebank.extract.forward import PixelsToFeatures, Runner, is_out_of_memory
from featurebank.extract.gpu_jpeg import check_decoder
from featurebank.extract.key import LEAST_AGREEMENT, Precision, StoredType
from featurebank.extract.memory import keep_freed_memory
from featurebank.extract.pixel_cache import PixelCache
from featurebank.extract.plan import Rows
from featurebank.extract.progress import Clock
from featurebank.extract.provenance import provenance
from featurebank.extract.schedule import Line, Pass, run_pass
from featurebank.extract.sink import Sink, Target

__all__ = ["Compute", "ComputeError", "Facts", "Feed", "Local", "Recipe", "Walk", "numerics"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network and how it is run: all that is needed to build it, wherever that is.

    Attributes:
        spec: which backbone.
        precision: of its arithmetic.
        dtype: of its outputs.
        batch_size: images a pass; also the grid that batches are cells of.
        compiled: whether to compile it.
        packed: whether to lay it out for oneDNN.
        kept: what stays in float32 all the same; ``None`` where that is still to be measured.
    """

    spec: BackboneSpec
    precision: Precision
    dtype: StoredType
    batch_size: int
    compiled: bool
    packed: bool = False
    kept: Kept | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What must be known of a network before its file is laid out.

    Attributes:
        shapes: output to the shape of one row.
        head: the classifier's weight (K, D) and bias (K,), float32, where there is one.
        execution: how it runs, for the manifest: ``compiled``, ``packed`` where it is, ``batch_size``, ``sparsity`` of
            a pruned network; in a lower precision ``float32``, what is kept in it, and ``agreement``, the smallest
            cosine to float32 of all that was tried.
    """

    shapes: Mapping[str, tuple[int, ...]]
    head: tuple[NDArray[Any], NDArray[Any]] | None
    execution: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Feed:
    """One feature set of a walk.

    Attributes:
        recipe: its network.
        pending: the positions of the walk that it needs.
        target: where its rows go.
    """

    recipe: Recipe
    pending: Rows
    target: Target


@dataclass(frozen=True, kw_only=True)
class Walk:
    """One way through a split, or through some of its rows.

    Attributes:
        split: its index in the run.
        part: the records, in order; ranges and pending positions count these.
        ranges: the tasks, half-open, ascending.
        feeds: the feature sets; all share a decode.
    """

    split: int
    part: Part
    ranges: Sequence[tuple[int, int]]
    feeds: Sequence[Feed]


class ComputeError(ExtractError, RuntimeError):
    """The place where networks run is of no more use: nothing else of the run can go on."""


class Compute(Protocol):
    """A place where networks run."""

    lanes: int
    """How many batches are under way at once."""

    def built(self, recipe: Recipe) -> bool:
        """Whether a network is there, so that `facts` has nothing to build."""
        ...

    def facts(self, recipe: Recipe, images: NDArray[np.uint8] | None = None) -> Facts:
        """Builds a network, or finds it built.

        Args:
            recipe: which one.
            images: (B, H, W, C) what its precision is tried on, if the recipe leaves that open.

        Raises:
            Exception: it cannot be built; the same again for every later question about it.
        """
        ...

    def run(self, walk: Walk, sink: Sink, clock: Clock, poll: Callable[[int], None]) -> int:
        """Sends a walk's images through its networks, everything into the sink; returns how many images.

        Args:
            walk: what goes where.
            sink: takes rows in any order; once it has an error, the walk ends early.
            clock: where busy seconds go.
            poll: called several times a second with the images done so far.
        """
        ...

    def note(self, recipe: Recipe) -> str:
        """What a person should know of how a network runs; empty where there is nothing."""
        ...

    def forget(self) -> None:
        """The networks so far are not needed again."""
        ...

    def provenance(self, execution: Mapping[str, Any], split: Split, spec: BackboneSpec) -> dict[str, Any]:
        """Versions, device and execution, for the manifest."""
        ...


class Local:
    """This process: networks are built once and kept until they are forgotten.

    Args:
        device: a resolved one, ``cpu``, ``cuda`` …, or several GPUs, ``cuda:0,cuda:1``.
        execution: lanes, strictness, and where prepared pixels are kept.
    """

    def __init__(self, device: str, execution: Execution) -> None:
        self.device, *self._further = device.split(",")
        self.cache = _pixel_cache(execution)
        self.lanes = execution.workers or cpu_cores()
        self._strict = execution.strict
        self._cuda = device.startswith("cuda")
        self._runners: dict[Recipe, Runner | Exception] = {}
        if not self._cuda:
            keep_freed_memory()

    @property
    def cached(self) -> int:
        """Images whose pixels came from the pixel cache, their files not read."""
        return 0 if self.cache is None else self.cache.images

    def built(self, recipe: Recipe) -> bool:
        """See `Compute`."""
        return isinstance(self._runners.get(recipe), Runner)

    def facts(self, recipe: Recipe, images: NDArray[np.uint8] | None = None) -> Facts:
        """See `Compute`."""
        runner = self._runner(recipe, images)
        spec, network = recipe.spec, runner.module.network
        size = (1, spec.preprocessing.height, spec.preprocessing.width, 3)
        with torch.inference_mode():
            probe = runner.module(torch.zeros(size, dtype=torch.uint8, device=runner.device))
        head = network.head() if "pooled" in spec.outputs else None
        execution: dict[str, Any] = {"compiled": runner.compiled, "batch_size": runner.batch_size}
        if runner.packed:
            execution["packed"] = True
        if recipe.precision != "float32":
            execution["float32"] = runner.module.kept
            if runner.module.tried:
                execution["agreement"] = dict(runner.module.tried)
        if sparsity := round(network.sparsity(), 6):
            execution["sparsity"] = sparsity
        return Facts(
            shapes={name: tuple(probe[name].shape[1:]) for name in spec.outputs},
            head=None if head is None else (head.weight.float().cpu().numpy(), head.bias.float().cpu().numpy()),
            execution=execution,
        )

    def run(self, walk: Walk, sink: Sink, clock: Clock, poll: Callable[[int], None]) -> int:
        """See `Compute`."""
        geometries = [feed.recipe.spec.preprocessing for feed in walk.feeds]
        lines = [
            Line(self._runner(feed.recipe), pixels_key(geometry), feed.target)
            for feed, geometry in zip(walk.feeds, geometries, strict=True)
        ]
        size = max(line.runner.batch_size for line in lines)
        shelves = None
        if self.cache is not None and geometries[0].decode.library == "pillow":
            # What a GPU decodes differs from one generation to the next, so it is not kept.
            shelves = Shelves(self.cache, geometries)
        read = Reader(walk.part, clock, strict=self._strict, shelves=shelves)
        shared = Pass(
            lines=lines,
            work=batches(walk.ranges, [feed.pending for feed in walk.feeds], size),
            read=read,
            prepare=Preparer(
                walk.part,
                geometries,
                clock,
                strict=self._strict,
                pinned=self._cuda,
                shelves=shelves,
                device=self.device,
            ),
            sink=sink,
            clock=clock,
            workers=self.lanes,
        )
        with closing(read):
            run_pass(shared, cuda=self._cuda, poll=lambda: poll(shared.rows_done))
        return shared.rows_done

    def note(self, recipe: Recipe) -> str:
        """See `Compute`."""
        runner = self._runners.get(recipe)
        runners = (runner, *runner.beside) if isinstance(runner, Runner) else ()
        return next((one.note for one in runners if one.note), "")

    def forget(self) -> None:
        """See `Compute`."""
        self._runners.clear()

    def provenance(self, execution: Mapping[str, Any], split: Split, spec: BackboneSpec) -> dict[str, Any]:
        """See `Compute`."""
        return provenance(self.device, execution, split, spec)

    def _runner(self, recipe: Recipe, images: NDArray[np.uint8] | None = None) -> Runner:
        if recipe not in self._runners:
            try:
                runner: Runner | Exception = self._build(recipe, images)
            except Exception as error:
                runner = _without_frames(error)
            self._runners[recipe] = runner
            if isinstance(runner, Runner):
                # As it turned out: a compilation may have failed, a lower precision may have cost too much. The next
                # split asks for what was asked here, but knows what is kept.
                for known in (recipe, replace(recipe, compiled=runner.compiled, packed=runner.packed)):
                    self._runners.setdefault(known, runner)
                    self._runners.setdefault(replace(known, kept=_kept(recipe, runner)), runner)
        found = self._runners[recipe]
        if isinstance(found, Exception):
            raise found
        return found

    def _build(self, recipe: Recipe, images: NDArray[np.uint8] | None) -> Runner:
        check_decoder(recipe.spec.preprocessing.decode.library, self.device)
        if recipe.precision == "float32" or recipe.kept is not None:
            module = self._module(recipe, recipe.kept or "nothing")
        else:
            module = self._agreeing(recipe, images)
        size = recipe.batch_size
        runner = Runner(module, device=self.device, batch_size=size, compiled=recipe.compiled, packed=recipe.packed)
        # Built again, not copied: what a hook keeps would be the first one's. They are GPUs, so nothing is packed.
        runner.beside = tuple(
            Runner(self._module(recipe, module.kept), device=device, batch_size=size, compiled=runner.compiled)
            for device in self._further
        )
        return runner

    def _module(self, recipe: Recipe, kept: Kept, network: Any = None) -> PixelsToFeatures:
        network = backbones.build(recipe.spec) if network is None else network
        return PixelsToFeatures(network, recipe.spec, recipe.precision, recipe.dtype, kept)

    def _agreeing(self, recipe: Recipe, images: NDArray[np.uint8] | None) -> PixelsToFeatures:
        """The network in the lower precision, with as much of it in float32 as these images ask for."""
        tried: dict[Kept, float] = {}
        if images is not None and len(images):
            exact = self._module(recipe, "everything")
            expected = self._outputs(exact, images)
            network: Any = exact.network  # serves once: a lower precision is no way back
            del exact
            for kept in STEPS:
                try:
                    module = self._module(recipe, kept, network)
                    network = None
                    tried[kept] = agreement(expected, self._outputs(module, images))
                except Exception as error:
                    if is_out_of_memory(error):
                        raise
                    tried[kept] = 0.0
                    continue
                if tried[kept] >= LEAST_AGREEMENT:
                    module.tried = tried
                    return module
        module = self._module(recipe, "everything")
        module.tried = tried
        return module

    def _outputs(self, module: PixelsToFeatures, images: NDArray[np.uint8]) -> dict[str, torch.Tensor]:
        runner = Runner(module, device=self.device, batch_size=len(images), compiled=False)
        return {name: value.cpu() for name, value in runner(torch.tensor(images)).items()}


def _kept(recipe: Recipe, runner: Runner) -> Kept | None:
    return None if recipe.precision == "float32" else runner.module.kept


def _without_frames(error: Exception) -> Exception:
    """The error alone: the frames of its traceback would hold the network that could not be built."""
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__
    return error


def _pixel_cache(execution: Execution) -> PixelCache | None:
    if execution.pixel_cache is None:
        return None
    limit = None if execution.pixel_cache_gb is None else int(execution.pixel_cache_gb * 1e9)
    return PixelCache(execution.pixel_cache, limit_bytes=limit)


@contextmanager
def numerics() -> Iterator[None]:
    """One thread per lane, float32 that is float32 on every device, kernels that no timing chose; then as they were."""
    threads = torch.get_num_threads()
    backends: list[Any] = [getattr(torch.backends.cudnn, name) for name in ("conv", "rnn")]
    backends.append(torch.backends.cuda.matmul)
    earlier = [backend.fp32_precision for backend in backends]
    timed = torch.backends.cudnn.benchmark
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = False
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = timed
        for backend, value in zip(backends, earlier, strict=True):
            backend.fp32_precision = value
