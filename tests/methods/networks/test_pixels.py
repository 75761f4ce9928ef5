"""What networks are fed. Oracle: each library's own transform or processor, of images of all shapes, smooth ones and noise."""

import os
from pathlib import Path

import open_clip
import pytest
import timm
import torch
import transformers
from torchvision.transforms.functional import to_pil_image

from data.errors import InputError
from methods.networks.encoders import timm_fed
from methods.networks.fed import Fed
from methods.networks.processors import fed_of, processor, sample

FOLDERS = Path(os.environ.get("CILBENCH_MODELS", "no folder"))
TAGS = ["tf_efficientnet_lite0.in1k", "vit_base_patch16_224.augreg_in21k", "resnet18.a1_in1k", "swin_tiny_patch4_window7_224.ms_in1k"]
PUBLISHED = ["llava-1.5-7b-hf", "blip2-opt-2.7b", "clip-vit-base-patch16", "SmolVLM-256M-Instruct"]
# Grey levels by which our pixels differ from those of the library's own transform or processor, at most: none at all
MOST = 0.001
SIDES = [(224, 224), (40, 40), (8, 8), (200, 300), (427, 640), (40, 400), (500, 60)]  # square, as photos are, long and narrow


def image(kind: str, height: int, width: int) -> torch.Tensor:
    """-> uint8 [3, height, width]: smooth as photos mostly are, or noise, whose every pixel is an edge"""
    if kind == "smooth":
        return sample(height, width)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(height + width))


def levels(fed: Fed, theirs: torch.Tensor, image: torch.Tensor) -> float:
    return (fed(image[None])[0] - theirs).mul(torch.tensor(fed.std)[:, None, None] * 255).abs().max().item()


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_pixels_of_timm(tag, kind):
    config = timm.get_pretrained_cfg(tag).to_dict()
    transform, fed = (
        timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config)),
        timm_fed(config, tag, torch.nn.Identity()),
    )
    found = {sides: levels(fed, transform(to_pil_image(image(kind, *sides))), image(kind, *sides)) for sides in SIDES}
    assert max(found.values()) < MOST, found


@pytest.mark.parametrize("name", [("ViT-B-16-quickgelu", "openai"), ("ViT-B-16-SigLIP", "webli")])
@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_pixels_of_open_clip(name, kind):
    """One cuts a centre out; the other squashes, which Pillow does by columns first where images are tall."""
    own = open_clip.get_pretrained_cfg(*name)
    given = {key: own[key] for key in ("mean", "std", "interpolation", "resize_mode") if key in own}
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(size=224, **given), is_train=False)
    fed = Fed("open_clip", "x", 224, tuple(own["mean"]), tuple(own["std"]), rule=own["resize_mode"], interpolation=own["interpolation"])
    found = {sides: levels(fed, transform(to_pil_image(image(kind, *sides))), image(kind, *sides)) for sides in SIDES}
    assert max(found.values()) < MOST, found


