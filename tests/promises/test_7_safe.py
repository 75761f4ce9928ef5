"""Promise 7: nothing that a run reads can run code, and nothing that it is named can break out of what is written."""

import ast
import gzip
import html
import io
import os
import pickle
import stat
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from bench import record as records
from bench.board.collect import aggregate, collect
from bench.board.page import render
from bench.board.tables import latex, markdown
from bench.config import resolve
from data.errors import InputError
from data.images.files import Origin
from data.sources import SOURCES
from data.sources.download import fetch
from methods.config import CONFIGS, METHODS
from methods.networks.backbones import make_backbone
from tests.bench.made import make_record, write_record

ROOT = Path(__file__).resolve().parents[2]
NASTY = "<script>alert(1)</script>|_a_\n# b \\ & 100% $x$ `c` [d](javascript:e)"


class Evil:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return (os.system, ("touch owned",))


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """-> a function that asserts that no code of Evil ran"""
    monkeypatch.chdir(tmp_path)

    def check():
        assert not (tmp_path / "owned").exists()

    yield check
    check()


@pytest.mark.parametrize("name", ["timm:resnet18", "open_clip:RN50"])
def test_weights_that_would_run_code_are_refused(name, canary, tmp_path):
    for write in (lambda path: path.write_bytes(pickle.dumps(Evil())), lambda path: torch.save({"fc.weight": Evil()}, path)):
        write(tmp_path / "evil.pth")
        with pytest.raises(InputError, match="evil.pth"):
            make_backbone(f"{name}/{tmp_path / 'evil.pth'}")
        canary()


