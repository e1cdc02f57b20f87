"""The training loop: resumption to the bit, accumulation, several processes, what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from training_tasks import PLAN, Numbers, digest, run

from featurebank.pipelines.training import loop
from featurebank.pipelines.training.learner import Learner, _optimizer
from featurebank.pipelines.training.loop import Progress
from featurebank.pipelines.training.phase import Phase, Plan, rate_at
from featurebank.pipelines.training.state import CHECKPOINT, State, load
from featurebank.pipelines.training.task import Batch, TrainingError
from featurebank.pipelines.training.trial import Numerics, tried

WORKER = Path(__file__).parents[1] / "support" / "training_tasks.py"


class StoppedError(Exception):
    """In place of a kill."""


def stop_at(step: int):  # type: ignore[no-untyped-def]
    def observe(progress: Progress) -> None:
        if progress.step == step:
            raise StoppedError

    return observe


def test_a_run_that_is_stopped_anywhere_ends_with_the_bits_of_one_that_never_was(tmp_path: Path) -> None:
    whole = Numbers()
    end = run(tmp_path / "whole", task=whole)
    assert [one["phase"] for one in end.history] == sorted(one["phase"] for one in end.history)
    for step in (1, 4, 5, 13, end.step - 1):
        folder = tmp_path / str(step)
        with pytest.raises(StoppedError):
            run(folder, observe=stop_at(step))
        again = Numbers()
        assert run(folder, task=again).history == end.history
        assert digest(again.model.state_dict()) == digest(whole.model.state_dict())


def test_a_killed_process_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def start(folder: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, WORKER, folder], stdout=subprocess.PIPE, env=_environment())

    expected = start(tmp_path / "whole").communicate()[0]
    folder, kills = tmp_path / "killed", 0
    rng = np.random.default_rng(0)
    while True:
        process = start(folder)
        deadline = time.monotonic() + 60
        while (
            kills < 2 and not (folder / CHECKPOINT).exists() and time.monotonic() < deadline and process.poll() is None
        ):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3) if kills < 2 else 0)
        if kills < 2 and process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        assert process.communicate()[0] == expected
        return


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    outputs = []
    for folder, launch in (("one", []), ("two", command)):
        done = subprocess.run(
            [sys.executable, *launch, WORKER, tmp_path / folder, "alone"],
            capture_output=True,
            env=_environment(),
            check=True,
        )
        outputs.append(json.loads(done.stdout))
    one, two = (output["history"] for output in outputs)
    assert [epoch["loss"] for epoch in two] == pytest.approx([epoch["loss"] for epoch in one], abs=1e-5)


def test_accumulated_gradients_are_those_of_the_whole_batch_and_of_a_smaller_last_one() -> None:
    for micro in (1000, 8):
        task = Numbers(rows_alone=True)
        learner = Learner(task, replace(PLAN, clip=0.0, ema=0.0), Numerics(micro=micro), State())
        for size in (32, 13):
            rows = np.arange(size)
            batch = Batch(rows=rows, inputs=task.inputs[rows], targets=task.labels[rows])
            learner.model.train()
            learner._accumulated(batch)
            gradients = [p.grad.clone() for p in task.model.parameters() if p.grad is not None]
            exact = nn.functional.cross_entropy(task.model.double()(batch.inputs.double()), batch.targets)
            expected = torch.autograd.grad(exact, list(task.model.parameters()))
            task.model.float()
            for ours, wanted in zip(gradients, expected, strict=True):
                assert torch.allclose(ours.double(), wanted, atol=1e-6)


def test_rates_are_those_of_the_groups_times_the_schedule(tmp_path: Path) -> None:
    seen = []

    class Watched(Numbers):
        def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
            seen.append([group["lr"] for group in learners[0].optimizer.param_groups])
            return super().losses(model, batch)

    learners = []

    def kept(*given, **more):  # type: ignore[no-untyped-def]
        learners.append(Learner(*given, **more))
        return learners[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Learner", kept)
        run(tmp_path, task=Watched(), plan=replace(PLAN, phases=PLAN.phases[:1]))
    phase = PLAN.phases[0]
    shares = [rate_at(phase, step, 5) for step in range(15)]
    assert seen == [[0.005 * share, 0.01 * share] for share in shares]


def test_memory_that_runs_out_halves_what_goes_through_at_once_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Tight(Numbers):
        def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
            if len(batch) > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().losses(model, batch)

    plan = replace(PLAN, phases=(Phase(epochs=2),))
    roomy = run(tmp_path / "roomy", plan=plan, task=Numbers(rows_alone=True))
    tight = run(tmp_path / "tight", plan=plan, task=Tight(rows_alone=True))
    assert [one["loss"] for one in tight.history] == pytest.approx([one["loss"] for one in roomy.history], abs=1e-5)
    assert "4 rows at once" in caplog.text


def test_what_is_not_finite_stops_with_the_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    class Broken(Numbers):
        def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
            losses = super().losses(model, batch)
            return losses * float("nan") if broken and 7 in batch.rows else losses

    broken = False
    with pytest.raises(StoppedError):
        run(tmp_path, task=Broken(), observe=stop_at(6))
    broken = True
    with pytest.raises(TrainingError, match=r"finite; found a loss of nan at step \d+ with rows .*lower rate"):
        run(tmp_path, task=Broken())
    state = load(tmp_path, {"plan": 1})
    assert state is not None
    assert state.step >= 5
    assert all(torch.isfinite(value).all() for value in state.weights.values())


def test_a_checkpoint_of_another_run_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run(tmp_path, observe=stop_at(3))
    with pytest.raises(TrainingError, match="plan: 1 there, 2 here"):
        load(tmp_path, {"plan": 2})
    (tmp_path / CHECKPOINT).write_bytes(b"nothing of the kind")
    with pytest.raises(TrainingError, match="must be a checkpoint"):
        load(tmp_path, {"plan": 1})


def test_a_disk_that_is_full_costs_a_warning_and_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StoppedError):
        run(tmp_path, observe=stop_at(3))
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoppedError):
            run(tmp_path, observe=stop_at(6))
    assert "No space left on device" in caplog.text
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT]


def test_patience_counts_epochs_without_a_better_score_and_the_next_phase_begins_at_the_best(tmp_path: Path) -> None:
    scores = iter([0.1, 0.5, 0.4, 0.5, 0.3, 0.2, 0.6, 0.1, 0.1])
    begun = []

    class Scored(Numbers):
        def validate(self, model: nn.Module) -> dict[str, float]:  # noqa: ARG002 (of the task)
            return {"accuracy": next(scores)}

        def groups(self, phase: Phase) -> list[dict[str, object]]:
            begun.append(digest(self.model.state_dict()))
            return super().groups(phase)

    phases = (Phase(epochs=9, patience=2), Phase(optimizer="sgd", epochs=9, patience=2))
    state = run(tmp_path, task=Scored(), plan=Plan(phases=phases, batch_size=40))
    assert [(one["phase"], one["accuracy"]) for one in state.history] == [
        (0, 0.1), (0, 0.5), (0, 0.4), (0, 0.5), (1, 0.3), (1, 0.2), (1, 0.6), (1, 0.1), (1, 0.1)
    ]  # fmt: skip
    assert state.best_epoch == 6
    assert begun[0] != begun[1]


def test_the_numerics_that_take_the_least_time_are_taken_and_those_that_fail_are_not() -> None:
    now = [0.0]
    costs = {"float32": 2.0, "bfloat16": 1.0}

    def step(one: Numerics) -> None:
        if one.channels_last:
            raise RuntimeError("not implemented")
        now[0] += costs[one.precision]

    candidates = [Numerics(), Numerics(precision="bfloat16"), Numerics(channels_last=True)]
    fastest, seconds = tried(step, candidates, clock=lambda: now[0])
    assert fastest == candidates[1]
    assert seconds == {"float32, channels first": 2.0, "bfloat16, channels first": 1.0}


def test_moments_lie_as_their_weights_do_also_after_a_checkpoint() -> None:
    """The optimiser goes over memory, not over places: weights, gradients and moments must have one order."""

    def trained(*, reloaded: bool) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 5, 3)).to(
            memory_format=torch.channels_last
        )
        images = torch.randn(4, 3, 9, 9).to(memory_format=torch.channels_last)
        optimizer = _optimizer(Phase(rate=1e-2), [{"params": list(model.parameters()), "lr": 1e-2}])
        for step in range(4):
            if reloaded and step == 2:
                kept = BytesIO()
                torch.save(optimizer.state_dict(), kept)
                kept.seek(0)
                optimizer = _optimizer(Phase(rate=1e-2), [{"params": list(model.parameters()), "lr": 1e-2}])
                optimizer.load_state_dict(torch.load(kept, weights_only=True))
            optimizer.zero_grad()
            torch.autograd.backward(model(images).square().mean())
            optimizer.step()
        for weight in model.parameters():
            assert weight.grad is not None
            assert weight.stride() == weight.grad.stride() == optimizer.state[weight]["exp_avg"].stride()
        return torch.cat([weight.detach().flatten() for weight in model.parameters()])

    assert torch.equal(trained(reloaded=False), trained(reloaded=True))
