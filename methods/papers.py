"""A line on every method: its paper, what it keeps of the past, what trains. Importable without torch."""

from typing import NamedTuple


class Paper(NamedTuple):
    source: str  # who, where
    kept: str  # of past tasks
    trains: str


EXEMPLARS, MEANS = "exemplars", "class means of a frozen encoder's features"
NETWORK = "backbone and head"

PAPERS = {
    "finetune": Paper("no defence: the floor", "nothing", NETWORK),
    "joint": Paper("all data at once: the ceiling", "all images", f"{NETWORK}, anew in each task"),
    "ncm": Paper("Rebuffi et al., CVPR 2017, section 4.2", MEANS, "nothing"),
    "simplecil": Paper("Zhou et al. 2023, arXiv 2303.07338", f"{MEANS}, without normalising them first", "nothing"),
    "slda": Paper("Hayes and Kanan, CVPR workshops 2020, arXiv 1909.01520", "class means and one covariance", "nothing (closed form)"),
    "ranpac": Paper(
        "McDonnell et al., NeurIPS 2023, arXiv 2307.02251, phase 2",
        "second moments and class sums of random features",
        "nothing (ridge regression)",
    ),
    "zero_shot": Paper("Radford et al. 2021; Thengane et al. 2022, arXiv 2210.03114", "the class names' vectors", "nothing"),
    "replay": Paper("experience replay", EXEMPLARS, NETWORK),
    "lwf": Paper("LwF-MC: Li and Hoiem, ECCV 2016, as in Rebuffi et al. 2017", "the last network", NETWORK),
    "lwm": Paper("Dhar et al., CVPR 2019, arXiv 1811.08051", "the last network", NETWORK),
    "icarl": Paper("Rebuffi et al., CVPR 2017, arXiv 1611.07725", f"{EXEMPLARS}, the last network, class means", NETWORK),
    "wa": Paper(
        "Zhao et al., CVPR 2020, arXiv 1911.07053", f"{EXEMPLARS}, the last network", f"{NETWORK}, whose new weights are then aligned"
    ),
    "der_yan": Paper(
        "Yan et al., CVPR 2021, arXiv 2103.16788, without pruning",
        f"{EXEMPLARS}, an extractor of each task",
        "a new extractor and the head",
    ),
    "slca": Paper(
        "Zhang et al., ICCV 2023, arXiv 2303.05118", "a Gaussian of each class, a head of each task", f"{NETWORK}, the backbone slowly"
    ),
    "coda_prompt": Paper(
        "Smith et al., CVPR 2023, arXiv 2211.13218", "prompt components of each task", "new components and the head's new rows"
    ),
    "dualprompt": Paper(
        "Wang et al., ECCV 2022, arXiv 2204.04799, image by image", "a prompt and a key of each task", "prompts and new rows"
    ),
    "l2p": Paper("Wang et al., CVPR 2022, arXiv 2112.08654, image by image", "a pool of prompts", "prompts, keys and the head's new rows"),
    "mae_cil": Paper("Zhai et al., ICCV 2023, arXiv 2308.12510", "visible patches of exemplars", "a masked autoencoder and its head"),
    "gmm": Paper("Cao et al., CVPR 2024, arXiv 2403.18383", EXEMPLARS, "the projector (or adapters) of a generative model"),
}


def line(name: str) -> str:
    """-> name and, where it is one of ours, the line on it"""
    if name not in PAPERS:
        return name
    paper = PAPERS[name]
    return f"{name:<12} {paper.source}; keeps {paper.kept}; trains {paper.trains}"


def table() -> list[str]:
    """-> lines of a Markdown table of every method that has a line"""
    rows = [f"| `{name}` | {paper.source} | {paper.kept} | {paper.trains} |" for name, paper in PAPERS.items()]
    return ["| method | paper | keeps | trains |", "|---|---|---|---|", *rows]
