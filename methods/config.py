"""Every method and its options. Importable without torch, so that `--help` stays fast; `Method.Config` points here."""

from dataclasses import dataclass, field, fields


@dataclass
class Training:
    """What `fit` needs to know. Batch size and learning rate are global: they do not depend on the number of processes."""

    epochs: int = 10  # passes over the data of a task; 0 trains nothing
    batch_size: int = 64  # rows an optimizer step, over all processes
    accumulate: int = 1  # micro-batches a step is computed in: saves memory; only batch statistics become each one's own
    optimizer: str = "sgd"  # sgd | adamw
    lr: float = 0.1  # peak learning rate
    momentum: float = 0.9  # of sgd
    nesterov: bool = False  # of sgd
    weight_decay: float = 1e-4  # of the optimizer: L2 in sgd, decoupled in adamw
    decay: str = "all"  # which parameters decay: all | matrices (those of two or more dimensions)
    schedule: str = "cosine"  # constant | cosine (to min_lr) | multistep
    min_lr: float = 0.0  # where cosine ends
    milestones: list[int] = field(default_factory=list)  # epochs at which multistep multiplies by factor
    factor: float = 0.2  # of multistep
    warmup: int = 0  # optimizer steps of linear warm-up, counted over the task
    warmup_lr: float = 0.0  # where the warm-up starts
    clip: float | None = None  # largest gradient norm; null = no clipping
    compile: str | None = None  # backend of torch.compile, inductor say; null = off


@dataclass
class Backboned(Training):
    """A backbone and a linear head, trained together."""

    epochs: int = 20
    batch_size: int = 16
    lr: float = 0.02

    backbone: str = "resnet32"  # name in methods.networks.backbones.BACKBONES, or timm:NAME or open_clip:NAME with published weights
    frozen: bool = False  # keep the backbone's weights as they are and train the head alone
    head: str = "linear"  # linear | cosine (cosines between feature and class weight, times a learnt scale)
    image_size: int | None = 32  # images are resized to this many pixels; null keeps theirs
    flip: bool = True  # mirror half of the training images, where the stream says that a mirror image keeps its class
    channels_last: bool = True  # keep images channel by channel in memory's last dimension: faster convolutions, same result


@dataclass
class Finetune(Backboned):
    name: str = "finetune"


@dataclass
class Joint(Backboned):
    name: str = "joint"


@dataclass
class Remembering:
    """What a method with exemplars adds."""

    memory: int = 100  # exemplars kept over all classes, shared equally; for per_class=null and memory_bytes=null
    memory_bytes: int | None = None  # as many exemplars as fit into so many bytes, in place of `memory`
    per_class: int | None = None  # exemplars kept of each class, in place of a total
    rounding: str = "floor"  # of memory / classes seen: floor (never exceeds memory) | ceil (as iCaRL's release, may exceed it)
    selection: str = "random"  # which exemplars to keep: herding | random
    own_copy: bool = False  # keep the exemplars' images in memory and checkpoints, in place of their row numbers in the data


@dataclass
class Replay(Remembering, Backboned):
    name: str = "replay"


@dataclass
class ICaRL(Remembering, Backboned):
    name: str = "icarl"
    lr: float = 0.1  # of a loss that is a mean over rows and outputs, which is why it is above cross-entropy's
    weight_decay: float = 1e-5
    selection: str = "herding"
    outputs: int | None = None  # the loss is summed over outputs and divided by this number; null = by theirs, which grows
    loss: str = "bce"  # bce (the paper) | ce_kd (cross-entropy and softmax distillation: the common variant, under its own id)
    temperature: float = 2.0  # of ce_kd's distillation
    mirror: bool = False  # class means over exemplars and their mirror images, as iCaRL's release; the paper takes exemplars alone


@dataclass
class LwF(Backboned):
    name: str = "lwf"
    lr: float = 0.05  # see iCaRL's
    weight_decay: float = 1e-5
    beta: float = 1.0  # weight of the distillation on old outputs
    outputs: int | None = None  # the loss is summed over outputs and divided by this number; null = by theirs, which grows


@dataclass
class LwM(LwF):
    name: str = "lwm"
    gamma: float = 0.01  # weight of the attention distillation; 0 makes LwF of it
    top_class: str = "student"  # whose highest old score chooses the class whose attention is compared: student | teacher


@dataclass
class MAECIL(Remembering, Training):
    name: str = "mae_cil"
    epochs: int = 20
    batch_size: int = 16
    memory_bytes: int | None = 19200  # in place of `memory`: as many bytes as 100 whole images of 8x8 pixels
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.05
    decay: str = "matrices"
    warmup: int = 20
    clip: float | None = 1.0
    image_size: int | None = None  # images are resized to this many pixels; null keeps theirs
    flip: bool = True  # mirror half of the training images, where the stream says that a mirror image keeps its class
    patch: int = 2  # pixels of a patch's side: 2 suits 8x8 images, 4 suits 32x32, 16 suits 224x224
    width: int = 96  # of a token; a multiple of 4 and of `heads`
    depth: int = 5  # blocks of the encoder
    heads: int = 4  # of the attention
    detail: bool = True  # the detail branch, and its fusion with the main one at image and at embedding level
    shallow: int = 2  # blocks before the detail branch leaves the encoder
    mask_ratio: float = 0.5  # share of an image's patches that is hidden, in training and in the memory; 0.75 where there are 64 or more
    detail_mask_ratio: float = 0.25  # the smaller share hidden from the reconstruction that shows the detail branch what is missing
    reconstruction: float = 1.0  # weight of the reconstruction loss
    detail_weight: float = 0.02  # weight of the detail branch's loss
    distillation: float = 0.0  # weight of the distillation of old classes by the previous network
    masked_memory: bool = True  # keep the visible patches of an exemplar only; false keeps whole images


