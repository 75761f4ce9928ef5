"""What reaches a run from outside of its options: the environment, the launch file, a DeepSpeed configuration.

Each setting that accelerate, DeepSpeed and torch read there is decided here. What changes numbers is part of the options (precision),
or refused with the option that says the same; what only lays the work out (processes, shares, offloading, logs) or moves the last bits
is free, and named in the record's environment. A setting that is not known here is refused: nobody has looked at what it does.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from data.errors import InputError, unknown


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


OFF = ("", "0", "false", "no", "none")
UNITY = ("", "1", "auto")
# Variables that may have these values only (in lower case), and what says the same where the record can tell it.
REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (UNITY, "use method.accumulate, which keeps the batch size as it is"),
    "ACCELERATE_GRADIENT_CLIPPING": (("", "auto", "none", "0", "0.0"), "use method.clip"),
    "ACCELERATE_DYNAMO_BACKEND": (OFF, "use method.compile"),
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": (OFF, "use method.compile"),
    "ACCELERATE_DOWNCAST_BF16": (OFF, "use precision=bf16"),
    "ACCELERATE_FP8_BACKEND": (OFF, "use precision=bf16"),
    "ACCELERATE_FP8_OPT_LEVEL": (OFF, "use precision=bf16"),
    "ACCELERATE_USE_MEGATRON_LM": (OFF, "launch with launch/zero3.yaml or launch/fsdp2.yaml"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": (OFF, "launch with launch/zero3.yaml or launch/fsdp2.yaml"),
    "ACCELERATE_ALLOW_CP_STANDALONE": (OFF, "launch with launch/fsdp2.yaml"),
    "ACCELERATE_IN_TPU_POD": (OFF, "no TPU is supported"),
    "ACCELERATE_USE_SAGEMAKER": (OFF, "no SageMaker launch is supported"),
    "XLA_USE_BF16": (OFF, "use precision=bf16"),
    "XLA_DOWNCAST_BF16": (OFF, "use precision=bf16"),
    "FSDP_ACTIVATION_CHECKPOINTING": (OFF, "use method.gradient_checkpointing"),
    "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD": (OFF, "use method.gradient_checkpointing"),
    "FSDP_IGNORED_MODULES": (OFF, "every module is laid out alike"),
    "NVIDIA_TF32_OVERRIDE": (("",), "use precision="),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": (OFF, "use precision="),
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": (OFF, "files of weights are read without the code in them"),
    "TIMM_USE_NAFLEX": (OFF, "a timm: name is of the architecture that timm gives it by itself"),
    "TIMM_USE_NAFLEXVIT": (OFF, "a timm: name is of the architecture that timm gives it by itself"),
    "ONEDNN_DEFAULT_FPMATH_MODE": (("", "strict"), "use precision="),
    "DNNL_DEFAULT_FPMATH_MODE": (("", "strict"), "use precision="),
}
# Variables of these families that are free: how the work is laid out, started and logged. The others are not known, and refused.
FAMILIES = ("ACCELERATE_", "FSDP_")
KNOWN = _words(
    "ACCELERATE_BYPASS_DEVICE_MAP ACCELERATE_CONFIG_DS_FIELDS ACCELERATE_CPU_AFFINITY ACCELERATE_DEBUG_MODE ACCELERATE_DEBUG_RDV_FILE "
    "ACCELERATE_DEEPSPEED_CONFIG_FILE ACCELERATE_DEEPSPEED_MOE_LAYER_CLS_NAMES ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE "
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_NVME_PATH ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE "
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_NVME_PATH ACCELERATE_DEEPSPEED_ZERO3_INIT ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL "
    "ACCELERATE_DEEPSPEED_ZERO_STAGE ACCELERATE_DISABLE_RICH ACCELERATE_DYNAMO_MODE ACCELERATE_DYNAMO_USE_DYNAMIC "
    "ACCELERATE_DYNAMO_USE_FULLGRAPH ACCELERATE_ENABLE_RICH ACCELERATE_INIT_INCLUDE_BUFFERS ACCELERATE_LOG_LEVEL "
    "ACCELERATE_MIXED_PRECISION ACCELERATE_NUM_PROCESSES ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE ACCELERATE_TORCH_DEVICE "
    "ACCELERATE_USE_CPU ACCELERATE_USE_DEEPSPEED ACCELERATE_USE_FSDP FSDP_AUTO_WRAP_POLICY FSDP_BACKWARD_PREFETCH "
    "FSDP_CPU_RAM_EFFICIENT_LOADING FSDP_FORWARD_PREFETCH FSDP_MIN_NUM_PARAMS FSDP_OFFLOAD_PARAMS FSDP_RESHARD_AFTER_FORWARD "
    "FSDP_SHARDING_STRATEGY FSDP_STATE_DICT_TYPE FSDP_SYNC_MODULE_STATES FSDP_TRANSFORMER_CLS_TO_WRAP FSDP_USE_ORIG_PARAMS "
    "FSDP_VERSION"
)
# Ours; another name is a slip of the pen. CILBENCH_MODELS and CILBENCH_CIFAR100 are of the tests.
OURS = _words("CILBENCH_CACHE CILBENCH_CACHE_GIB CILBENCH_CACHE_SHARED CILBENCH_CIFAR100 CILBENCH_MODELS")
# They move the last bits, or could: named in the record's environment where they are set.
WATCHED = _words(
    "ATEN_CPU_CAPABILITY CUBLAS_WORKSPACE_CONFIG CUDA_LAUNCH_BLOCKING CUDNN_FRONTEND_ATTN_DP_WORKSPACE_LIMIT DNNL_MAX_CPU_ISA "
    "MKL_CBWR MKL_DISABLE_FAST_MM MKL_DYNAMIC MKL_ENABLE_INSTRUCTIONS MKL_NUM_THREADS NCCL_ALGO NCCL_PROTO OMP_NUM_THREADS "
    "ONEDNN_MAX_CPU_ISA PYTORCH_TUNABLEOP_ENABLED TORCHDYNAMO_DISABLE TORCHINDUCTOR_MAX_AUTOTUNE TORCH_BLAS_PREFER_CUBLASLT "
    "TORCH_COMPILE_DISABLE TORCH_CUDNN_USE_HEURISTIC_MODE_B TRANSFORMERS_SDPA_FORCE_GQA USE_HUB_KERNELS USE_MKL_GEMM LD_PRELOAD"
)
# So are all others of these libraries, whose releases bring new ones; but for places, and what opens doors.
LIBRARIES = ("ATEN_", "CUBLAS", "CUDA_", "CUDNN_", "DNNL_", "GOMP_", "KMP_", "MKL_", "NCCL_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_")
LIBRARIES += ("PYTORCH_", "TORCH_", "TORCHDYNAMO_", "TORCHINDUCTOR_", "TRANSFORMERS_")
LIBRARIES += (
    "BLIS_",
    "CUTLASS_",
    "DS_",
    "FLASH_ATTENTION_",
    "GOTO_",
    "HIPBLAS",
    "MIOPEN_",
    "ROCBLAS_",
    "TIMM_",
    "TRITON_",
    "VECLIB_",
    "XLA_",
)
UNSAID = ("_HOME", "_PATH", "_DIR", "_CACHE", "_TOKEN", "_KEY", "_SECRET", "_PASSWORD", "_VERBOSITY", "_OFFLINE")

# Keys of a DeepSpeed configuration that are free: layout, devices, memory, logs.
DEEPSPEED_FREE = _words(
    "zero_optimization activation_checkpointing aio checkpoint comms_logger csv_monitor comet disable_python_gc dump_state flops_profiler "
    "log_level memory_breakdown nebula steps_per_print tensorboard timers use_node_local_storage wall_clock_breakdown wandb "
    "zero_allow_untested_optimizer zero_force_ds_cpu_optimizer"
)
DEEPSPEED_ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "gradient_accumulation_steps": ((1, "auto"), "use method.accumulate"),
    "gradient_clipping": ((0, 0.0, "auto"), "use method.clip"),
    "train_batch_size": (("auto",), "use method.batch_size, which is global"),
    "train_micro_batch_size_per_gpu": (("auto",), "use method.batch_size and method.accumulate"),
}
ZERO_FREE = _words(
    "stage allgather_bucket_size allgather_partitions allgather_sequential compute_grad_norm contiguous_gradients elastic_checkpoint "
    "ignore_unused_parameters leaf_module load_from_fp32_weights log_trace_cache_warnings memory_efficient_linear "
    "module_granularity_threshold offload_optimizer offload_param overlap_comm override_module_apply parameter_alignment "
    "pipeline_loading_checkpoint reduce_bucket_size reduce_scatter round_robin_gradients sub_group_size "
    "use_multi_rank_bucket_allreduce zero_hpz_partition_size enable_sanity_checks stage3_allgather_sequential "
    "stage3_gather_16bit_weights_on_model_save stage3_gather_fp16_weights_on_model_save stage3_max_live_parameters "
    "stage3_max_reuse_distance stage3_model_persistence_threshold stage3_module_granularity_threshold "
    "stage3_param_persistence_threshold stage3_prefetch_bucket_size stage3_use_all_reduce_for_fetch_params"
)


def precision(given: str | None) -> str:
    """-> the precision of a run: its option, else what the launch says, else no"""
    return given or os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower() or "no"


@contextlib.contextmanager
def launched(file: str | None) -> Iterator[None]:
    """Inside the block options resolve as in a run that accelerate starts with this launch file."""
    if file is None:
        yield
        return
    try:
        said = yaml.safe_load(Path(file).read_text(encoding="utf-8")).get("mixed_precision", "no")
    except (OSError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"the launch file {file} cannot be read ({error}): see launch/zero3.yaml") from None
    before = os.environ.get("ACCELERATE_MIXED_PRECISION")
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no" if said is False else str(said)  # an unquoted no is YAML's false
    try:
        yield
    finally:
        os.environ.pop("ACCELERATE_MIXED_PRECISION")
        os.environ.update({} if before is None else {"ACCELERATE_MIXED_PRECISION": before})


def check(environment: Mapping[str, str] = os.environ) -> None:
    """Errors: InputError for a setting from outside that would change numbers behind the options' back, or that is not known."""
    for name, value in sorted(environment.items()):
        allowed, instead = REFUSED.get(name, ((), ""))
        if name in REFUSED and value.strip().lower() not in allowed:
            raise InputError(f"{name}={value} comes from the environment or the launch file and would change the numbers: {instead}")
        if name.startswith("CILBENCH_") and name not in OURS:
            raise unknown("environment variable", name, sorted(OURS))
        if name.startswith(FAMILIES) and name not in KNOWN and name not in REFUSED:
            raise InputError(
                f"{name}={value} is no setting whose effect on the numbers is known: unset it, or take it out of the launch file"
            )
    rank, world = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    if rank.isdigit() and world.isdigit() and int(rank) >= int(world):
        raise InputError(f"RANK={rank} is of more processes than WORLD_SIZE={world}, and this one would say nothing: unset both")
    if environment.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true" and environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        check_deepspeed(Path(environment["ACCELERATE_DEEPSPEED_CONFIG_FILE"]))


