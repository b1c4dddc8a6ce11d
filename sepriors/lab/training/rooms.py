"""Rooms: impulse responses from a talker to a microphone some way off, simulated by the image method."""

from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

RATE = 16000  # Hz
EARLY = 0.05  # s after the direct sound: reflections that help to understand (Bradley et al., 2003)
LENGTH = 0.6  # s
METRES = ((3.0, 8.0), (3.0, 8.0), (2.4, 3.5))  # of a room: length, width, height
DISTANCE = (0.5, 4.0)  # m
DECAY = (0.15, 0.7)  # s until the sound is 60 dB lower


class Responses(NamedTuple):
    """Impulse responses (R, L) at 16 kHz, the direct sound first and of amplitude 1; and their first 50 ms alone."""

    whole: torch.Tensor
    early: torch.Tensor


def simulate(count: int, generator: torch.Generator, *, progress: bool = False) -> Responses:
    """So many rooms, each with sizes, places and a decay of its own (Allen & Berkley, 1979), by `pyroomacoustics`.

    Raises ImportError where that is not installed, with the extra to install.
    """
    try:
        import pyroomacoustics as pra
    except ImportError as error:
        raise ImportError("rooms need pyroomacoustics: pip install 'sepriors[rooms]'") from error
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    whole = np.zeros((count, round(LENGTH * RATE)), np.float32)
    for row in tqdm(whole, desc="rooms", disable=not progress):
        size = np.array([rng.uniform(*metres) for metres in METRES])
        absorption, reflections = _material(pra, size, rng)
        room = pra.ShoeBox(size, fs=RATE, materials=pra.Material(absorption), max_order=reflections)
        talker, microphone = _places(size, rng)
        room.add_source(talker)
        room.add_microphone(microphone)
        room.compute_rir()
        response = room.rir[0][0]
        first = int(np.argmax(np.abs(response)))  # the direct sound is the loudest: no image is nearer
        tail = response[first : first + len(row)] / response[first]
        row[: len(tail)] = tail
    responses = torch.from_numpy(whole)
    early = responses.clone()
    early[:, round(EARLY * RATE) :] = 0
    return Responses(responses, early)


def _material(pra: object, size: np.ndarray, rng: np.random.Generator) -> tuple[float, int]:
    """What the walls absorb, and how often a sound is reflected, for a decay that such a room can have."""
    while True:
        try:
            absorption, reflections = pra.inverse_sabine(rng.uniform(*DECAY), size)  # type: ignore[attr-defined]
        except ValueError:  # a large room cannot decay so fast
            continue
        return float(absorption), min(int(reflections), 40)


def _places(size: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A talker and a microphone in the room, half a metre from the walls, as far apart as DISTANCE says."""
    while True:
        talker, microphone = (rng.uniform(0.5, size - 0.5) for _ in range(2))
        if DISTANCE[0] <= np.linalg.norm(talker - microphone) <= DISTANCE[1]:
            return talker, microphone
