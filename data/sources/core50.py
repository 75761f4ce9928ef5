"""CORe50 (Lomonaco and Maltoni 2017): 50 objects filmed in 11 sessions, 128x128 pixels; the domains are the sessions.

Its protocol: sessions 3, 7 and 10 are one fixed test set, scored after each of the other eight.
"""

import re

import numpy as np

from data.config import StreamConfig
from data.errors import InputError
from data.images.files import Origin, accounted, file_split, find_folder
from data.images.intake import survey
from data.source import Source

ORIGIN = Origin("core50_128x128", "https://vlomonaco.github.io/core50/", None, ("s1/o1", "s11/o50"))
TEST_SESSIONS = (3, 7, 10)
KINDS = ("plug adapter", "mobile phone", "scissors", "light bulb", "can", "glasses", "ball", "marker", "cup", "remote control")


def load(config: StreamConfig) -> Source:
    """-> rows in the order of session, object and frame; object o1..o50 is label 0..49, five objects of each kind in turn"""
    tree = survey(find_folder(config, ORIGIN))
    root, files, labels, sessions = tree.root, [], [], []
    for name in sorted(tree.images, key=_place):
        session, number = _place(name)[:2]
        if 1 <= number <= 50:
            files.append(name)
            labels.append(number - 1)
            sessions.append(session)
    if not files:
        raise InputError(f"{root} holds no s1/o1/*.png: unpack core50_128x128.zip there")
    labels, sessions = np.array(labels), np.array(sessions)
    test = np.isin(sessions, TEST_SESSIONS)
    domains = sorted(set(sessions[~test].tolist()))
    names = tuple(f"{kind} {copy + 1}" for kind in KINDS for copy in range(5))
    rows, held = np.flatnonzero(~test), np.flatnonzero(test)
    train = file_split(root, [files[i] for i in rows], labels[rows], config, np.searchsorted(domains, sessions[rows]))
    scored = file_split(root, [files[i] for i in held], labels[held], config)
    return accounted(Source("core50", 2, train, scored, names, tuple(f"session {number}" for number in domains)), tree)


def _place(name: str) -> tuple[int, int, str]:
    """'s3/o12/C_03_12_000.png' -> (3, 12, the name); zeros where it lies in no such folder"""
    found = re.match(r"s(\d+)/o(\d+)/", name)
    return (int(found[1]), int(found[2]), name) if found else (0, 0, name)