def check_deepspeed(path: Path) -> None:
    """Errors: InputError for a DeepSpeed configuration that would change numbers, or that cannot be read."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        zero = config.get("zero_optimization", {})
        halves = {name: config.pop(name) for name in ("bf16", "fp16", "bfloat16") if name in config}
        if not all(isinstance(one, dict) for one in (zero, *halves.values())):
            raise TypeError("a section is no object")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"the DeepSpeed configuration {path} cannot be read ({error}): see launch/zero3_nvme.json") from None
    for name, section in halves.items():
        odd = sorted(set(section) - {"enabled"})
        if odd:
            raise InputError(f"{path}: {name}.{odd[0]} would change the numbers: leave {name} at its enabled, and use precision=")
    for name, value in config.items():
        allowed, instead = DEEPSPEED_ONLY.get(name, ((), ""))
        if name in DEEPSPEED_ONLY and value not in allowed:
            raise InputError(f"{path}: {name}={value} would change the numbers: {instead}")
        if name not in DEEPSPEED_ONLY and name not in DEEPSPEED_FREE:
            raise InputError(f"{path}: {name} is no setting that is known to leave the numbers alone: take it out")
    odd = sorted(set(zero) - ZERO_FREE)
    if odd:
        raise InputError(f"{path}: zero_optimization.{odd[0]} is no setting that is known to leave the numbers alone: take it out")


def watched() -> dict[str, str]:
    """-> the variables that move the last bits and are set"""
    named = (name for name in os.environ if name in WATCHED or name.startswith(LIBRARIES) and not name.endswith(UNSAID))
    return {name: os.environ[name] for name in sorted(named)}
