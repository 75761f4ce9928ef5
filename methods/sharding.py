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
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from methods.config import Training
from methods.optim import make_optimizer

SHARDED = (DistributedType.DEEPSPEED, DistributedType.FSDP)
_engines: "weakref.WeakKeyDictionary[nn.Module, tuple[nn.Module, Any]]" = weakref.WeakKeyDictionary()  # DeepSpeed's, with its optimizer


def is_sharded() -> bool:
    """-> was the run launched with DeepSpeed or FSDP? False where there is no accelerator at all."""
    return is_initialized() and AcceleratorState().distributed_type in SHARDED


def no_gradient() -> Any:
    """-> inference mode; the milder no_grad where shares are gathered: a weight gathered in inference mode could never train again"""
    return torch.no_grad() if is_sharded() else torch.inference_mode()


@contextlib.contextmanager
def in_shares() -> Iterator[None]:
    """Inside the block, `from_pretrained` of transformers leaves a model in shares where the launch says so.

    Under ZeRO-3 each process keeps its share of each weight as it is read; under FSDP2 the first one holds the weights in main
    memory and the others none, until `place` deals them out. Outside of the block models are loaded whole, for use as they are.
    """
    state = AcceleratorState() if is_sharded() else None
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
        state.deepspeed_plugin.set_deepspeed_weakref()  # transformers follows it
        try:
            yield
        finally:
            loaded_whole(state.deepspeed_plugin)


_weightless = False


def is_weightless() -> bool:
    return _weightless


@contextlib.contextmanager
def weightless() -> Iterator[None]:
    """Inside the block transformers makes models in their shape alone, on the meta device, and `place` leaves them there: for plans."""
    global _weightless
    from transformers import PreTrainedModel

    def shape(cls: type, folder: Any, *_: Any, config: Any = None, dtype: Any = None, output_loading_info: bool = False, **__: Any) -> Any:
        config = config or cls.config_class.from_pretrained(folder)
        with torch.device("meta"):
            model = cls._from_config(config, **({} if dtype is None else {"dtype": dtype}))
        return (model, {"missing_keys": [], "mismatched_keys": []}) if output_loading_info else model

    plain, _weightless = PreTrainedModel.__dict__["from_pretrained"], True
    PreTrainedModel.from_pretrained = classmethod(shape)
    try:
        yield
    finally:
        PreTrainedModel.from_pretrained, _weightless = plain, False


def loaded_whole(plugin: Any) -> None:
    """From here on transformers takes no notice of DeepSpeed, which else would leave every model that it loads in shares."""
    from transformers.integrations import unset_hf_deepspeed_config

    plugin.dschf = None
    unset_hf_deepspeed_config()


def elements(parameter: Tensor) -> int:
    """-> how many numbers it has, over all shares"""
    return getattr(parameter, "ds_numel", parameter.numel())


