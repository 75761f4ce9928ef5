"""The HTML page: self-contained, safe with any name, small, and it works in a browser."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from bench.board.collect import aggregate, collect
from bench.board.details import Details, confusions, final, thumbnail
from bench.board.page import render, write_page
from bench.config import resolve
from data.errors import InputError
from data.stream import identity as stream_identity
from launch.cli import main as cilbench
from tests.bench.made import make_record, write_record
from tests.data import trees

NASTY = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">|_a_"


def page(folder) -> str:
    board = collect(folder)
    return render(board, aggregate(board), folder)


def data_of(text: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def write_predictions(path, record, answers: bool = True) -> None:
    """Write predictions that agree with the counts: of the wrong rows, all are taken for the next class."""
    sizes, rows = record["stream"]["tasks"], []
    for after, counts in enumerate(record["counts"]["correct"]):
        for task, (right, total) in enumerate(zip(counts, record["counts"]["total"], strict=False)):
            label = sum(sizes[:task])
            rows += [(after, 100 * task + at, label, task, label if at < right else label + 1, f"<b>{at}" * answers) for at in range(total)]
    frame = pd.DataFrame(rows, columns=["after_task", "index", "label", "task", "prediction", "answer"])
    frame.to_parquet(path.with_name(f"{path.stem}-predictions.parquet"))


def test_the_page_needs_no_network_and_no_name_breaks_out_of_its_data(made, tmp_path):
    made(method=NASTY)
    text = page(tmp_path)
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(""", text)
    assert text.count("</script>") == 2 and "owned'</script>" not in text
    assert data_of(text)["streams"][0]["rows"][0]["label"] == NASTY


def test_runs_carry_confusions_pairs_and_sentences(made, tmp_path):
    path = made()
    record = json.loads(path.read_text())
    write_predictions(path, record)
    (run,) = data_of(page(tmp_path))["runs"]
    wrong = [total - right for right, total in zip(record["counts"]["correct"][-1], record["counts"]["total"], strict=True)]
    assert np.array(run["confusion"]).sum() == sum(record["counts"]["total"])
    assert sorted(count for *_, count in run["pairs"]) == sorted(count for count in wrong if count)
    assert len(run["samples"]) == 8 and {label == given for _, label, given, _ in run["samples"]} == {True, False}


def test_predictions_that_are_not_the_records_are_not_shown(made, tmp_path):
    path = made()
    other = make_record(seed=5)
    write_predictions(path, other)
    assert "not those that it counts" in data_of(page(tmp_path))["runs"][0]["without"]
    with pytest.raises(InputError, match="not beside its record"):
        final(tmp_path / "absent.json", other)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_predictions_count_after_every_task(after, made, capsys):
    """One row is turned right after one task; nothing else says so."""
    path = made()
    record = json.loads(path.read_text())
    write_predictions(path, record)
    assert cilbench(["validate", str(path)]) == 0
    file = path.with_name(f"{path.stem}-predictions.parquet")
    frame = pd.read_parquet(file)
    row = frame.index[(frame.after_task == after) & (frame.label != frame.prediction)][0]
    frame.loc[row, "prediction"] = frame.loc[row, "label"]
    frame.to_parquet(file)
    assert cilbench(["validate", str(path)]) == 1 and "not those that it counts" in capsys.readouterr().out


def test_a_pool_of_domains_is_counted_as_its_record_does(made, tmp_path):
    """Test rows of no domain are scored after every task, all as of task 0, as in CORe50."""
    correct = [[30], [35, 0], [40, 0, 0]]
    counts = {"correct": correct, "total": [50, 0, 0], "task_il_correct": correct, "invalid": None}
    path = made(counts=counts)
    frame = [(after, at, at % 2, 0, at % 2 if at < right[0] else 5, "") for after, right in enumerate(correct) for at in range(50)]
    columns = ["after_task", "index", "label", "task", "prediction", "answer"]
    pd.DataFrame(frame, columns=columns).to_parquet(path.with_name(f"{path.stem}-predictions.parquet"))
    assert len(final(path, json.loads(path.read_text()))) == 50


