"""Every number an option takes has a range, and an option that would do nothing is an error. Oracle: what is declared beside the option."""

import math
from dataclasses import fields
from typing import get_type_hints

import pytest

from bench.config import Checkpoint, RunConfig, resolve
from bench.help import help_text
from bench.identity import config_hash
from bench.run import main
from data.config import STREAMS
from data.errors import InputError
from data.options import Range, check, declared
from launch.sweeping.grid import points, read
from launch.sweeping.runs import command
from methods.config import CONFIGS

KINDS = [RunConfig, Checkpoint, *CONFIGS.values(), *sorted({type(one) for one in STREAMS.values()}, key=repr)]
NUMERIC = ("int", "float", "list[int]")
FREE = ("increment", "order")  # a number or a list or a word; data/split.py says what they may be


def numeric(kind: type) -> list[str]:
    hints = {name: str(hint).replace("<class '", "").replace("'>", "").split(" | ")[0] for name, hint in get_type_hints(kind).items()}
    return [entry.name for entry in fields(kind) if hints[entry.name] in NUMERIC]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_number_has_a_range_and_what_lies_just_outside_is_refused(kind):
    assert numeric(kind) or kind.__name__ in ("Finetune", "Joint")
    for name in numeric(kind):
        wide = declared(kind, name).get("range")
        assert isinstance(wide, Range), f"{kind.__name__}.{name} has no range: at_least, above and between of data.options give one"
        default = kind() if kind is not RunConfig else None
        values = {entry.name: getattr(default, entry.name, None) for entry in fields(kind)}
        outside = [wide.low - 1 if wide.ends[0] == "[" else wide.low, math.nan, math.inf, -math.inf]
        outside += [] if wide.high == math.inf else [wide.high + 1 if wide.ends[1] == "]" else wide.high]
        for number in outside:
            for value in (number, [number]):
                with pytest.raises(InputError, match=f"x.{name}="):
                    check("x.", kind, {**values, name: value})


@pytest.mark.parametrize("kind", KINDS[2:], ids=lambda kind: kind.__name__)
def test_every_default_lies_in_its_range_and_does_something_or_stays(kind):
    check("", kind, {entry.name: getattr(kind(), entry.name) for entry in fields(kind)})


