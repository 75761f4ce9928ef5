"""CORe50 (Lomonaco and Maltoni 2017): 50 objects filmed in 11 sessions, 128x128 pixels; the domains are the sessions.

Its protocol: sessions 3, 7 and 10 are one fixed test set, scored after each of the other eight.
"""

import numpy as np

from data.config import StreamConfig
from data.errors import InputError
from data.images.files import Origin, file_split, find_folder, images_below, subfolders
from data.source import Source

ORIGIN = Origin("core50_128x128", "https://vlomonaco.github.io/core50/")
TEST_SESSIONS = (3, 7, 10)
KINDS = ("plug adapter", "mobile phone", "scissors", "light bulb", "can", "glasses", "ball", "marker", "cup", "remote control")


def load(config: StreamConfig) -> Source:
    """-> rows in the order of session, object and frame; object o1..o50 is label 0..49, five objects of each kind in turn"""
    root = find_folder(config, ORIGIN)
    files, labels, sessions = [], [], []
    for session in sorted((name for name in subfolders(root) if name[0] == "s" and name[1:].isdigit()), key=lambda name: int(name[1:])):
        for number in range(1, 51):
            found = images_below(root / session / f"o{number}", root)
            files += found
            labels += [number - 1] * len(found)
            sessions += [int(session[1:])] * len(found)
    if not files:
        raise InputError(f"{root} holds no s1/o1/*.png: unpack core50_128x128.zip there")
    labels, sessions = np.array(labels), np.array(sessions)
    test = np.isin(sessions, TEST_SESSIONS)
    domains = sorted(set(sessions[~test].tolist()))
    names = tuple(f"{kind} {copy + 1}" for kind in KINDS for copy in range(5))
    rows, held = np.flatnonzero(~test), np.flatnonzero(test)
    train = file_split(root, [files[i] for i in rows], labels[rows], config, np.searchsorted(domains, sessions[rows]))
    scored = file_split(root, [files[i] for i in held], labels[held], config)
    return Source("core50", 1, train, scored, names, tuple(f"session {number}" for number in domains))
