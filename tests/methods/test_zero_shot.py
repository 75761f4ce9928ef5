"""Zero-shot CLIP. Oracles: examples worked by hand, open_clip's own towers, and that nothing but the names matters in the end."""

from pathlib import Path

import open_clip
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize
from torchvision.transforms.functional import to_pil_image

from bench.engine import run
from data.errors import InputError
from data.stream import Rows, Task
from methods.config import CONFIGS
from methods.icarl import nearest_mean
from methods.zero_shot import TEMPLATES, ZeroShot, class_vectors
from tests.tiny import SEEN, clip_folder


@pytest.fixture
def zero_shot(accelerator):
    return lambda **options: ZeroShot(CONFIGS["zero_shot"](**{"encoder": f"open_clip:{clip_folder()}", **options}), accelerator)


def task(number: int, classes: range, names: tuple[str, ...]) -> Task:
    none = torch.empty(0, dtype=torch.int64)
    return Task(number, classes, names, Rows(torch.empty(0, 3, 8, 8), none, none))


def test_sentences_are_averaged_at_unit_length():
    """(10, 0) and (0, 1) of class A, (3, 1) of class B: the mean of raw features would give A the first image."""
    vectors = class_vectors(torch.tensor([[[10.0, 0], [0, 1]], [[3, 1], [3, 1]]]))
    torch.testing.assert_close(vectors, torch.tensor([[0.707107, 0.707107], [0.948683, 0.316228]]), atol=1e-6, rtol=0)
    scores = nearest_mean(torch.tensor([[1, 0.15], [1, 0.6]]), vectors)
    torch.testing.assert_close(scores, torch.tensor([[0.804176, 0.985097], [0.970143, 0.976187]]).double(), atol=1e-6, rtol=0)


def test_it_is_what_open_clip_makes_of_it(zero_shot):
    images = torch.randint(0, 256, (5, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    method, names = zero_shot(templates="imagenet7"), ("hermit_crab", "oil slick", "bear")
    method.learn(task(0, range(3), names))
    clip = open_clip.create_model(f"local-dir:{clip_folder()}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip_folder()}")
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**SEEN), is_train=False)
    with torch.no_grad():
        image = normalize(clip.encode_image(torch.stack([transform(to_pil_image(one)) for one in images])), dim=1)
        words = [[template.format(name) for template in TEMPLATES["imagenet7"]] for name in ("hermit crab", "oil slick", "bear")]
        text = [normalize(normalize(clip.encode_text(tokenizer(one)), dim=1).mean(0), dim=0) for one in words]
    scores = method.predict(method.encoder(images)).scores
    torch.testing.assert_close(scores.float(), image @ torch.stack(text).T, atol=2e-3, rtol=0)  # a pixel may be rounded otherwise
    files = ["open_clip_model.safetensors", f"{Path(clip_folder()).name}/settings"]
    assert method.weights().keys() == {*files, *(f"text {file}" for file in files)}
    assert method.parameters()["total"] == sum(p.numel() for p in clip.parameters())  # each tower once


def test_names_that_the_text_tower_cannot_tell_apart_are_refused(zero_shot):
    """CLIP's tokenizer makes all letters small."""
    with pytest.raises(InputError, match="the class names 'Dog' and 'dog' are the same words to the text tower"):
        zero_shot().check_names(("Dog", "cat", "dog"))
    zero_shot().check_names(("Dog", "cat", "hot dog"))


def test_another_domain_brings_no_new_names(zero_shot):
    method = zero_shot()
    method.learn(task(0, range(2), ("cat", "dog")))
    before = method.vectors
    method.learn(task(1, range(2), ("cat", "dog")))
    assert torch.equal(method.vectors, before)
    method.learn(task(2, range(2, 3), ("bear",)))
    assert torch.equal(method.vectors[:2], before) and len(method.vectors) == 3
    assert method.stored()[0].bytes == 3 * 16 * 4


def test_the_end_knows_neither_order_nor_tasks_nor_seed(quick, accelerator):
    """After the last task each image has the same class, by name; the average over tasks may differ."""
    ways = [[], ["stream.order=3", "seed=5"], ["stream.increment=5"], ["stream.base=4", "stream.increment=3"]]
    ended, averages = [], set()
    for way in ways:
        record, path = run(quick("zero_shot", *way), accelerator)
        saved = pd.read_parquet(path.with_name(f"{path.stem}-predictions.parquet"))
        last = saved[saved.after_task == saved.after_task.max()].set_index("index").sort_index()
        ended.append(last.prediction.map(dict(enumerate(record["stream"]["class_names"]))))
        averages.add(record["metrics"]["average_incremental_accuracy"])
        assert record["method"] == "zero_shot-bad_photo"
    assert ended[0].nunique() > 2 and all(one.equals(ended[0]) for one in ended)
    assert len(averages) > 1


def test_templates():
    """CLIP's ensemble for CIFAR-100 has nine forms with each of two articles, its small one for ImageNet seven."""
    assert len(set(TEMPLATES["cifar"])) == 18 and len(TEMPLATES["imagenet7"]) == 7
    assert {"a photo of a {}.", "a black and white photo of the {}.", "a photo of the big {}."} < set(TEMPLATES["cifar"])
    assert all(sentence.count("{}") == 1 for sentences in TEMPLATES.values() for sentence in sentences)


def test_refused(zero_shot):
    with pytest.raises(InputError, match="no text tower"):
        zero_shot(encoder="packaged")
    with pytest.raises(InputError, match=r"method\.templates"):
        zero_shot(templates="photos")