def test_help_shows_the_ranges():
    text = help_text(resolve(["method=icarl"]))
    assert "method.epochs=20" in text and "[at least 0]" in text and "[above 0]" in text
    assert next(line for line in text.splitlines() if "method.momentum" in line).endswith("[at least 0 and below 1]")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method=finetune", "method.epochs=-1"], "method.epochs=-1 must be at least 0"),
        (["method=finetune", "method.batch_size=-4"], "method.batch_size=-4 must be at least 1"),
        (["method=finetune", "method.batch_size=0"], "method.batch_size=0 must be at least 1"),
        (["method=finetune", "method.accumulate=0"], "method.accumulate=0 must be at least 1"),
        (["method=finetune", "method.lr=-0.1"], "method.lr=-0.1 must be at least 0"),
        (["method=finetune", "method.lr=nan"], "method.lr=nan is no number to compute with"),
        (["method=gmm", "method.max_new_tokens=0"], "method.max_new_tokens=0 must be at least 1"),
        (["method=gmm", "method.replay=0"], "method.replay=0 must be at least 1"),
        (["method=ncm", "eval_batch_size=0"], "eval_batch_size=0 must be at least 1"),
        (["method=ncm", "stream.validation=1"], "stream.validation=1.0 must be at least 0 and below 1"),
        (["method=finetune", "method.schedule=multistep", "method.milestones=[0]"], "must be at least 1"),
        (["method=finetune", "method.milestones=[5]"], "method.milestones=[5] has no effect with method.schedule=cosine"),
        (["method=finetune", "method.min_lr=0.1", "method.schedule=constant"], "method.min_lr=0.1 has no effect"),
        (["method=finetune", "method.optimizer=adamw", "method.momentum=0.5"], "has no effect with method.optimizer=adamw"),
        (["method=finetune", "method.warmup_lr=0.5"], "has no effect with method.warmup=0"),
        (["method=icarl", "method.temperature=3"], "method.temperature=3.0 has no effect with method.loss=bce"),
        (["method=icarl", "method.loss=ce_kd", "method.outputs=5"], "method.outputs=5 has no effect with method.loss=ce_kd"),
        (["method=icarl", "method.memory=50", "method.per_class=5"], "method.memory=50 has no effect with method.per_class=5"),
        (["method=mae_cil", "method.memory=50"], "method.memory=50 has no effect with method.memory_bytes=19200"),
        (["method=mae_cil", "method.detail=false", "method.shallow=3"], "method.shallow=3 has no effect"),
        (["method=finetune", "method.schedule=cosin", "method.warmup=1000"], "unknown method.schedule 'cosin': did you mean 'cosine'?"),
        (["method=finetune", "method.optimizer=adam", "method.epochs=0"], "unknown method.optimizer 'adam'"),
        (["method=finetune", "method.min_lr=5"], "method.min_lr=5 is above method.lr=0.02"),
        (["method=finetune", "method.accumulate=17"], "method.accumulate=17 is more than method.batch_size=16 rows"),
        (["method=finetune", "method.flip=false"], "method.flip=false is not for stream 'digits"),
        (["method=icarl", "method.mirror=true"], "method.mirror=true is not for stream 'digits"),
        (["method=lwm", "method.frozen=true"], "method.frozen=true leaves LwM no maps that could learn"),
        (["method=gmm", "method.memory=0", "method.predict_batch_size=3"], "has no effect with method.memory=0"),
        (["method=gmm", "method.scoring=likelihood", "method.max_new_tokens=9"], "has no effect with method.scoring=likelihood"),
        (["method=mae_cil", "method.mask_ratio=0"], "method.mask_ratio=0.0 must be above 0"),
        (["method=mae_cil", "method.mask_ratio=0.25"], "method.detail_mask_ratio=0.25 hides as much as method.mask_ratio=0.25"),
        (["method=mae_cil", "method.patch=8"], "hides none of an image's 1 patches"),
        (["method=gmm", "method.min_lr=0.001", "method.later_lr=0.0005"], "method.min_lr=0.001 is above method.later_lr=0.0005"),
        (["method=gmm", "method.vlm=tiny", "method.visual_tokens=5"], "method.visual_tokens=5 has no effect with method.vlm=tiny"),
        (["method=gmm", "method.vlm=tiny", "method.qformer=4"], "method.qformer=4 has no effect with method.vlm=tiny"),
        (["method=mae_cil", "method.own_copy=true"], "method.own_copy has no effect on mae_cil"),
        (
            ["method=finetune", "method.backbone=resnet18", "method.batch_size=19", "stream.limit=10", "stream.tasks=1", "method.epochs=1"],
            "a batch of one row has no statistics to normalise by",
        ),
        (["method=der_yan", "method.balanced_epochs=0"], "method.balanced_epochs=0 must be at least 2"),
        (["method=der_yan", "method.memory=0", "method.balanced_lr=0.5"], "method.balanced_lr=0.5 has no effect with method.memory=0"),
        (["method=replay", "method.memory=0", "method.selection=herding"], "method.selection=herding has no effect with method.memory=0"),
        (["method=coda_prompt", "method.prompted=false", "method.components=7"], "has no effect with method.prompted=False"),
        (["method=dualprompt", "method.prompted=false", "method.pull=0.3"], "has no effect with method.prompted=False"),
        (["method=zero_shot", "method.batch_size=7"], "batch_size"),
        (["method=slda", "method.shrinkage=1e-18", "stream.limit=20"], "method.shrinkage=1e-18 is lost by rounding"),
        (["method=lwm", "method.gamma=0", "method.top_class=teacher"], "has no effect with method.gamma=0.0"),
        (["method=gmm", "method.family=blip2"], "method.family=blip2 has no effect with method.vlm=packaged"),
        (["method=gmm", "method.lora_rank=4"], "method.lora_rank=4 has no effect with method.train=projector"),
        (["method=gmm", "method.memory=0", "method.replay=1"], "method.replay=1 has no effect with method.memory=0"),
        (["method=gmm", "method.scoring=exact", "method.text_encoder=decoder"], "has no effect with method.scoring=exact"),
        (["method=ncm", "stream.shot_seed=1"], "stream.shot_seed=1 has no effect with stream.shots=None"),
        (["method=ncm", "stream.shot_list=none.txt"], "stream.shot_list=none.txt has no effect"),
        (["method=finetune", "method.schedule=multistep", "stream.limit=2"], "multistep never changes the rate without method.milestones"),
        (["method=finetune", "features=live"], "features=live has no effect on method=finetune"),
        (["method=ncm", "stream.increment=5", "stream.order=[0.0,1,2,3,4,5,6,7,8,9]"], "stream.order is no permutation"),
        (["method=ncm", "stream.test_list=there/is/none.txt"], "stream.test_list has no effect on stream 'digits'"),
    ],
)
def test_out_of_range_or_in_vain_is_one_sentence_and_no_record(overrides, sentence, tmp_path, capsys):
    assert main([*overrides, "progress=false", f"results={tmp_path}"]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert sentence in said
    assert not list(tmp_path.rglob("*.json"))


def test_an_option_of_a_plugin_is_held_to_its_range_and_a_new_default_keeps_that_of_its_base():
    assert declared(CONFIGS["icarl"], "lr")["range"] == Range(0)  # declared in Training, another default in Backboned and ICaRL
    assert declared(CONFIGS["gmm"], "clip")["range"].holds(1.0) and not declared(CONFIGS["gmm"], "clip")["range"].holds(0)


def test_a_range_that_is_not_looked_at_would_be_seen(monkeypatch):
    """The test can fail: without the comparison the very same call passes."""
    monkeypatch.setattr(Range, "holds", lambda self, number: True)
    assert resolve(["method=finetune", "method.epochs=-1"]).method.epochs == -1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method.backbone="], "method.backbone= is empty"),
        (["method.compile=' '"], "method.compile= is empty"),
        (["stream.root="], "stream.root= is empty"),
        (["results="], "results= is empty"),
        (["precision="], "precision= is empty"),
        (["tracker=tensorbord"], "did you mean 'tensorboard'"),
        (["features=table"], "unknown features 'table'"),
        (["method.lr="], "option method.lr: Value ''"),
        (["method.lr=null"], "method.lr cannot be null"),
        (["seed=null"], "seed cannot be null"),
        (["method.lr=yes"], "could not be converted to Float"),
        (["method.lr=[0.1]"], "could not be converted to Float"),
        (["method.lr=1e400"], "is no number to compute with"),
        (["method.epochs=2.0"], "could not be converted to Integer"),
        (["method.flip=2"], "neither true nor false"),
        (["dry_run=0.5"], "neither true nor false"),
        (["method.name=icarl"], "choose by method=NAME"),
        (["method.name="], "choose by method=NAME"),
        (["stream.source=cifar10"], "choose by stream=NAME"),
        (["~seed"], "without . or ~"),
        (["~method"], "without . or ~"),
        (["+method.lr=1"], "write method.lr=value"),
        (["++method.lr=1"], "write method.lr=value"),
        (["hydra.run.dir=/x"], "has no effect here"),
        (["hydra.mode=MULTIRUN"], "has no effect here"),
        (["hydra.searchpath=[file:///x]"], "has no effect here"),
        (["plugins=mine"], "is no list: write plugins="),
        (["method.lr=0.1,0.2"], "Ambiguous value"),
        (["method.lr=choice(0.1,0.2)"], "requires --multirun"),
    ],
)
def test_what_means_nothing_or_too_much_is_refused(overrides, said):
    with pytest.raises(InputError, match=said) as caught:
        resolve(["method=finetune", "stream=digits", *overrides])
    assert "\n" not in str(caught.value)


