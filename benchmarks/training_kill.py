"""Kills a training with ``kill -9``, again and again, and compares the weights with those of an undisturbed run.

Fine-tuning, a detector or a segmenter on a packaged network, one thread, a checkpoint after every step. A kill falls
within a step, the writing of a checkpoint or, of fine-tuning, an evaluation, chosen at random, at a random moment of
it; then the same command runs again at once. Images are read in the process itself, then by two more, which must end by
themselves when theirs is killed.

usage: python benchmarks/training_kill.py [--verb finetune|detect|segment] [--kills 10] [--seed 0] [--epochs 5]
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm  # noqa: F401 - imported once, not in every child
import torch
from harness import environment, report
from safetensors.torch import load_file

from featurebank.pipelines.asking.run import ask
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.pipelines.extracting.jobs import jobs_of, workshop_of
from featurebank.pipelines.extracting.run import run_features
from featurebank.pipelines.jobs.detection.task import Detection
from featurebank.pipelines.jobs.finetune.task import Classification
from featurebank.pipelines.jobs.segmentation.task import Segmentation
from featurebank.pipelines.training import loop
from featurebank.pipelines.training.learner import Learner
from featurebank.pipelines.training.state import save
from featurebank.store import FeatureStore

STAGES = ("start", "step", "checkpoint", "evaluation")
LONGEST = {"step": 0.2, "checkpoint": 0.05, "evaluation": 0.2}
"""Seconds after the beginning of a stage within which a process is killed, unless the stage is over by then."""
ORPHANS_SECONDS = 15.0


class Stage:
    """What a child is at, seen by its parent: a stage, and how many of them it has begun."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 2)

    def __str__(self) -> str:
        return STAGES[self._shared[0]]

    @property
    def count(self) -> int:
        """Of stages begun, modulo 256."""
        return self._shared[1]

    def begin(self, name: str) -> None:
        """The next stage."""
        self._shared[0], self._shared[1] = STAGES.index(name), (self._shared[1] + 1) % 256

    def told(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, told to the parent while it runs; between two of them a child is reading rows: a step."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            self.begin(name)
            try:
                return function(*arguments, **keywords)
            finally:
                self.begin("step")

        return call


@dataclass
class Course:
    """One run, however often it was killed.

    Attributes:
        digest: of the tensors in the end.
        moments: at which it was killed.
        orphans: seconds until the last process that a killed one left behind was gone.
        seconds: all of it took.
    """

    digest: str = ""
    moments: list[str] = field(default_factory=list)
    orphans: float = 0.0
    seconds: float = 0.0


SMALL: dict[str, Any] = {"px": 64, "channels": 16, "strides": [8, 16], "batch_size": 2, "tuned": True}
JOBS: dict[str, tuple[str, int, dict[str, Any], str]] = {
    "finetune": ("fashion_mnist", 160, {"recipe": "lp_ft", "options": {"batch_size": 16}}, "tuned"),
    "detect": ("emoji_scenes", 20, {"options": {**SMALL, "head": "mask", "proposals": 40, "sampled": 16}}, "detectors"),
    "segment": ("emoji_scenes", 20, {"options": SMALL}, "segmenters"),
}
"""Of a verb: the images, how many to train on, what is asked, and the folder of its weights."""


def configuration(verb: str, store: Path, epochs: int) -> RunConfig:
    name, rows, asked, _ = JOBS[verb]
    splits = [{"split": split, "subset": {"size": size}} for split, size in (("train", rows), ("test", rows // 2))]
    options = {**asked["options"], "epochs": epochs, "precision": "float32"}
    return RunConfig.model_validate(
        {
            "store": store,
            "backbones": ["efficientnet_lite0@64px"],
            "datasets": [{"name": name, "splits": splits}],
            "extraction": {"device": "cpu", "precision": "float32", "compile": "never", "workers": 1},
            verb: [{"of": name, **asked, "options": options}],
        }
    )


def forked(job: Callable[[], object]) -> int:
    """The id of a child that does a job and ends, with status 1 where it fails."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            job()
            code = 0
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def trained(verb: str, run: RunConfig, workers: int, stage: Stage) -> None:
    """The command's work, in a child, with a checkpoint after each step."""
    vars(loop)["save"] = stage.told("checkpoint", save)
    for task in (Classification, Detection, Segmentation):
        task.validate = stage.told("evaluation", task.validate)  # type: ignore[method-assign]
    Learner.update = stage.told("step", Learner.update)  # type: ignore[method-assign]
    store = FeatureStore(run.store)
    workshop = replace(workshop_of(run, lambda _: None), workers=workers, seconds_between=0.0)
    answers = ask(store, jobs_of(run, store, verb), workshop=workshop)
    if not answers.ok:
        raise SystemExit("; ".join(one.error for one in answers.asked))


def digest(verb: str, store: Path) -> str:
    """SHA-256 of names and bytes of the tensors of the one network that is there."""
    (path,) = (store / JOBS[verb][-1]).glob("*/weights.safetensors")
    sums = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        sums.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return sums.hexdigest()


def struck(child: int, stage: Stage, wanted: str, steps: int, delay: float) -> tuple[str, set[int]] | None:
    """Kills a child in a stage that is wanted; what it was at and whom it leaves, or ``None`` where it ended first."""
    begun = stage.count
    while not _ended(child):
        if (stage.count - begun) % 256 >= steps and str(stage) == wanted:
            time.sleep(delay)
            os.kill(child, signal.SIGSTOP)
            told, left = f"in {stage}, {delay * 1000:.1f} ms after one seen of {wanted}", started_by(child)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return told, left
        time.sleep(0.0005)
    return None


def _ended(child: int) -> bool:
    pid, status = os.waitpid(child, os.WNOHANG)
    if status:
        raise SystemExit(f"a child ended with status {status}")
    return pid != 0


def started_by(pid: int) -> set[int]:
    """Processes that one has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return {int(one) for path in tasks for one in path.read_text().split()}


def seconds_until_gone(processes: set[int]) -> float:
    """How long other processes live on, at most `ORPHANS_SECONDS`."""
    started = time.perf_counter()
    while any(Path(f"/proc/{pid}").exists() for pid in processes):
        if time.perf_counter() - started > ORPHANS_SECONDS:
            raise SystemExit(f"processes of a killed run must end by themselves; found {processes}")
        time.sleep(0.05)
    return time.perf_counter() - started


def course(verb: str, run: RunConfig, workers: int, kills: int, seed: int) -> Course:
    """A run that is killed so often, then left alone."""
    rng, stage, done = random.Random(seed), Stage(), Course()  # noqa: S311 - moments
    left: set[int] = set()
    started = time.perf_counter()
    while not done.digest:
        stage.begin("start")
        child = forked(lambda: trained(verb, run, workers, stage))
        blow = None
        if len(done.moments) < kills:
            wanted = rng.choices(STAGES[1:], (2, 2, verb == "finetune"))[0]
            blow = struck(child, stage, wanted, rng.randint(1, 6), rng.uniform(0, LONGEST[wanted]))
        elif os.waitpid(child, 0)[1]:
            raise SystemExit("a child failed")
        if blow is None:
            done.digest = digest(verb, run.store)
        else:
            done.moments.append(blow[0])
            left |= blow[1]
    done.seconds, done.orphans = time.perf_counter() - started, seconds_until_gone(left)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("kills", 10), ("seed", 0), ("epochs", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--verb", choices=sorted(JOBS), default="finetune")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    print(environment())
    courses: dict[tuple[int, int], Course] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = configuration(given.verb, folder / "features", given.epochs)
        extraction = forked(lambda: run_features(base.model_copy(update={given.verb: ()})))
        if os.waitpid(extraction, 0)[1]:
            raise SystemExit("the features could not be extracted")
        for workers in (0, 2):
            for kills in (0, given.kills):
                run = base.model_copy(update={"store": folder / f"{workers}-{kills}"})
                shutil.copytree(base.store, run.store)
                one = courses[workers, kills] = course(given.verb, run, workers, kills, given.seed + workers)
                print(f"\n{workers} loader workers, killed {len(one.moments)} times, {one.seconds:.0f} s: {one.digest}")
                for number, moment in enumerate(one.moments, 1):
                    print(f"  {number:>2} {moment}")
                if kills and workers:
                    print(f"  the last process that was left behind lived on for {one.orphans:.1f} s at the end")
    undisturbed = courses[0, 0].digest
    same = sum(one.digest == undisturbed for (_, kills), one in courses.items() if kills)
    struck_at = {f"{workers} workers": len(courses[workers, given.kills].moments) for workers in (0, 2)}
    report(f"{given.verb}_kill", ours=same, reference=2, unit="equal digests", bound="ratio 1", kills=struck_at)


if __name__ == "__main__":
    main()