# Image processors with the settings of published folders: what our words say of each, and whether they are all that is done.
WORDS_ARE_ALL, MORE_STEPS = True, False
PROCESSORS = {
    "CLIP": ({}, "224 pixels, bicubic, mean 0.4815/0.4578/0.4082", WORDS_ARE_ALL),
    "ChineseCLIP": ({}, "224 pixels, bicubic, mean 0.4815/0.4578/0.4082", WORDS_ARE_ALL),
    "Bit": ({"size": {"shortest_edge": 256}, "crop_size": 224}, "224 pixels cut out of 256, bicubic", WORDS_ARE_ALL),
    "Blip": ({}, "384 pixels, bicubic", WORDS_ARE_ALL),
    "ViT": ({}, "224 pixels, bilinear, mean 0.5, std 0.5", WORDS_ARE_ALL),
    "DeiT": ({}, "224 pixels cut out of 256, bicubic", WORDS_ARE_ALL),
    "Beit": ({}, "224 pixels, bicubic", WORDS_ARE_ALL),
    "Siglip": ({}, "224 pixels, bicubic, mean 0.5, std 0.5", WORDS_ARE_ALL),
    "DINOv3ViT": ({}, "224 pixels, bilinear, mean 0.485/0.456/0.406", WORDS_ARE_ALL),
    "ConvNext": ({"size": {"shortest_edge": 224}}, "224 pixels cut out of 256, bicubic", WORDS_ARE_ALL),
    "MobileViT": ({"size": {"shortest_edge": 288}, "crop_size": 256}, "mean 0, std 1, blue before green before red", WORDS_ARE_ALL),
    "MobileNetV2": ({}, "224 pixels cut out of 256, bilinear, mean 0.5", WORDS_ARE_ALL),
    "EfficientNet": ({"include_top": True, "image_std": [0.478539] * 3}, "346 pixels, bicubic, mean 0.5, std 0.229", WORDS_ARE_ALL),
    "Llava": ({}, "224 pixels, bicubic", WORDS_ARE_ALL),
    "Gemma3": ({}, "224 pixels, bilinear, mean 0.5", WORDS_ARE_ALL),
    "Levit": ({}, "224 pixels, bicubic", MORE_STEPS),
    "PoolFormer": ({}, "224 pixels, bicubic", MORE_STEPS),
    "Owlv2": ({"size": {"height": 96, "width": 96}}, "96 pixels, bilinear", MORE_STEPS),
    "SmolVLM": ({"size": {"longest_edge": 512}, "max_image_size": {"longest_edge": 128}}, "one image without its tiles", WORDS_ARE_ALL),
}


def theirs(kind, given, one):
    """what a processor makes of a Pillow image, which is what users give it"""
    whole = {"do_image_splitting": False} if "SmolVLM" in kind else {}
    made = getattr(transformers, kind)(**given)(images=[to_pil_image(one)], return_tensors="pt", **whole)["pixel_values"]
    return made.reshape(made.shape[-3:])


@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixels_of_transformers(kind, tmp_path):
    """Oracle: the processor by itself; its twin on Pillow alone, which came first, rounds elsewhere: within 2 levels of a photo."""
    given, said, all_told = PROCESSORS[kind]
    getattr(transformers, f"{kind}ImageProcessor")(**given).save_pretrained(tmp_path)
    fed = fed_of(tmp_path, str(tmp_path), "hf")
    images = [image(look, *sides) for sides in SIDES for look in ("smooth", "noise")]
    assert max(levels(fed, theirs(f"{kind}ImageProcessor", given, one), one) for one in images) < MOST
    if hasattr(transformers, twin := f"{kind}ImageProcessorPil"):
        assert levels(fed, theirs(twin, given, sample(224, 224)), sample(224, 224)) < 2.1
    assert said in str(fed) and ("in more steps than these words say" in str(fed)) != all_told
    batch = torch.stack([image("noise", 60, 90), image("smooth", 60, 90)])
    assert torch.equal(fed(batch)[1:], fed(batch[1:]))


@pytest.mark.skipif(not FOLDERS.is_dir(), reason="set CILBENCH_MODELS to the folder of llava-1.5-7b-hf/, …")
@pytest.mark.parametrize("name", PUBLISHED)
def test_pixels_of_published_folders(name):
    fed, found = fed_of(FOLDERS / name, name, "hf"), processor(FOLDERS / name, name, "hf")
    whole = {"do_image_splitting": False} if "Smol" in name else {}
    for sides in SIDES:
        made = found(images=[to_pil_image(image("noise", *sides))], return_tensors="pt", **whole)["pixel_values"]
        assert levels(fed, made.reshape(made.shape[-3:]), image("noise", *sides)) < MOST
    assert fed.differs == ("one image without its tiles" if "Smol" in name else "")


