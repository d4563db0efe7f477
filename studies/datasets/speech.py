"""Text → synthetic speech with the exact time of every word, and acoustic features of any waveform.

The voice is eSpeak NG, a formant synthesiser; `espeakng-loader` brings the library. It reports the sample at which each
word and each phoneme begins, pauses included, so a word's time is known and not estimated.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import itertools
import re
from dataclasses import dataclass

import numpy as np

PACKAGE = "espeakng_loader"
# Numbers of eSpeak NG's interface (speak_lib.h).
SYNCHRONOUS, PHONEME_EVENTS, DONT_EXIT, UTF8, CHARACTERS = 2, 0x1, 0x8000, 1, 1
RATE, PITCH = 1, 3
END_OF_LIST, WORD, END_OF_CLAUSE, PHONEME = 0, 1, 5, 7

HOP, WINDOW = 0.040, 0.050  # seconds
MELS, LOWEST, HIGHEST = 24, 60.0, 8000.0  # bands, Hz
VOICE_RANGE = (60.0, 400.0)  # Hz
VOICED = 0.5  # least share of the energy that repeats after a period
FLOOR = 1e-8  # added to the power, so that silence has a logarithm
FEATURES = (*(f"mel {i + 1}" for i in range(MELS)), "energy", "pitch", "voicing")


@dataclass(frozen=True)
class Speech:
    """A spoken text.

    Attributes
    ----------
    wave : float32 array (S,) in [-1, 1]
    rate : samples per second
    words : units of speech, mostly one word, sometimes two ("of the")
    times : array (len(words), 2)
        Begin and end of each in seconds; pauses belong to no word.
    """

    wave: np.ndarray
    rate: int
    words: tuple[str, ...]
    times: np.ndarray


class _Identity(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Identity),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def speak(text: str, rate: int = 170, pitch: int = 50) -> Speech:
    """Speak an English text. Times may differ by some 10 ms between calls, as the synthesiser keeps state.

    Parameters
    ----------
    text : words separated by spaces; punctuation shapes pauses and melody
    rate : words per minute, 80 to 450
    pitch : 0 to 100

    Raises
    ------
    ImportError
        With the command that installs the voice.
    ValueError
        The text has no letter and no digit.
    """
    spans = [m.span() for m in re.finditer(r"\S+", text)]
    if not any(map(str.isalnum, text)):
        raise ValueError(f"text: nothing to say in {text!r}")
    library, sample_rate = _library()
    pieces: list[np.ndarray] = []
    events: list[tuple[int, int, int, bytes]] = []

    def collect(wave, count: int, batch) -> int:
        if count > 0:
            pieces.append(np.ctypeslib.as_array(wave, (count,)).copy())
        for e in itertools.takewhile(lambda e: e.type != END_OF_LIST, map(batch.__getitem__, itertools.count())):
            events.append((e.type, e.text_position - 1, e.sample, e.id.string if e.type == PHONEME else b""))
        return 0

    callback = _Callback(collect)
    library.espeak_SetSynthCallback(callback)
    library.espeak_SetParameter(RATE, rate, 0)
    library.espeak_SetParameter(PITCH, pitch, 0)
    raw = text.encode()
    failed = library.espeak_Synth(raw, ctypes.c_size_t(len(raw) + 1), 0, CHARACTERS, 0, UTF8, None, None)
    library.espeak_Synchronize()
    if failed or not pieces:
        raise ValueError(f"text: eSpeak NG said nothing to {text!r} (status {failed})")
    wave = np.concatenate(pieces).astype(np.float32) / 32768
    words, times = _timed(text, spans, events, len(wave), sample_rate)
    return Speech(wave, sample_rate, words, times)


def _timed(text: str, spans: list, events: list, end: int, rate: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Words and their times. A word without its own event was spoken together with the one before it."""
    begins: dict[int, int] = {}
    for kind, position, sample, _ in events:
        if kind == WORD:
            owner = max((i for i, (a, _) in enumerate(spans) if a <= position), default=0)
            begins.setdefault(owner, sample)  # "2004" is several events; the first counts
    first = min(begins)
    begins[0] = begins.pop(first)
    starts = sorted(begins)
    # A pause is a phoneme whose name begins with "_"; a word ends there, or where the next one begins.
    pauses = sorted(s for kind, _, s, name in events if (kind == PHONEME and name[:1] == b"_") or kind == END_OF_CLAUSE)
    words, times = [], []
    for i, start in enumerate(starts):
        following = starts[i + 1] if i + 1 < len(starts) else len(spans)
        limit = begins.get(following, end)
        pause = min((p for p in pauses if begins[start] < p <= limit), default=limit)
        words.append(text[spans[start][0] : spans[following - 1][1]])
        times.append((begins[start] / rate, pause / rate))
    return tuple(words), np.array(times)