def test_images_are_those_that_were_scored_or_none(tmp_path, monkeypatch):
    """Of files, read when the page is made: they may have been changed since."""
    monkeypatch.setenv("CILBENCH_CACHE", str(tmp_path / "cache"))
    trees.folder(tmp_path / "pets")
    config = resolve(["method=ncm", "stream=folder", f"stream.root={tmp_path / 'pets'}", "stream.image_size=8"])
    sha256 = stream_identity(config.stream)[1]
    record = {"config": {"stream": OmegaConf.to_container(config.stream)}, "stream": {"sha256": sha256}}
    first, second = (Details()._image(record, row) for row in (0, 1))
    assert first != second and first.startswith("data:image/png")
    trees.save(tmp_path / "pets" / "cat" / "nested" / "0.png", 99)
    assert Details()._image(record, 0) is None


def test_confusions_by_hand():
    scored = pd.DataFrame({"label": [0, 0, 1, 2, 3], "task": [0, 0, 0, 1, 1], "prediction": [0, 2, 2, 2, 0]})
    matrix, pairs = confusions(scored, [2, 2])
    assert matrix == [[1, 2], [1, 1]]
    assert sorted(pairs) == [[0, 2, 1], [1, 2, 1], [3, 0, 1]]


def test_thumbnails_are_small():
    assert thumbnail(np.zeros((3, 500, 300), dtype=np.uint8)).startswith("data:image/png;base64,")
    assert len(thumbnail(np.random.default_rng(0).integers(0, 255, (3, 500, 500), dtype=np.uint8))) < 20_000


def test_two_thousand_records_stay_under_three_megabytes(tmp_path):
    for number in range(2000):
        path = write_record(
            tmp_path, method=f"method{number // 30}", seed=number % 3, stream=f"a-b0-o{number // 3 % 10}-v1", tasks=10, size=10
        )
        if number < 40:
            write_predictions(path, json.loads(path.read_text()))
    board = collect(tmp_path)
    path = write_page(board, aggregate(board), tmp_path)
    print(f"2,000 records make a page of {path.stat().st_size / 1e6:.2f} MB")
    assert path.stat().st_size < 3_000_000
    assert len(data_of(path.read_text())["runs"]) == 2000


@pytest.fixture(scope="module")
def browser():
    """-> headless Chromium"""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e .[test]")
    program, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no Chromium with a driver is installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1600", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def opened(browser, made, tmp_path):
    told = {"icarl": {"weights": {"vit": "1"}}, "lwf": {"memory": make_record()["memory"] | {"bytes": 6401}}}
    for seed in (0, 1, 2):
        for method in ("icarl", "lwf", "finetune", NASTY):
            made(method=method, seed=seed, **told.get(method, {}))
    path = made(method="gmm", scoring="nearest name", counts=make_record("gmm")["counts"] | {"invalid": [0, 1, 2]})
    write_predictions(path, json.loads(path.read_text()))
    made(stream="made-b0-inc2-natural-v2", tasks=5)
    made(limited=True, method="cut short")
    board = collect(tmp_path)
    browser.get("about:blank")
    browser.get(write_page(board, aggregate(board), tmp_path).as_uri())
    yield browser
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert browser.title == "cilbench leaderboard"  # no name of a method ran


def names(browser) -> list[str]:
    return [cell.text.splitlines()[0] for cell in browser.find_elements("css selector", "#board tbody th[scope=row]")]


def column(at: int) -> str:
    """-> the cells of a column of numbers, the method's name being number 0"""
    return f"#board tbody td:nth-of-type({at})"


