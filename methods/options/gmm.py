"""Options of GMM. Importable without torch."""

from dataclasses import dataclass

from methods.options.training import Training


@dataclass
class Generative:
    """What a generative model is made of, what of it trains, and how an image gets its class. See LATER in methods.config."""

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