def test_words_for_the_same_value_are_the_same_run():
    """Oracle: the value itself. Quoted, in another notation, or by Hydra's words for true and false."""
    for one, other in (
        ("lr=1e-3", "lr='0.001'"),
        ("lr=1", "lr=1.0"),
        ("flip=no", "flip=false"),
        ("flip=1", "flip=true"),
        ("min_lr=-0.0", "min_lr=0"),
    ):
        first, second = (config_hash(resolve(["method=finetune", f"method.{text}"])) for text in (one, other))
        assert first == second != config_hash(resolve(["method=finetune", "method.epochs=3"]))
    assert resolve(["method=gmm", "method.before=''", "method.after="]).method.before == ""  # a text may be empty


def test_an_option_given_twice_is_refused(capsys):
    assert main(["method=finetune", "method.lr=0.1", "method.lr=0.2"]) == 2
    assert "method.lr=0.1 and method.lr=0.2 are one option given twice" in capsys.readouterr().err
    with pytest.raises(InputError, match="seeds= is given twice"):
        read(["methods=[ncm]", "seeds=[0]", "seeds=[1]"])
    (point,) = points(read(["methods=[ncm]", "progress=true"]).blocks[0])
    keys = [argument.partition("=")[0] for argument in command(point, "dry_run=true", gpus=False)]
    assert keys.count("progress") == keys.count("dry_run") == 1