def test_nothing_in_the_product_reads_what_can_run_code():
    """torch.load only with weights_only=True; no other unpickler, no eval, no remote code, no archive unpacked without a check."""
    seen = 0
    for path in [path for folder in ("bench", "methods", "data", "launch") for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            said, keywords = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if said == "torch.load":
                seen += 1
                assert keywords.get("weights_only") == "True", f"{path}:{node.lineno}"
            if said in ("np.load", "numpy.load"):
                assert keywords.get("allow_pickle") == "False", f"{path}:{node.lineno}"
            assert said not in ("pickle.load", "pickle.loads", "joblib.load", "eval", "exec", "yaml.load"), f"{path}:{node.lineno}"
            assert not said.endswith((".extractall", ".extract")) and keywords.get("trust_remote_code") in (None, "False"), path
    assert seen >= 2


def tar(path: Path, name: str, kind: bytes) -> Path:
    with tarfile.open(path / "things.tar", "w") as archive:
        for one, what in (("things/a.txt", tarfile.REGTYPE), (name, kind)):
            entry = tarfile.TarInfo(one)
            entry.type, entry.linkname, entry.size = what, "a.txt", 1 if what == tarfile.REGTYPE else 0
            archive.addfile(entry, io.BytesIO(b"a"))
    return path / "things.tar"


def packed(path: Path, name: str, mode: int) -> Path:
    with zipfile.ZipFile(path / "things.zip", "w") as archive:
        archive.writestr("things/a.txt", "a")
        entry = zipfile.ZipInfo(name)
        entry.external_attr = (mode | 0o644) << 16
        archive.writestr(entry, "/etc/passwd")
    return path / "things.zip"


@pytest.mark.parametrize(
    ("make", "name", "kind"),
    [
        (tar, "things/../../out", tarfile.REGTYPE),
        (tar, "/tmp/cilbench-out", tarfile.REGTYPE),
        (tar, "things\\..\\..\\out", tarfile.REGTYPE),
        (tar, "things/link", tarfile.SYMTYPE),
        (tar, "things/link", tarfile.LNKTYPE),
        (tar, "things/device", tarfile.CHRTYPE),
        (tar, "things/pipe", tarfile.FIFOTYPE),
        (packed, "things/../../out", stat.S_IFREG),
        (packed, "/tmp/cilbench-out", stat.S_IFREG),
        (packed, "things/link", stat.S_IFLNK),
        (packed, "things/device", stat.S_IFCHR),
    ],
)
def test_an_archive_with_a_link_a_device_or_a_way_out_is_refused(make, name, kind, tmp_path):
    (tmp_path / "root").mkdir()
    archive = make(tmp_path / "root", name, kind)
    with pytest.raises(InputError, match="get the published archive"):
        fetch(Origin("things", f"http://127.0.0.1:9/{archive.name}"), tmp_path / "root", checksum=False)
    assert {path.name for path in tmp_path.rglob("*") if not path.name.startswith(".")} == {"root", archive.name}
    assert not Path("/tmp/cilbench-out").exists()


@pytest.mark.parametrize("make", [tar, packed])
def test_a_plain_archive_is_unpacked_and_a_torn_one_is_refused(make, tmp_path):
    archive = make(tmp_path, "things/b.txt", tarfile.REGTYPE if make is tar else stat.S_IFREG)
    origin = Origin("things", f"http://127.0.0.1:9/{archive.name}")
    content = archive.read_bytes()
    archive.write_bytes(content[: min(512, len(content) // 3)])  # in the middle of the first file
    with pytest.raises(InputError, match="cannot be unpacked|another archive"):
        fetch(origin, tmp_path, checksum=False)
    archive.write_bytes(content)
    fetch(origin, tmp_path, checksum=False)
    assert sorted(path.name for path in (tmp_path / "things").iterdir()) == ["a.txt", "b.txt"]


def cut(content: bytes) -> bytes:
    return content[:1024]  # a header and a block for each file: exactly between the two


def damaged(content: bytes) -> bytes:
    return content[:1030] + b"?" + content[1031:]  # in the second header


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize("harm", [cut, damaged])
def test_an_archive_that_ends_between_two_files_is_refused(harm, pack, tmp_path):
    """Python's tarfile takes it for a whole one."""
    content = harm(tar(tmp_path, "things/b.txt", tarfile.REGTYPE).read_bytes())
    with tarfile.open(fileobj=io.BytesIO(content)) as opened:
        assert opened.getnames() == ["things/a.txt"]
    (tmp_path / "things.tar").write_bytes(pack(content))
    with pytest.raises(InputError, match=r"cannot be unpacked \(it is cut or damaged, .*\): delete it and fetch it again"):
        fetch(Origin("things", "http://127.0.0.1:9/things.tar"), tmp_path, checksum=False)
    assert not (tmp_path / "things").exists()


@pytest.mark.parametrize("at", [-9, -2], ids=["cut", "another checksum"])
def test_a_compressed_archive_is_read_to_its_checksum(at, tmp_path):
    content = gzip.compress(tar(tmp_path, "things/b.txt", tarfile.REGTYPE).read_bytes())
    (tmp_path / "things.tar").unlink()
    (tmp_path / "things.tar.gz").write_bytes(content[:at] if at < -8 else content[:-8] + bytes(4) + content[-4:])
    with pytest.raises(InputError, match="cannot be unpacked"):
        fetch(Origin("things", "http://127.0.0.1:9/things.tar.gz"), tmp_path, checksum=False)


@pytest.mark.parametrize(("field", "value"), [(6, 1), (8, 97)], ids=["a password", "an unknown compression"])
def test_a_zip_that_python_cannot_open_is_refused(field, value, tmp_path):
    archive = packed(tmp_path, "things/b.txt", stat.S_IFREG)
    content = bytearray(archive.read_bytes())
    content[field] = content[content.index(b"PK\1\2") + field + 2] = value  # of the first file: beside it, and in the directory
    archive.write_bytes(content)
    with pytest.raises(InputError, match="cannot be unpacked"):
        fetch(Origin("things", f"http://127.0.0.1:9/{archive.name}"), tmp_path, checksum=False)


def test_class_names_and_paths_are_escaped_in_every_output(tmp_path):
    record = make_record()
    names = [f"{NASTY} {label}" for label in range(6)]
    folder = tmp_path / "<script>alert(2)" / "|_p_\n# q"
    folder.mkdir(parents=True)
    record["stream"] |= {"class_names": names, "key": f"made-{NASTY}"}
    records.write(record, folder / "sound.json")
    (folder / "broken.json").write_text("<script>alert(3)")
    board = collect(tmp_path)
    table = aggregate(board)
    assert len(board.records) == 1 and len(board.refused) == 1
    page = render(board, table, tmp_path)
    assert page.count("<script") == 2 and page.count("</script>") == 2  # the template's own
    text = markdown(board, table)
    assert "<script" not in text and "&lt;script&gt;alert(2)" in text
    assert not [line for line in text.splitlines() if line.lstrip().startswith(("# b", "# q"))]  # a newline makes no heading
    (refused,) = [line for line in text.splitlines() if "broken.json" in line]
    assert "\\|\\_p\\_\\\\n\\# q" in refused and html.unescape(refused).count("<script>alert(2)") == 2
    tex = latex(table)
    assert [line for line in tex.splitlines() if "alert" in line] == [line for line in tex.splitlines() if line.startswith("% made-")]


def test_a_method_with_a_nasty_name_is_escaped_in_latex(tmp_path):
    write_record(tmp_path, method=NASTY)
    tex = latex(aggregate(collect(tmp_path)))
    (row,) = [line for line in tex.splitlines() if "alert" in line]
    assert "<" not in row and "|" not in row and "\\_a\\_" in row and "\\# b" in row and "\\& 100\\%" in row and "\\$x\\$" in row


def test_plugins_loads_only_what_is_named(tmp_path, monkeypatch):
    """An installed package that offers a method is listed, and imported when it is chosen, not before."""
    code = "import methods.ncm\nclass Mine(methods.ncm.NCM): pass\n"
    for name in ("offered_plugin", "named_plugin", "silent_plugin"):
        (tmp_path / f"{name}.py").write_text(code)
    (tmp_path / "offered-1.dist-info").mkdir()
    (tmp_path / "offered-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1\n")
    (tmp_path / "offered-1.dist-info" / "entry_points.txt").write_text("[cilbench.methods]\noffered = offered_plugin:Mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    for registry in (METHODS, SOURCES, CONFIGS):
        for name in list(registry):
            monkeypatch.setitem(registry, name, registry[name])
    monkeypatch.setitem(METHODS, "offered", "offered_plugin:Mine")
    monkeypatch.delitem(METHODS, "offered")

    def loaded() -> set[str]:
        return {"offered_plugin", "named_plugin", "silent_plugin"} & sys.modules.keys()

    try:
        resolve(["method=ncm"])
        assert "offered" in METHODS and loaded() == set()
        resolve(["method=ncm", "plugins=[named_plugin]"])
        assert loaded() == {"named_plugin"}
        resolve(["method=offered"])
        assert loaded() == {"named_plugin", "offered_plugin"}
        with pytest.raises(InputError, match="plugin 'absent_plugin' could not be imported"):
            resolve(["plugins=[absent_plugin]"])
    finally:
        for name in loaded():
            del sys.modules[name]
        METHODS.pop("offered", None)