def test_pixels_of_a_fixed_grid(tmp_path):
    """Qwen-VL's processor on an image that it leaves at the size of our grid, its patches put together again"""
    given = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "size": {"shortest_edge": 56**2, "longest_edge": 56**2}}
    transformers.Qwen2VLImageProcessor(**given).save_pretrained(tmp_path)
    fed = fed_of(tmp_path, str(tmp_path), "method.model", grid=56)
    for side in (40, 56, 200):
        made = processor(tmp_path, "x", "x")(images=[to_pil_image(image("noise", side, side))], return_tensors="pt")
        assert made["image_grid_thw"].tolist() == [[1, 4, 4]]
        cut = made["pixel_values"].view(2, 2, 2, 2, 3, 2, 14, 14)[:, :, :, :, :, 0]  # rows and columns of blocks, and inside of them
        whole = cut.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, 56, 56)
        assert levels(fed, whole, image("noise", side, side)) < MOST


REFUSED = {
    "Siglip2": "something else than one square",
    "Pixtral": "something else than one square",
    "LlavaNext": "something else than one square",
    "Idefics2": "something else than one square",
    "Detr": "something else than one square",
    "Cohere2Vision": "something else than one square",  # tiles, of large images alone
    "VitPose": "it takes no plain images: .* 'boxes'",
    "ImageGPT": "it takes no plain images: Clusters must be provided",
    "MobileViT": "it does not scale each channel's numbers",  # its defaults, which no published folder has, put black around images
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_processor_that_is_not_understood_is_refused(kind, tmp_path):
    getattr(transformers, f"{kind}ImageProcessor")().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"prepares images in a way that is not understood here .*{REFUSED[kind]}") as caught:
        fed_of(tmp_path, str(tmp_path), "hf")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["ViT", "Bit", "ConvNext"])
def test_another_size_by_the_same_processor(kind, tmp_path):
    """Oracle: the processor with that size in its settings"""
    sizes = {
        "ViT": ({"height": 64, "width": 64}, {"height": 48, "width": 48}),
        "Bit": ({"shortest_edge": 80}, {"shortest_edge": 60}),
        "ConvNext": ({"shortest_edge": 64}, {"shortest_edge": 48}),
    }
    (own, other), crop = sizes[kind], (lambda size: {"crop_size": size} if kind == "Bit" else {})
    getattr(transformers, f"{kind}ImageProcessor")(size=own, **crop(64)).save_pretrained(tmp_path)
    fed = fed_of(tmp_path, str(tmp_path), "hf").sized(48)
    made = theirs(f"{kind}ImageProcessor", {"size": other, **crop(48)}, image("noise", 70, 90))
    assert levels(fed, made, image("noise", 70, 90)) < MOST and fed.differs == "images of 48 pixels, not 64"


def test_settings_of_a_processor_are_in_the_key(tmp_path):
    """all of them: what resizes, and what is not told in words"""
    keys = set()
    for number, given in enumerate([{}, {"resample": 2}, {"image_mean": [0.4] * 3}, {"crop_pct": 0.9}, {"size": {"shortest_edge": 224}}]):
        folder = tmp_path / str(number) / "model"
        transformers.ConvNextImageProcessor(**given).save_pretrained(folder)
        keys.add(fed_of(folder, "model", "hf").key)
    assert len(keys) == 5


def test_channels_that_are_turned_round(tmp_path):
    transformers.MobileViTImageProcessor(size={"shortest_edge": 288}, crop_size=256).save_pretrained(tmp_path)
    fed = fed_of(tmp_path, "x", "hf")
    red = torch.zeros(1, 3, 256, 256, dtype=torch.uint8)
    red[:, 0] = 255
    for one in (fed, fed.whole(), fed.sized(None, "unit")):
        assert one(red).amax((2, 3)).tolist() == [[0, 0, 1]]


def test_pixels_depend_on_no_other_image():
    fed = Fed("x", "x", 48, (0.5,) * 3, (0.5,) * 3, crop=0.875)
    images = torch.stack([sample(40, 40), sample(40, 40).flip(-1), sample(40, 40).flip(0)])
    assert torch.equal(fed(images)[1:2], fed(images[1:2]))


def test_images_that_would_be_padded():
    fed = Fed("x", "x", 32, (0.5,) * 3, (0.5,) * 3, rule="longest")
    with pytest.raises(InputError, match="set stream.image_size=32"):
        fed(sample(32, 48)[None])
    assert fed(sample(32, 32)[None]).shape == (1, 3, 32, 32)