def held(model: nn.Module) -> int:
    """-> how many numbers of the model's parameters lie on this process between two calls of it"""
    _give_back(model)
    own = [p.ds_tensor if hasattr(p, "ds_tensor") else p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    return sum(share.numel() for share in own)


def of_whole(weight: Tensor, measure: Callable[[Tensor], float]) -> float:
    """-> measure(weight) of a weight loaded `in_shares`, the same on every process"""
    if is_weightless():
        return 1.0  # of a plan, in which nothing is computed
    if not is_sharded():
        return measure(weight)
    with gathered([weight]):
        first = measure(weight) if not weight.is_meta else None
    return broadcast_object_list([first])[0]


def gathered(weights: list[Tensor], changed_by: int | None = None):
    """-> a block inside which ZeRO-3's shares are whole; nothing to do for other weights"""
    if not any(hasattr(weight, "ds_id") for weight in weights):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(weights, modifier_rank=changed_by)


def place(accelerator: Accelerator, model: nn.Module, options: Training) -> None:
    """Bring a model that does not grow to the device, in shares where the launch says so. Once a run, before it is used."""
    if is_weightless():
        return
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        config = accelerator.deepspeed_plugin.deepspeed_config
        config["gradient_clipping"] = options.clip or 0.0  # DeepSpeed clips by itself
        config["train_micro_batch_size_per_gpu"] = 1  # a formality: `fit` cuts the batches
        config["train_batch_size"] = accelerator.num_processes
        config["zero_force_ds_cpu_optimizer"] = False  # what trains is small: torch's optimizer serves on a CPU, too
        trained = sum(elements(parameter) for parameter in model.parameters() if parameter.requires_grad)
        config["zero_optimization"].setdefault("reduce_bucket_size", max(1, trained))  # else a buffer of two gigabytes
        _engines[model] = accelerator.prepare(model, make_optimizer(model, options))
    elif accelerator.distributed_type == DistributedType.FSDP:
        fsdp2_prepare_model(accelerator, model)
    else:
        model.to(accelerator.device)


def prepare(accelerator: Accelerator, model: nn.Module, options: Training) -> tuple[nn.Module, Any]:
    """-> the model and a new optimizer, ready for `fit`. Errors: InputError for a model that was not placed in shares"""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        engine, optimizer = _engines[model]
        for state in inner(optimizer).state.values():  # in place: DeepSpeed keeps views of it
            for value in state.values():
                value.zero_()
        return engine, optimizer
    _give_back(model)
    optimizer = make_optimizer(model, options)
    if accelerator.distributed_type == DistributedType.FSDP:
        return model, accelerator.prepare_optimizer(optimizer)
    return accelerator.prepare(model, optimizer)


def _give_back(model: nn.Module) -> None:
    """FSDP2 keeps the last weights of a call gathered, as other parameters than those that train: put them back in shares."""
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


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """-> what training can change, whole and on every process: all weights and buffers but the frozen parameters"""
    _give_back(model)
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    state = model.state_dict(keep_vars=True)
    return {name: _whole(value) for name, value in state.items() if name not in frozen}


def _whole(value: Tensor) -> Tensor:
    """Under bf16 DeepSpeed keeps a float32 master of each trained weight: that one."""
    if isinstance(value, DTensor):
        return value.detach().full_tensor()
    if hasattr(value, "ds_id") or hasattr(value, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(value).detach().clone()
    return value.detach().contiguous()


@torch.no_grad()
def load_trained(model: nn.Module, state: dict[str, Tensor]) -> bool:
    """Put back what `trained_state` gave. -> False, and nothing is changed, if it is of another model"""
    _give_back(model)
    own = model.state_dict(keep_vars=True)
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    if set(state) != set(own) - frozen:
        return False
    for name, value in state.items():
        _put(own[name], value)
    return True


def _put(target: Tensor, value: Tensor) -> None:
    if isinstance(target, DTensor):
        target.copy_(distribute_tensor(value.to(target.device), target.device_mesh, target.placements))
    elif hasattr(target, "ds_id"):
        from deepspeed.utils import safe_set_local_fp32_param

        with gathered([target], changed_by=0):
            target.copy_(value)
        safe_set_local_fp32_param(target, _share(target, value))
    else:
        target.copy_(value)
        if hasattr(target, "_hp_mapping"):
            target.set_full_hp_param(value)


def _share(target: Tensor, value: Tensor) -> Tensor:
    """-> this process's share of a value, cut as ZeRO-3 cuts: equal parts of the flat tensor, the last one filled up"""
    size, rank = target.ds_tensor.numel(), torch.distributed.get_rank()
    flat = value.flatten()[rank * size : (rank + 1) * size]
    return torch.cat([flat, flat.new_zeros(size - len(flat))])


def fit_state(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """-> what an interrupted `fit` goes on from, whole and on every process.

    Named KEY/NAME: the key is "weight" or one of the optimizer's, the name is a trained parameter's.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    states = inner(optimizer).state
    keys = [key for key, value in next(iter(states.values())).items() if value.ndim]
    kept = {f"weight/{name}": value for name, value in trained_state(model).items()}
    for key in keys:
        for name, parameter in trained.items():
            if parameter in states:
                kept[f"{key}/{name}"] = _whole(states[parameter][key])
            else:  # DeepSpeed's optimizer sees flat parts of them
                from deepspeed.utils import safe_get_full_optimizer_state

                kept[f"{key}/{name}"] = safe_get_full_optimizer_state(parameter, key).detach().clone()
    return {name: value.contiguous() for name, value in kept.items()}


@torch.no_grad()
def load_fit_state(model: nn.Module, optimizer: Any, kept: dict[str, Tensor], step: int) -> None:
    """Put back what `fit_state` gave after `step` steps, on any number of processes."""
    by_key: dict[str, dict[str, Tensor]] = {}
    for name, value in kept.items():
        key, _, parameter = name.partition("/")
        by_key.setdefault(key, {})[parameter] = value
    load_trained(model, by_key.pop("weight"))
    zero, states = optimizer.optimizer, inner(optimizer).state
    # DeepSpeed's optimizer works on flat parts of the parameters: ZeRO-3 and ZeRO-2 have a name each for them.
    flat = getattr(zero, "fp32_partitioned_groups_flat", None) or getattr(zero, "single_partition_of_fp32_groups", None)
    for parameter in flat or [parameter for group in zero.param_groups for parameter in group["params"]]:
        fresh = {key: torch.zeros_like(parameter) for key in by_key}
        states[parameter] = {**fresh, "step": torch.tensor(float(step))} if "exp_avg" in by_key else fresh
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
        zero._lazy_init_hp_params_optimizer_state()  # ZeRO-2 keeps views of them
    parameters = dict(model.named_parameters())
    for key, values in by_key.items():
        for name, value in values.items():
            target = parameters[name]
            if target in states:
                _put(states[target][key], value)
            elif hasattr(target, "ds_id"):
                from deepspeed.utils import safe_set_local_optimizer_state

                safe_set_local_optimizer_state(target, _share(target, value), key)
            else:
                target.set_full_hp_param(value, key)
