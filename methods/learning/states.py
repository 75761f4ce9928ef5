"""What training changes of a model, whole or in shares: gathered to be saved, and put back on any number of processes."""

from typing import Any

import torch
from torch import Tensor, nn

from methods.learning.sharding import gathered, give_back, inner


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """-> what training can change, whole and on every process: all weights and buffers but the frozen parameters"""
    give_back(model)
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    state = model.state_dict(keep_vars=True)
    return {name: _whole(value) for name, value in state.items() if name not in frozen}


def _whole(value: Tensor) -> Tensor:
    """Under bf16 DeepSpeed keeps a float32 master of each trained weight: that one."""
    if hasattr(value, "full_tensor"):  # of FSDP2; its class takes a while to import
        return value.detach().full_tensor()
    if hasattr(value, "ds_id") or hasattr(value, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(value).detach().clone()
    return value.detach().contiguous()


@torch.no_grad()
def load_trained(model: nn.Module, state: dict[str, Tensor]) -> bool:
    """Put back what `trained_state` gave. -> False, and nothing is changed, if it is of another model"""
    give_back(model)
    own = model.state_dict(keep_vars=True)
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    if set(state) != set(own) - frozen:
        return False
    for name, value in state.items():
        _put(own[name], value)
    return True


def _put(target: Tensor, value: Tensor) -> None:
    if hasattr(target, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

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
    kept = {f"weight/{name}": value for name, value in trained_state(model).items()}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    states = inner(optimizer).state
    _link(optimizer.optimizer)
    keys = [key for key, value in next(iter(states.values()), {}).items() if key != "step" and value is not None]
    for key in keys:
        for name, parameter in trained.items():
            if parameter in states:
                kept[f"{key}/{name}"] = _whole(states[parameter][key])
            else:  # DeepSpeed's optimizer sees flat parts of them
                from deepspeed.utils import safe_get_full_optimizer_state

                kept[f"{key}/{name}"] = safe_get_full_optimizer_state(parameter, key).detach().clone()
    return {name: value.contiguous() for name, value in kept.items()}


def _link(zero: Any) -> None:
    """ZeRO-2 reads the optimizer's state through views, and takes them before the first step, when there is none yet: take them again."""
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


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
    _link(zero)
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