PRESET = "# @package _global_\ndefaults:\n  - override /method: finetune\n"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("experiment/mine.yaml", PRESET + "method: {lr: 0.5}", None),
        ("experiment/mine.yaml", PRESET + "plugins: [json]", r"give plugins=\[json\] with the command"),
        ("experiment/mine.yaml", PRESET + "method: {name: joint}", "method.name=joint in a preset leaves"),
        ("experiment/mine.yaml", PRESET + "a: [1,", r"no YAML: .*mine.yaml"),
        ("experiment/mine.yaml", "seed: 9", "does not begin with the line"),
        ("experiment/cifar100_icarl.yaml", PRESET, "would not be read"),
        ("run.yaml", "seed: 9", "run.yaml would not be read"),
        (None, "", "is no folder"),
    ],
)
def test_a_preset_of_the_user_acts_or_is_refused(file, text, said, tmp_path):
    folder = tmp_path / "mine"
    if file:
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text(text)
    chosen = [f"experiment={file.partition('/')[2][:-5]}"] if file and "/" in file else []
    if said is None:
        assert resolve(chosen, str(folder)).method.lr == 0.5
        return
    with pytest.raises(InputError, match=said):
        resolve(chosen, str(folder))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["method=mae_cil", "method.patch=3"], "8x8 pixels are no square of patches of 3"),
        (["method=replay", "method.memory_bytes=1000"], "holds no exemplar for each of the 10 classes: set it to at least 1920"),
        (["method=finetune", "method.compile=nope"], "unknown method.compile 'nope'"),
        (["method=finetune", "method.image_size=null", "method.crop=0.5"], "needs method.image_size: set both"),
    ],
)
@pytest.mark.parametrize("plan", ["true", "false"])
def test_a_plan_refuses_what_a_run_would_after_its_first_task(overrides, sentence, plan, tmp_path, capsys):
    assert main([*overrides, f"dry_run={plan}", "progress=false", f"results={tmp_path}"]) == 2
    said = capsys.readouterr()
    assert sentence in said.out + said.err and "accuracy" not in said.out + said.err