@dataclass
class NCM:
    name: str = "ncm"
    encoder: str = "packaged"  # frozen encoder: packaged, timm:NAME or open_clip:NAME
    batch_size: int = 64  # rows a forward pass


@dataclass
class Generative:
    """What a generative model is made of, what of it trains, and how an image gets its class. See LATER below."""

    family: str = "llava"  # of vlm=tiny: llava | instructblip | blip2 | idefics3 | smolvlm | qwen2_vl | qwen2_5_vl | composed
    model: str | None = None  # of vlm=hf: folder or hub id of an image-text-to-text model of transformers
    encoder: str = "packaged"  # of vlm=composed: packaged, timm:NAME, open_clip:NAME, or hf:FOLDER_OR_ID of a vision model
    decoder: str | None = None  # of vlm=composed: folder or hub id of a causal language model of transformers
    qformer: int = 0  # of vlm=composed: query tokens of a Q-Former between encoder and projector; 0 = none
    image_size: int | None = None  # pixels that the model of vlm=hf sees; null = what its folder says (Qwen-VL, which takes any: 224)
    train: str = "projector"  # what trains: projector | qformer | lora, or some of them joined by +
    lora_rank: int = 16  # of the low-rank matrices beside the decoder's linear layers
    lora_alpha: float = 32.0  # their products are added times lora_alpha / lora_rank
    lora_layers: list[str] | None = None  # names of the layers that get them, [q_proj, v_proj] say; null = all linear ones but the head
    adapter: str | None = None  # folder or hub id of a LoRA adapter of peft, made for this decoder, to start from
    gradient_checkpointing: bool = False  # compute the decoder's activations again in the backward pass: less memory, a third more time
    dtype: str = "float32"  # of the frozen encoder and decoder: float32 | bfloat16; what trains is float32
    quantize: int | None = None  # bits of the frozen decoder's weights, 8 or 4, by bitsandbytes; null = as dtype says
    before: str | None = None  # text before the image; null = the model's own; {bos} = its first token
    after: str | None = None  # text between image and answer; null = the model's own; {} = the question
    stop: str | None = None  # text of the one token that ends an answer; null = the model's own
    scoring: str = "nearest"  # class of an image: nearest (name to the answer) | exact (the answer's name) | likelihood (of each name)
    text_encoder: str = "minilm"  # of nearest: minilm | open_clip:NAME | decoder (its own words) | folder or hub id of a sentence encoder


@dataclass
class GMM(Generative, Training):
    name: str = "gmm"
    epochs: int = 1
    batch_size: int = 8
    optimizer: str = "adamw"
    lr: float = 5e-3
    weight_decay: float = 0.0
    decay: str = "matrices"
    warmup: int = 5
    clip: float | None = 1.0
    vlm: str = "packaged"  # generative model, packaged | composed | hf | tiny, or another name in methods.gmm.models.VLMS
    visual_tokens: int = 1  # tokens an image becomes: the pooled feature, then a square grid of the feature map; 0 = the whole map
    memory: int = 100  # exemplars kept over all classes; 0 keeps none
    selection: str = "herding"  # which exemplars to keep: herding | random
    replay: int = 2  # times each exemplar is seen an epoch
    question: str = "What is this?"  # asked in training and at test alike
    answer: str = "This is a photo of a {}."  # {} = the class name
    max_new_tokens: int = 30  # longest answer
    predict_batch_size: int = 64  # rows a generation batch


# name -> class, imported when it is chosen. Other packages add theirs through the entry points `cilbench.methods`.
METHODS = {
    "finetune": "methods.finetune:Finetune",
    "joint": "methods.joint:Joint",
    "ncm": "methods.ncm:NCM",
    "replay": "methods.replay:Replay",
    "lwf": "methods.lwf:LwF",
    "lwm": "methods.lwm:LwM",
    "icarl": "methods.icarl:ICaRL",
    "mae_cil": "methods.mae_cil.method:MAECIL",
    "gmm": "methods.gmm.method:GMM",
}
CONFIGS: dict[str, type] = {
    "finetune": Finetune,
    "joint": Joint,
    "ncm": NCM,
    "replay": Replay,
    "lwf": LwF,
    "lwm": LwM,
    "icarl": ICaRL,
    "mae_cil": MAECIL,
    "gmm": GMM,
}

# Options that came after the first records. While one has its default it is left out of the hash, so that records made before it came
# go on belonging to the same row. Such a default must never change.
LATER = {"gmm": {option.name: option.default for option in fields(Generative)}}

# What a leaderboard is read against: the method that plays the part, and the words for it.
REFERENCES = {"joint": "ceiling: all data at once", "finetune": "floor: no defence", "ncm": "frozen features, nothing trained"}
