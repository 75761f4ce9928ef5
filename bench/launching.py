"""The accelerator of a process: what `accelerate launch`, torchrun or a plain start asked for, on GPUs or on the CPU."""

import math
import os
from collections.abc import Iterator

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from accelerate.utils.fsdp_utils import disable_fsdp_ram_efficient_loading
from omegaconf import DictConfig, OmegaConf
from torch import nn

from bench import outside
from bench.heap import keep_pages
from bench.resume.processes import joined
from bench.tracking import check_tracker
from data.errors import InputError
from data.stream import TaskStream
from methods.base import Method
from methods.config import Training
from methods.finetune import Finetune
from methods.learning.sharding import is_sharded, loaded_whole
from methods.learning.training import compiled
from methods.memory.exemplars import ExemplarMemory


def make_accelerator(config: DictConfig) -> Accelerator:
    """-> the accelerator of this process; started by `accelerate launch`, torchrun or plainly"""
    check_tracker(config.tracker)
    outside.check()
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise InputError("precision=fp16 needs a GPU: use bf16 or no")
    torch.backends.cudnn.allow_tf32 = False  # torch lets convolutions round to ten bits: precision=no is float32, as on a CPU
    cpu, world = not torch.cuda.is_available(), int(os.environ.get("WORLD_SIZE", "1"))
    if cpu:
        keep_pages()
    deepspeed = _asked("ACCELERATE_USE_DEEPSPEED")
    accelerator = Accelerator(
        cpu=cpu and not deepspeed,  # accelerate ignores DeepSpeed where it is told to use the CPU; it does so anyway
        mixed_precision=config.precision,
        kwargs_handlers=joined(cpu, world, config.timeout_minutes),
        log_with=None if config.tracker == "none" else config.tracker,
        project_dir=config.results,
    )
    if accelerator.num_processes != world:
        raise RuntimeError(f"{accelerator.num_processes} processes joined where {world} were launched")
    if cpu and world > 1 and _asked("ACCELERATE_USE_FSDP"):
        _fsdp_on_cpu(accelerator)
    if is_sharded():
        _check_sharded(accelerator)
    return accelerator


def check_precision(config: DictConfig, accelerator: Accelerator) -> None:
    """Errors: InputError where the accelerator computes otherwise than the options, and so the name of the run, say"""
    ran = accelerator.mixed_precision
    if ran != config.precision:
        raise InputError(
            f"the launch computes in {ran} where precision={config.precision}: set precision={ran}, or correct the launch file"
        )


def check_features(config: DictConfig, method: Method) -> None:
    """Errors: InputError where it is said how a frozen encoder's features come, and the method has none"""
    if config.features != "auto" and method.encoder is None:
        raise InputError(f"features={config.features} has no effect on method={config.method.name}, which has no encoder: leave it out")


def check_method(config: DictConfig, method: Method, stream: TaskStream) -> list[str]:
    """-> what is to be said of a method that will run on a stream. Errors: InputError for options that cannot last for it"""
    method.check(len(stream.class_names))
    method.check_tasks(len(stream))
    method.check_names(stream.class_names)
    lone = next((task for task in range(len(stream)) if len(stream.classes(task)) == 1), None)
    if getattr(method, "apart", False) and lone is not None:
        raise InputError(
            f"task {lone + 1} has one class, and method.name={config.method.name} compares the classes of a task among "
            "themselves alone, so that it would learn nothing: choose stream.base and stream.increment that give each task two or more"
        )
    memory = getattr(method, "memory", None)
    if isinstance(memory, ExemplarMemory) and memory.budget_bytes is not None:  # whose items cost what the first image tells
        memory.item_bytes = memory.cost(stream[0].train)
        memory.quota(len(stream.class_names))
    if isinstance(method, Finetune) and getattr(config.method, "augment", False):  # an outside method may call something else so
        method.augment(stream[0])
    said = []
    if getattr(config.method, "frozen", False) and not method.models():
        said.append(f"method.frozen=true keeps method.backbone={config.method.backbone} as it starts, with weights drawn at random")
    if issubclass(OmegaConf.get_type(config.method), Training):
        said += _training(config.method, stream)
    return [f"warning  {one}" for one in said]


def _training(options: DictConfig, stream: TaskStream) -> Iterator[str]:
    """-> what is to be said of options that learn, beside each other and the stream. Errors: InputError for those without effect"""
    compiled(nn.Identity(), options.compile)  # which checks the name, and compiles at the first call alone
    if options.accumulate > options.batch_size:
        raise InputError(f"method.accumulate={options.accumulate} is more than method.batch_size={options.batch_size} rows: lower it")
    for name in ("lr", "later_lr"):
        rate = getattr(options, name, None)
        if rate is not None and options.min_lr > rate:
            raise InputError(f"method.min_lr={options.min_lr:g} is above method.{name}={rate:g}, from which the rate falls: lower it")
    wrong = "mirror=true" if getattr(options, "mirror", False) else None if getattr(options, "flip", True) else "flip=false"
    if wrong and not stream.mirrors:
        raise InputError(f"method.{wrong} is not for stream '{stream.key}', where a mirror image may be another class: leave it out")
    late = [epoch for epoch in options.milestones if epoch >= options.epochs]
    if late and options.schedule == "multistep":
        yield f"method.milestones={late} are never reached in method.epochs={options.epochs}: the rate does not fall there"
    for task in (stream[number] for number in range(len(stream) if options.warmup else 0)):
        steps = options.epochs * math.ceil(len(task.train) / options.batch_size)
        if 0 < steps <= options.warmup:
            yield f"task {task.index + 1} ends within method.warmup={options.warmup}: its {len(task.train)} new rows make {steps} steps"
            break


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"


def _fsdp_on_cpu(accelerator: Accelerator) -> None:
    """accelerate knows FSDP on GPUs only; torch's runs on CPUs as well."""
    plugin = FullyShardedDataParallelPlugin()
    if accelerator.mixed_precision != "no":
        plugin.set_mixed_precision(accelerator.mixed_precision)
    accelerator.state.fsdp_plugin = plugin
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP


def _check_sharded(accelerator: Accelerator) -> None:
    """Errors: InputError for what does not go with DeepSpeed or FSDP. Models are loaded whole from here on, but where `in_shares` is."""
    if accelerator.mixed_precision == "fp16":
        raise InputError("precision=fp16 is not for DeepSpeed and FSDP here: use precision=bf16")
    if accelerator.distributed_type == DistributedType.FSDP:
        if accelerator.state.fsdp_plugin.fsdp_version != 2:
            raise InputError("fsdp_version: 1 is not supported: launch with launch/fsdp2.yaml")
        disable_fsdp_ram_efficient_loading()
    else:
        stage = accelerator.deepspeed_plugin.zero_stage
        if stage not in (2, 3):
            raise InputError(f"zero_stage: {stage} is not supported: launch with launch/zero2.yaml or launch/zero3.yaml")
        loaded_whole(accelerator.deepspeed_plugin)
