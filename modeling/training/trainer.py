"""The training loop, the same for every objective.

Each turn: save if it is time, evaluate if it is time, take one step. Saving comes before evaluating, so that a failure
of the second loses nothing. Everything random follows from (seed, step): a run continued from a checkpoint repeats what
it would have done, to the bit on a CPU.

Beside it: `state` (what the loop changes), `watching` (rates, curve, progress), `saving` (checkpoints and the result),
`interruption` (when to stop), `parallel` (several devices).
"""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from modeling.cost import flops_per_token
from modeling.device import Compute
from modeling.networks.recurrent import RecurrentModel, RecurrentState
from modeling.training.distributed import Ranks
from modeling.training.interruption import Interruption
from modeling.training.objectives import CausalLM, StreamLM
from modeling.training.optim import is_dtensor, lr_scale, main_learning_rate, optimizers, set_learning_rates
from modeling.training.parallel import parallelized, set_weights, synchronize_gradients
from modeling.training.saving import Saver
from modeling.training.state import TrainingRun, TrainingState, curve_point
from modeling.training.watching import Watcher
from textmill.errors import Diverged, UserError
from textmill.progress import Progress

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)

# A step that is not compiled: share of a GPU's peak, or, of a small model, the time to start a layer's kernels
EAGER_MFU, EAGER_LAYER_SECONDS = 0.2, 5e-4
USUAL_PEAK = 300e12  # FLOP/s, of a GPU that `device.GPUS` does not know
# Compiling takes 30 to 50 seconds, and a compiled step about half the time: 2 minutes without it are 1 with it
COMPILING_PAYS_SECONDS = 120.0
OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # how a GPU says it, and how the CPU does


class StepAbandoned(Exception):
    """A stop was requested during a step, which may take minutes; the trainer discards it between two micro-batches."""