@functools.cache
def _library() -> tuple[ctypes.CDLL, int]:
    if importlib.util.find_spec(PACKAGE) is None:
        raise ImportError("speech needs eSpeak NG. Install it with: pip install espeakng-loader")
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    data = str(espeakng_loader.get_data_path()).encode()
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, data, PHONEME_EVENTS | DONT_EXIT)
    if rate <= 0 or library.espeak_SetVoiceByName(b"en-us"):
        raise ImportError("eSpeak NG could not load its English voice. Install again: pip install espeakng-loader")
    return library, rate


def acoustic_features(wave: np.ndarray, rate: int) -> np.ndarray:
    """Return log-mel energies, energy, pitch and voicing of a waveform: (T, 27) float32, one frame per 40 ms.

    Frame t is 50 ms of sound around (t + ½) · 40 ms under a Hann window: frames cover the wave, T = ⌈seconds / 0.04⌉.

        mel_k   log Σ_f H_k(f) |X(f)|²        24 triangles H_k, evenly spaced in mel from 60 to 8000 Hz
        energy  log of the mean square
        pitch   log₂(f₀ / 100 Hz) where voiced, else 0;   f₀ the largest autocorrelation between 60 and 400 Hz
        voicing value of that autocorrelation, relative to the energy, in [0, 1]; voiced from 0.5 on

    In plain NumPy (our choice, after the usual definitions), so that no audio library is needed.
    """
    if wave.ndim != 1 or not len(wave):
        raise ValueError(f"wave: found shape {wave.shape}; expected (S,), S ≥ 1")
    frames = _frames(np.asarray(wave, np.float64), rate)
    taper = np.hanning(frames.shape[1])
    size = 1 << (2 * frames.shape[1] - 1).bit_length()  # long enough that correlations do not wrap
    spectrum = np.abs(np.fft.rfft(frames * taper, size)) ** 2
    mel = np.log(spectrum @ mel_bands(size, rate).T / (taper**2).sum() + FLOOR)
    energy = np.log((frames**2).mean(1) + FLOOR)
    f0, voicing = _pitch(spectrum, taper, size, rate)
    pitch = np.where(voicing >= VOICED, np.log2(f0 / 100), 0)
    return np.column_stack([mel, energy, pitch, voicing]).astype(np.float32)


def frame_centres(count: int) -> np.ndarray:
    """Return the middle of each frame in seconds."""
    return (np.arange(count) + 0.5) * HOP


def mel_bands(size: int, rate: int) -> np.ndarray:
    """Return triangles (24, size / 2 + 1) of height 1 over the frequencies of a transform, evenly spaced in mel."""
    low, high = (2595 * np.log10(1 + f / 700) for f in (LOWEST, HIGHEST))
    corners = 700 * (10 ** (np.linspace(low, high, MELS + 2) / 2595) - 1)
    frequency = np.fft.rfftfreq(size, 1 / rate)
    left, middle, right = (corners[i : i + MELS, None] for i in range(3))
    return np.clip(np.minimum((frequency - left) / (middle - left), (right - frequency) / (right - middle)), 0, None)


def _frames(wave: np.ndarray, rate: int) -> np.ndarray:
    """(T, window), zeros beyond both ends."""
    count, width = int(np.ceil(len(wave) / rate / HOP - 1e-9)), round(WINDOW * rate)
    starts = np.round(frame_centres(count) * rate).astype(int) - width // 2
    padded = np.pad(wave, (width, 2 * width))
    return padded[starts[:, None] + width + np.arange(width)]


def _pitch(spectrum: np.ndarray, taper: np.ndarray, size: int, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """f₀ in Hz and voicing, by autocorrelation, divided by that of the window (Boersma 1993)."""
    window = np.fft.irfft(np.abs(np.fft.rfft(taper, size)) ** 2)
    sound = np.fft.irfft(spectrum)
    lags = np.arange(int(rate / VOICE_RANGE[1]), int(rate / VOICE_RANGE[0]) + 1)
    total = sound[:, :1]
    ratio = np.where(total > FLOOR, sound[:, lags] / np.maximum(total, FLOOR) * (window[0] / window[lags]), 0)
    # The highest frequency wins if a multiple of the period fits as well.
    best = (ratio >= 0.9 * ratio.max(1, keepdims=True)).argmax(1)
    near = ratio[np.arange(len(ratio))[:, None], np.minimum(best[:, None] + np.arange(8), ratio.shape[1] - 1)]
    best = np.minimum(best + near.argmax(1), ratio.shape[1] - 1)
    voicing = np.clip(ratio[np.arange(len(ratio)), best], 0, 1)
    return rate / lags[best], voicing