def test_it_sorts_by_click_and_by_keyboard(opened):
    from selenium.webdriver.common.keys import Keys

    assert len(names(opened)) == 5
    average, last = ([float(cell.text.split()[0]) for cell in opened.find_elements("css selector", column(at))] for at in (2, 3))
    assert average == sorted(average, reverse=True) and last != sorted(last, reverse=True)
    opened.find_elements("css selector", "#board thead button")[3].click()  # last accuracy
    cells = column(3)
    down = [cell.text for cell in opened.find_elements("css selector", cells)]
    assert len(down) == 5 and down == sorted(down, key=lambda text: -float(text.split()[0]))
    opened.switch_to.active_element.send_keys(Keys.ENTER)  # the focus stays on the head that was used
    up = [cell.text for cell in opened.find_elements("css selector", cells)]
    assert up == down[::-1]
    assert opened.find_elements("css selector", "#board thead th")[3].get_attribute("aria-sort") == "ascending"


def test_it_leaves_what_can_be_compared(opened):
    def choose(name: str, value: str) -> None:
        opened.execute_script(
            "const [name, value] = arguments, box = document.getElementById(name); "
            "if (box.type === 'checkbox') box.checked = value; else box.value = value; box.dispatchEvent(new Event('input'))",
            name,
            value,
        )

    every = set(names(opened))
    assert [option.text for option in opened.find_elements("css selector", "#rule option")] == ["any rule", "argmax", "nearest name"]
    choose("rule", "nearest name")
    assert names(opened) == ["gmm"]
    choose("rule", "")
    choose("bytes", "6399")
    assert names(opened) == []
    choose("bytes", "6400")
    assert set(names(opened)) == every - {"lwf"}
    choose("bytes", "")
    choose("scratch", True)
    assert set(names(opened)) == every - {"icarl"}
    assert "BWT" not in opened.find_element("css selector", "#board thead").text
    choose("more", True)
    assert "BWT" in opened.find_element("css selector", "#board thead").text


def test_it_fits_a_screen_and_no_name_in_a_chart_covers_a_dot_or_another_name(opened):
    wide = opened.execute_script("const box = document.querySelector('.scroll'); return [box.scrollWidth, box.clientWidth]")
    assert wide[0] <= wide[1]
    boxes = """
        return [...document.querySelectorAll('#charts figure:not(:first-child)')].map(figure =>
            ['circle', 'text.name'].map(kind => [...figure.querySelectorAll(kind)].map(node => {
                const box = node.getBBox(); return [box.x, box.y, box.x + box.width, box.y + box.height]; })))
    """
    for dots, texts in opened.execute_script(boxes):
        assert len(dots) == 5 and len(texts) >= 3
        for number, (left, top, right, bottom) in enumerate(texts):
            for other in [*dots, *texts[:number]]:
                assert right <= other[0] or other[2] <= left or bottom <= other[1] + 2 or other[3] <= top + 2, (texts, other)


def test_it_filters_changes_stream_and_shows_what_was_refused(opened):
    box = opened.find_element("id", "filter")
    box.send_keys("icarl")
    assert names(opened) == ["icarl"]
    assert opened.find_element("id", "shown").text == "1 of 5 rows"
    box.clear()
    box.send_keys("no such method")
    assert names(opened) == []
    box.clear()
    opened.find_elements("css selector", "#stream option")[1].click()
    assert "natural-v2" in opened.find_element("css selector", "#board caption").text
    assert "limited run" in opened.find_element("id", "remarks").text


def test_it_opens_a_run_and_escape_closes_it(opened):
    from selenium.webdriver.common.keys import Keys

    opened.find_element("css selector", "button[aria-label='open gmm, seed 0']").click()
    dialog = opened.find_element("id", "run")
    opened.implicitly_wait(2)
    assert dialog.find_element("id", "run-title").text == "gmm, seed 0"
    assert len(dialog.find_elements("css selector", ".heat")) == 2
    assert len(dialog.find_elements("css selector", ".samples li.wrong")) == 4
    assert "<b>" in dialog.find_element("css selector", ".samples").text
    opened.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert dialog.get_attribute("open") is None


def test_it_fits_a_phone(opened):
    opened.set_window_size(500, 900)
    wide = opened.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    opened.set_window_size(1400, 1600)
    assert wide[0] <= wide[1]