def is_worth_compiling(run: TrainingRun, compute: Compute, world: int) -> bool:
    """Whether a run on a GPU is long enough that compiling its steps saves more time than it takes."""
    config, about = run.config, run.checkpoint_config
    per_token = flops_per_token(about.model, about.vocab_size, run.objective.length)
    flops = config.steps * run.tokens_per_step * per_token / world / (compute.peak_flops or USUAL_PEAK)
    rows = -(-config.batch // world)
    passes = config.steps * -(-rows // min(config.micro_batch or rows, rows))
    return max(flops / EAGER_MFU, passes * about.model.layers * EAGER_LAYER_SECONDS) > COMPILING_PAYS_SECONDS


class Due(NamedTuple):
    """What is to be done before the next step."""

    save: bool
    evaluate: bool
    stop: bool


class Trainer:
    """One run, on this rank."""

    def __init__(self, run: TrainingRun, compute: Compute, ranks: Ranks, progress: Progress):
        """
        Raises:
            UserError: the batch does not divide over the ranks.
        """
        config = run.config
        if config.batch % ranks.world:
            raise UserError(f"batch {config.batch} does not divide over {ranks.world} ranks; make it a multiple")
        self.config, self.objective, self.compute, self.ranks = config, run.objective, compute, ranks
        model = run.model.to(compute.device)
        compiles = config.compile
        if compiles is None:
            compiles = compute.device.type == "cuda" and is_worth_compiling(run, compute, ranks.world)
        if compiles:
            model.compile()
        grows = config.progressive_steps > 0
        self.module: nn.Module = parallelized(model, ranks, compute, config.parallel, grows)  # may wrap the model
        average = {n: p.detach().clone() for n, p in model.named_parameters()} if config.ema else None
        self.state = TrainingState(model, optimizers(model, config.optimizer, compute.dtype), average)
        if isinstance(run.objective, StreamLM) and isinstance(model, RecurrentModel):
            self.state.carried = model.initial_state(config.batch)
        self.saver = Saver(run, self.state, ranks)
        self.watcher = Watcher(run, self.state, compute, ranks, progress)
        self.interruption = Interruption()
        self.batch_rows = ranks.share(config.batch)  # those of the global batch that are this rank's
        self.micro_batch = min(config.micro_batch or len(self.batch_rows), len(self.batch_rows))
        self.losses: list[Tensor] = []  # of the steps that are not on the curve yet: scalars on the device
        self.unreported: list[float] = []  # losses on the curve that no line of the log has averaged yet
        self.gradient_norm: Tensor | None = None  # of the last step that measured it: a scalar on the device

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train from the newest intact checkpoint, or from the start, to the last step.

        Raises:
            UserError: the run in the folder has other settings, a loss or the weights are not finite, or a step does
                not fit into memory.
            InterruptedError: the run was asked to stop, and the handler of that signal chose to go on.
        """
        self.saver.restore()
        with self.interruption, self.watcher:
            while True:
                due = self.due()
                if due.save:
                    self.save()
                if due.stop:
                    break
                if due.evaluate:
                    self.evaluate()
                if self.state.step == self.config.steps:
                    return
                self.advance()
            logger.info("interrupted: saved a checkpoint at step %d", self.state.step)
        raise InterruptedError(f"training was interrupted at step {self.state.step}; run it again to continue")

    def due(self) -> Due:
        """What all ranks agree to do before the next step."""
        step, config = self.state.step, self.config
        stop, overdue = self.ranks.any(self.interruption.requested is not None, self.saver.overdue)
        evaluate = step == config.steps or (step > 0 and step % config.evaluate_every == 0)
        save = evaluate or stop or overdue or step % config.checkpoint_every == 0 or step == self.saver.kept_step
        return Due(save and step > self.saver.saved_step, evaluate, stop)

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            UserError: a loss, a weight or what the optimizer keeps is not finite.
        """
        self.record_losses()
        with self.watcher.clock.paused("checkpoint"):
            self.gather_carried()
            if not self.saver.is_finite():
                raise self.diverged("weights became not finite", self.state.step, spoilt=self.state.step)
            self.saver.save()

    def gather_carried(self) -> None:
        """Fetch what the other ranks remember of their rows."""
        if self.state.carried is None or self.ranks.world == 1:
            return
        for tensor in self.state.carried.tensors.values():
            own = torch.zeros(tensor.shape)
            rows = slice(self.batch_rows.start, self.batch_rows.stop)
            own[rows] = tensor[rows].cpu()
            tensor.copy_(self.ranks.sum(own, self.compute.device))

    def evaluate(self) -> None:
        """Put the metrics of the validation windows on the curve, and tell them."""
        with self.watcher.clock.paused("evaluation"):
            metrics = self.validation_metrics()
            self.state.metrics.append({"step": self.state.step} | metrics)
            self.saver.prune()
            self.watcher.keep_sample()
        self.watcher.report(metrics)

    def advance(self) -> None:
        """Take a step, unless the run is asked to stop meanwhile; log it if it is time."""
        set_learning_rates(self.state.optimizers, self.lr_scale(self.state.step))
        try:
            loss = self.train_step_if_it_fits()
        except StepAbandoned:
            return
        if loss is None:
            raise UserError(self.advice_on_memory())
        self.losses.append(loss)
        self.watcher.count_step()
        self.state.step += 1
        if self.state.step % self.config.log_every == 0:
            self.record_losses()
            self.watcher.report(self.training_metrics())

    # -- a step --------------------------------------------------------------------------------------------------

    def train_step(self) -> Tensor:
        """One optimizer step over this rank's rows of the global batch.

        Returns:
            Their mean loss in nats: a scalar, still on the device.

        Raises:
            StepAbandoned: a lone process was asked to stop meanwhile; everything is as it was before.
        """
        state, config = self.state, self.config
        seed = np.random.SeedSequence([config.seed, state.step, self.ranks.rank]).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(seed >> np.uint64(1)))  # dropout: a function of (seed, step, rank)
        self.module.train()
        state.model.active_layers = config.active_layers(state.step)
        loss = self.accumulate_gradients()
        self.gradient_norm = self.clip_gradients(is_logged=(state.step + 1) % config.log_every == 0)
        for optimizer in state.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if state.average is not None and config.ema is not None:
            # an average over few steps forgets sooner, or the initial weights would stay in it for long
            decay = min(config.ema, (1 + state.step) / (10 + state.step))
            for name, parameter in state.model.named_parameters():
                state.average[name].lerp_(parameter.detach(), 1 - decay)
        return loss

    def accumulate_gradients(self) -> Tensor:
        """Forward and backward passes over this rank's rows, a micro-batch at a time; their mean loss."""
        total = torch.zeros((), device=self.compute.device)
        stop = self.batch_rows.stop
        carried: list[tuple[range, RecurrentState]] = []
        for start in range(self.batch_rows.start, stop, self.micro_batch):
            rows = range(start, min(start + self.micro_batch, stop))
            batch = self.objective.train_batch(self.state.step, self.config.batch, rows).to(self.compute.device)
            synchronize_gradients(self.module, rows.stop == stop)
            remembered = self.remembered(rows)
            with self.compute.autocast():
                loss = self.module(**batch._asdict(), **remembered) * (len(rows) / len(self.batch_rows))
            loss.backward()
            carried += [(rows, state) for state in remembered.values()]
            total += loss.detach()
            if self.interruption.requested is not None and self.ranks.world == 1 and rows.stop < stop:
                for optimizer in self.state.optimizers:
                    optimizer.zero_grad(set_to_none=True)
                raise StepAbandoned
        for rows, state in carried:
            assert self.state.carried is not None
            self.state.carried.put(rows, state)
        return total

    def remembered(self, rows: range) -> dict[str, RecurrentState]:
        """What a recurrent network remembers of these rows before the step's windows, as an argument `state`; nothing
        for other networks."""
        carried, objective = self.state.carried, self.objective
        if carried is None or not isinstance(objective, StreamLM):
            return {}
        state = carried.rows(rows)
        state.forget(torch.from_numpy(objective.train.begins(self.state.step, rows)))
        return {"state": state}

    def clip_gradients(self, *, is_logged: bool) -> Tensor | None:
        """Clip the gradients where the run says so; their global norm before, if it is to be logged."""
        parameters, clip = list(self.state.model.parameters()), self.config.optimizer.clip
        if clip is None and not is_logged:
            return None
        norm = nn.utils.get_total_norm(parameter.grad for parameter in parameters if parameter.grad is not None)
        if clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        return norm.full_tensor() if is_dtensor(norm) else norm

    def train_step_if_it_fits(self) -> Tensor | None:
        """A `train_step`; None where the device's memory does not suffice for it, and the weights are spoilt then."""
        try:
            return self.train_step()
        except RuntimeError as error:
            if not any(words in str(error) for words in OUT_OF_MEMORY):
                raise
        return None

    def advice_on_memory(self) -> str:
        """Advice on a step that did not fit, found by trying smaller ones. The weights are unusable then."""
        asked = self.micro_batch
        if self.ranks.world > 1 and asked > 1:  # ranks would have to try together, and not all of them have failed
            return f"{asked} windows at once do not fit into memory; set micro_batch to {asked // 2} or less"
        while self.micro_batch > 1:
            self.micro_batch //= 2
            if self.train_step_if_it_fits() is not None:
                fits = self.micro_batch
                return f"{asked} windows at once do not fit into memory, {fits} do; set micro_batch: {fits}"
        return "not even one window fits into memory; lower model.context or model.width, or set parallel: fsdp"

    def lr_scale(self, step: int) -> float:
        """What every learning rate of this step (0-based) is multiplied by."""
        return lr_scale(self.config.schedule, step, self.config.steps)

    def training_metrics(self) -> dict[str, float]:
        """For the log: the mean loss of the steps since the last line, the rate and the gradient's norm of the last."""
        metrics = {
            "loss": sum(self.unreported) / len(self.unreported),
            "learning_rate": self.learning_rate(self.state.step - 1),
        }
        self.unreported.clear()
        if self.gradient_norm is not None:
            metrics["gradient_norm"] = self.gradient_norm.item()
        return metrics

    def learning_rate(self, step: int) -> float:
        """The rate of the main group of parameters at this step, as logs and curves show it."""
        return main_learning_rate(self.config.optimizer) * self.lr_scale(step)

    # -- how well it does ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def validation_metrics(self) -> dict[str, float]:
        """Metrics on the validation windows, with the averaged weights where an average is kept.

        Raises:
            UserError: a metric is not finite. The checkpoint of these weights is dropped: the one before is the last
                good one.
        """
        state, trained = self.state, None
        if state.average is not None:
            trained = {name: value.clone() for name, value in state.model.state_dict().items()}
            set_weights(state.model, state.average)
        self.module.eval()
        # compiled, it would be another graph, of another call and without gradients: seconds for what takes less
        with torch.compiler.set_stance("force_eager"), self.compute.autocast():
            how = self.ranks, self.compute.device, self.micro_batch
            metrics = self.objective.evaluate(self.module, *how)
            if isinstance(self.objective, CausalLM) and (state.step == self.config.steps or self.config.keep == "best"):
                metrics |= self.objective.evaluate_positions(self.module, *how)  # of weights that may be the result
        if trained is not None:
            set_weights(state.model, trained)
        if not all(map(math.isfinite, metrics.values())):
            value = metrics["validation_loss"]
            raise self.diverged(f"validation loss became {value}", state.step, spoilt=state.step)
        return metrics

    def record_losses(self) -> None:
        """Put the losses of the last steps on the curve: means over the ranks, and over the steps between two points.

        The loop waits for the GPU only here, so that the GPU's queue stays filled.

        Raises:
            UserError: a loss is not finite; it names the step.
        """
        if not self.losses:
            return
        values = (self.ranks.sum(torch.stack(self.losses).cpu(), self.compute.device) / self.ranks.world).tolist()
        self.losses.clear()
        for step, value in enumerate(values, self.state.step - len(values) + 1):
            if not math.isfinite(value):
                raise self.diverged(f"loss became {value}", step, spoilt=step - 1)
            self.unreported.append(value)
            self.state.losses.append(value)
            if point := curve_point(self.config, step, self.state.losses):
                self.state.metrics.append(point)

    def diverged(self, what: str, step: int, spoilt: int) -> Diverged:
        """The error for what is not finite at a step. It drops the checkpoint of the step whose weights are spoilt, and
        names the one that remains."""
        good = self.saver.diverged(f"the {what} at step {step}", spoilt)
        kept = f"the checkpoint of step {good} is kept" if good else "there is no checkpoint before it"
        advice = "lower the learning rates of `optimizer` and run again, which begins anew then"
        return Diverged(f"the {what} at step {step} ({kept}); {advice}")
