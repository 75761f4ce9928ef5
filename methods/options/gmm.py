"""Options of GMM. Importable without torch."""

from dataclasses import dataclass

from data.options import SET, above, at_least, between, option
from methods.options.training import Training

WITHOUT_LORA = ("projector", "qformer", "projector+qformer", "qformer+projector")  # values of method.train


@dataclass
class Generative:
    """What a generative model is made of, what of it trains, and how an image gets its class. See LATER in methods.config."""

    family: str = option(  # of vlm=tiny: llava | instructblip | blip2 | idefics3 | smolvlm | qwen2_vl | qwen2_5_vl | composed
        "llava", idle={"vlm": ("packaged", "composed", "hf")}
    )
    model: str | None = option(  # of vlm=hf: folder or hub id of an image-text-to-text model of transformers
        None, idle={"vlm": ("packaged", "composed", "tiny")}, names="model"
    )
    encoder: str = option(  # of vlm=composed: packaged, timm:NAME, open_clip:NAME, or hf:FOLDER_OR_ID of a vision model
        "packaged", idle={"vlm": ("packaged", "hf", "tiny")}, names="model"
    )
    decoder: str | None = option(  # of vlm=composed: folder or hub id of a causal language model of transformers
        None, idle={"vlm": ("packaged", "hf", "tiny")}, names="model"
    )
    qformer: int = at_least(  # of vlm=composed: query tokens of a Q-Former between encoder and projector; 0 = none
        0, 0, idle={"vlm": ("packaged", "hf")}
    )
    encoder_size: int | None = at_least(1, None)  # pixels that the encoder, or vlm=hf's, gets; null = as published (Qwen-VL 224, digits 96)
    input_range: str = option(  # numbers that the encoder gets: published (its own mean and std) | unit (0..1) | imagenet, cifar100
        "published", idle={"vlm": ("hf", "tiny")}
    )
    train: str = "projector"  # what trains: projector | qformer | lora, or some of them joined by +
    lora_rank: int = at_least(  # of the low-rank matrices beside the decoder's linear layers
        1, 16, idle={"train": WITHOUT_LORA, "adapter": SET}
    )
    lora_alpha: float = above(  # their products are added times lora_alpha / lora_rank
        0, 32.0, idle={"train": WITHOUT_LORA, "adapter": SET}
    )
    lora_layers: list[str] | None = option(  # names of the layers that get them, [q_proj, v_proj] say; null = all linear ones but the head
        None, idle={"train": WITHOUT_LORA, "adapter": SET}
    )
    adapter: str | None = option(  # folder or hub id of a LoRA adapter of peft, made for this decoder, to start from
        None, names="model"
    )
    gradient_checkpointing: bool = False  # compute the decoder's activations again in the backward pass: less memory, a third more time
    dtype: str = "float32"  # of the frozen encoder and decoder: float32 | bfloat16; what trains is float32
    quantize: int | None = between(  # bits of the frozen decoder's weights, 8 or 4, by bitsandbytes; null = as dtype says
        4, 8, None, names="bitsandbytes"
    )
    before: str | None = option(None, empty=True)  # text before the image; null = the model's own; {bos} = its first token
    after: str | None = option(None, empty=True)  # text between image and answer; null = the model's own; {} = the question
    stop: str | None = None  # text of the one token that ends an answer; null = the model's own
    scoring: str = "nearest"  # class of an image: nearest (name to the answer) | exact (the answer's name) | likelihood (of each name)
    text_encoder: str = option(  # of nearest: minilm | open_clip:NAME | decoder (its own words) | folder or hub id of a sentence encoder
        "minilm", idle={"scoring": ("exact", "likelihood")}, names="model"
    )


@dataclass
class GMM(Generative, Training):
    name: str = "gmm"
    epochs: int = 1
    batch_size: int = 8
    optimizer: str = "adamw"
    lr: float = 5e-3
    later_lr: float | None = at_least(0, None)  # peak learning rate of the tasks after the first, of few images say; null = lr
    weight_decay: float = 0.0
    decay: str = "matrices"
    warmup: int = 5
    clip: float | None = 1.0
    vlm: str = "packaged"  # generative model, packaged | composed | hf | tiny, or another name in methods.gmm.models.VLMS
    visual_tokens: int = at_least(  # tokens an image becomes: the pooled feature, then a square grid of the feature map; 0 = the whole map
        0, 1
    )
    memory: int = at_least(0, 100)  # exemplars kept over all classes; 0 keeps none
    selection: str = option("herding", idle={"memory": (0,)})  # which exemplars to keep: herding | random
    replay: int = at_least(1, 2, idle={"memory": (0,)})  # times each exemplar is seen an epoch
    crop: float | None = between(  # train on random resized crops of at least this share of an image, others each epoch; null = none
        0, 1, None, "(]"
    )
    question: str = "What is this?"  # asked in training and at test alike
    answer: str = "This is a photo of a {}."  # {} = the class name
    max_new_tokens: int = at_least(1, 30, idle={"scoring": ("likelihood",)})  # longest answer
    predict_batch_size: int = at_least(1, 64, idle={"memory": (0,), "selection": ("random",)})  # rows a batch, for herding
