"""One large, mostly frozen model over many processes: DeepSpeed ZeRO and FSDP2, where `accelerate launch` asks for them.

Such a model is prepared once a run, by `place`; `fit` then starts its optimizer anew for each task. Everything else asks here for
what lies in shares. Without DeepSpeed and FSDP nothing here communicates, and a model is what it always was.
"""

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import DistributedType, broadcast_object_list
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import Tensor, nn

from methods.config import Training
from methods.learning.optim import make_optimizer

SHARDED = (DistributedType.DEEPSPEED, DistributedType.FSDP)
_engines: "weakref.WeakKeyDictionary[nn.Module, tuple[nn.Module, Any]]" = weakref.WeakKeyDictionary()  # DeepSpeed's, with its optimizer


def is_sharded() -> bool:
    """-> was the run launched with DeepSpeed or FSDP? False where there is no accelerator at all."""
    return is_initialized() and AcceleratorState().distributed_type in SHARDED


def no_gradient() -> Any:
    """-> inference mode; the milder no_grad where shares are gathered: a weight gathered in inference mode could never train again"""
    return torch.no_grad() if is_sharded() else torch.inference_mode()


@contextlib.contextmanager
def in_shares(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Inside the block, `from_pretrained` of transformers leaves a model in shares, of this `dtype`, where the launch says so.

    Under ZeRO-3 each process keeps its share of each weight as it is read; under FSDP2 the first one holds the weights in main
    memory and the others none, until `place` deals them out. Outside of the block models are loaded whole, for use as they are.
    """
    state = AcceleratorState() if is_sharded() and _lacking is None else None
    # Some ways of loading draw numbers and some do not; what is made new afterwards must not depend on that.
    with torch.random.fork_rng(devices=[]):
        if state is None:
            yield
        elif state.distributed_type == DistributedType.FSDP:
            before = os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")
            os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "true"
            try:
                yield
            finally:
                os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = before
        else:
            with _telling(state.deepspeed_plugin, bf16=dtype == torch.bfloat16):  # ZeRO-3 makes weights in this and in no other
                state.deepspeed_plugin.set_deepspeed_weakref()  # transformers follows a copy of it
            try:
                yield
            finally:
                loaded_whole(state.deepspeed_plugin)


_lacking: list[str] | None = None


def planned() -> list[str] | None:
    """-> in a plan the list of what a run will need and is not here, to be added to; None in a run, which needs it now"""
    return _lacking


@contextlib.contextmanager
def weightless() -> Iterator[list[str]]:
    """Inside the block models are made in their shape alone, on the meta device, and `place` leaves them there: for plans.

    It gives a list of what a run would need beside that. Transformers learns of it here; other loaders ask `planned`.
    """
    global _lacking
    from transformers import PreTrainedModel

    def shape(cls: type, folder: Any, *_: Any, config: Any = None, dtype: Any = None, output_loading_info: bool = False, **__: Any) -> Any:
        config = config or cls.config_class.from_pretrained(folder)
        with torch.device("meta"):
            model = cls._from_config(config, **({} if dtype is None else {"dtype": dtype}))
        return (model, {"missing_keys": [], "mismatched_keys": [], "unexpected_keys": []}) if output_loading_info else model

    plain, _lacking = PreTrainedModel.__dict__["from_pretrained"], []
    PreTrainedModel.from_pretrained = classmethod(shape)
    try:
        yield _lacking
    finally:
        PreTrainedModel.from_pretrained, _lacking = plain, None


def on_device(accelerator: Accelerator, module: nn.Module) -> nn.Module:
    """-> a whole module on the device; in a plan, where it may have a shape alone, as it is"""
    return module.to(accelerator.device) if _lacking is None else module


def loaded_whole(plugin: Any) -> None:
    """From here on transformers takes no notice of DeepSpeed, which else would leave every model that it loads in shares."""
    from transformers.integrations import unset_hf_deepspeed_config

    plugin.dschf = None
    unset_hf_deepspeed_config()


@contextlib.contextmanager
def _telling(plugin: Any, bf16: bool) -> Iterator[None]:
    """Inside the block DeepSpeed is told to make everything bfloat16, or nothing, whatever accelerate believes of the run."""
    config = plugin.deepspeed_config
    before = {name: config.pop(name) for name in ("bf16", "bfloat16") if name in config}
    config["bf16"] = {"enabled": bf16}
    try:
        yield
    finally:
        config.pop("bf16")
        config.update(before)


def autocast(accelerator: Accelerator) -> Any:
    """-> the precision of the run, under DeepSpeed, too, where accelerate leaves it to the engine"""
    if accelerator.distributed_type == DistributedType.DEEPSPEED and accelerator.mixed_precision == "bf16":
        return torch.autocast(accelerator.device.type, torch.bfloat16)
    return accelerator.autocast()


def elements(parameter: Tensor) -> int:
    """-> how many numbers it has, over all shares"""
    return getattr(parameter, "ds_numel", parameter.numel())


def of_whole(weight: Tensor, measure: Callable[[Tensor], float]) -> float:
    """-> measure(weight) of a weight loaded `in_shares`, the same on every process"""
    if _lacking is not None:
        return 1.0  # of a plan, in which nothing is computed
    if not is_sharded():
        return measure(weight)
    with gathered([weight]):
        first = measure(weight) if not weight.is_meta else None
    return broadcast_object_list([first])[0]


def whole(model: nn.Module, but: tuple[nn.Module, ...]) -> None:
    """Make the weights of a model that was loaded `in_shares` whole again on every process, `but` those of some of its parts.

    For what is small: a frozen encoder, which runs outside of the model that `place` prepares, and what trains, which is cast first.
    """
    if not is_sharded() or _lacking is not None:
        return
    kept = {part for one in but for part in one.modules()}
    made: dict[Tensor, Tensor] = {}  # a weight may have several names
    for part in [part for part in model.modules() if part not in kept]:
        for name, weight in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            if hasattr(weight, "ds_id") or weight.is_meta or AcceleratorState().distributed_type == DistributedType.FSDP:
                if weight not in made:
                    made[weight] = _everywhere(weight)
                setattr(part, name, made[weight])


def _everywhere(weight: Tensor) -> Tensor:
    """-> the whole of a weight in shares, or on the first process alone, in main memory"""
    device = AcceleratorState().device
    with gathered([weight]):
        found = torch.empty_like(weight, device=device) if weight.is_meta else weight.detach().to(device)
        found = found.contiguous().clone()  # not a view of what is let go of after the block
        torch.distributed.broadcast(found, src=0)
    return nn.Parameter(found.cpu(), weight.requires_grad) if isinstance(weight, nn.Parameter) else found.cpu()


def gathered(weights: list[Tensor], changed_by: int | None = None):
    """-> a block inside which ZeRO-3's shares are whole; nothing to do for other weights"""
    if not any(hasattr(weight, "ds_id") for weight in weights):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(weights, modifier_rank=changed_by)


def place(accelerator: Accelerator, model: nn.Module, options: Training) -> None:
    """Bring a model that does not grow to the device, in shares where the launch says so. Once a run, before it is used."""
    if _lacking is not None:
        return
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        config = accelerator.deepspeed_plugin.deepspeed_config
        config["gradient_clipping"] = options.clip or 0.0  # DeepSpeed clips by itself
        config["train_micro_batch_size_per_gpu"] = 1  # a formality: `fit` cuts the batches
        config["train_batch_size"] = accelerator.num_processes
        config["zero_force_ds_cpu_optimizer"] = False  # what trains is small: torch's optimizer serves on a CPU, too
        trained = sum(elements(parameter) for parameter in model.parameters() if parameter.requires_grad)
        config["zero_optimization"].setdefault("reduce_bucket_size", max(1, trained))  # else a buffer of two gigabytes
        with _telling(accelerator.deepspeed_plugin, bf16=False):  # else what trains, too, would be rounded where it is used
            _engines[model] = accelerator.prepare(model, make_optimizer(model, options))
    elif accelerator.distributed_type == DistributedType.FSDP:
        accelerator.state.fsdp_plugin.mixed_precision_policy = None  # each weight is used, and its gradient averaged, as it is held
        fsdp2_prepare_model(accelerator, model)
    else:
        on_device(accelerator, model)


def prepare(accelerator: Accelerator, model: nn.Module, options: Training) -> tuple[nn.Module, Any]:
    """-> the model and an optimizer as new, ready for `fit`. Under DeepSpeed and FSDP `place` has been here before."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        engine, optimizer = _engines[model]
        for state in inner(optimizer).state.values():  # in place: DeepSpeed keeps views of it
            for value in filter(torch.is_tensor, state.values()):
                value.zero_()
        return engine, optimizer
    give_back(model)
    optimizer = make_optimizer(model, options)
    if accelerator.distributed_type == DistributedType.FSDP:
        return model, accelerator.prepare_optimizer(optimizer)
    return accelerator.prepare(model, optimizer)


def release(accelerator: Accelerator) -> None:
    """Let go of what `prepare` gave. DeepSpeed's engine stays as it is for the whole run."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        accelerator.free_memory()


def give_back(model: nn.Module) -> None:
    """FSDP2 keeps the last weights of a call gathered, as other parameters than those that train: put them back in shares."""
    if is_sharded():  # else torch's FSDP, which takes a while to import, is not wanted at all
        from torch.distributed.fsdp import FSDPModule

        if isinstance(model, FSDPModule):
            model.reshard()


def inner(optimizer: Any) -> torch.optim.Optimizer:
    """-> torch's optimizer inside accelerate's and DeepSpeed's"""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


@contextlib.contextmanager
def synced(accelerator: Accelerator, prepared: nn.Module, last: bool) -> Iterator[None]:
    """Inside the block gradients are added up; in the `last` micro-batch of a step they are averaged over the processes, too."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        accelerator.sync_gradients = last  # which is when its engine steps
        yield
    else:
        with contextlib.nullcontext() if last else accelerator.no_sync(prepared):
            yield


def largest(count: int) -> int:
    """-> the largest of the processes' counts where a model lies in shares, and each has to call it as often as the others; else its own"""
    if not is_sharded():
        return count
    found = torch.tensor(count, device=AcceleratorState().device)
    torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return int(found)


def anywhere(flag: Tensor) -> bool:
    """-> is it true here, or on any process where a model lies in shares?"""
    return bool(largest(int(flag)))
