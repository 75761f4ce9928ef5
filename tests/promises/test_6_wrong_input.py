"""Promise 6: wrong input is one sentence that names the key or the file and the remedy, before anything is trained."""

import os

import pytest

from bench import record as records
from bench.run import main


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["stream.increment=3"], "stream.increment=3 does not divide the 7 classes"),
        (["stream.base=20"], "stream.base=20 is more than the 10 classes"),
        (["stream.order=sideways"], "unknown stream.order 'sideways'"),
        (["stream.order=[0,1]"], "stream.order is no permutation of the 10 classes"),
        (["resume=yes"], "unknown resume 'yes'"),
        (["method=gmm", "method.visual_tokens=3"], "method.visual_tokens=3 must be 1 plus a square"),
        (["method=gmm", "method.answer=photo"], "must hold {} once"),
        (["method=gmm", "method.vlm=packagd"], "unknown method.vlm 'packagd': did you mean 'packaged'?"),
        (["method=gmm", "method.memory=5"], "method.memory=5 holds no exemplar for each of the 10 classes: set it to 0 or at least 10"),
        (["method=icarl", "method.memory=9"], "method.memory=9 holds no exemplar for each of the 10 classes"),
        (["method=icarl", "precision=fp16"], "precision=fp16 needs a GPU"),
        (["method=lwm", "method.compile=inductor"], "method.compile cannot differentiate LwM's attention"),
        (["method=finetune", "method.backbone=resnet3"], "did you mean 'resnet32'?"),
        (["method=finetune", "method.optimizer=adam", "stream.limit=1"], "unknown method.optimizer 'adam'"),
        (["method=finetune", "method.lr=1e30", "stream.limit=4"], "lower method.lr or set method.clip"),
        (["method=ncm", "method.encoder=packed"], "unknown encoder 'packed': did you mean 'packaged'?"),
    ],
)
def test_one_sentence_and_no_record(overrides, sentence, tmp_path, capsys):
    assert main([*overrides, "progress=false", f"results={tmp_path}"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(said) == 1 and sentence in said[0]
    assert not records.find(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_results_folder(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert main(["method=ncm", f"results={tmp_path / 'deep'}"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_results_below_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["method=ncm", "progress=false", f"results={tmp_path / 'file'}"]) == 2
    assert "cannot be written" in capsys.readouterr().err
