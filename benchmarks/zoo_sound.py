"""The zoo's models that listen: Silero's voice activity detector and Basic Pitch."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from zoo_download import need, read, read_one

Floats = NDArray[np.float32]

_SPEECH_HZ = 16_000
_CHUNKS, _CHUNK, _CONTEXT = 256, 512, 64
_PITCH_HZ, _WINDOW = 22_050, 43_844
_TONES, _SPOKEN = 80, 16


def speech(downloads: Path) -> list[Floats]:
    """Ten recordings of people speaking, float32 [samples] at 16 kHz, values in -1..1."""
    files = read("pocketsphinx-testdata", downloads, "*/librivox/*.wav", "*/cards/*.wav")
    recordings = []
    for data in files.values():
        with wave.open(io.BytesIO(data)) as recording:
            assert (recording.getframerate(), recording.getnchannels()) == (_SPEECH_HZ, 1)
            frames = recording.readframes(recording.getnframes())
        recordings.append(np.frombuffer(frames, "<i2").astype(np.float32) / np.float32(32768))
    return recordings


def silero_vad(folder: Path, downloads: Path) -> None:
    """Writes the detector with one `If`, between the sample rates, and the chunks of `_silero`."""
    _silero("silero_vad_op18_ifless.onnx", folder, downloads)


def silero_vad_nested(folder: Path, downloads: Path) -> None:
    """Writes the detector that its package runs, `If` inside `If`, and the chunks of `_silero`."""
    _silero("silero_vad.onnx", folder, downloads)


def _silero(file: str, folder: Path, downloads: Path) -> None:
    """Writes a version of the detector and 256 chunks of speech spread over ten recordings.

    `input` float32 [256, 576], `state` float32 [256, 2, 1, 128], `sr` int64 [256], the rate in Hz.
    """
    model = read_one("silero-vad", downloads, f"silero_vad/data/{file}")
    (folder / "model.onnx").write_bytes(model)
    runtime = need("onnxruntime")
    options = runtime.SessionOptions()
    # Its warnings about initializers that nothing uses say nothing that matters here.
    options.log_severity_level = 3
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rate = np.array(_SPEECH_HZ, np.int64)
    inputs: list[Floats] = []
    states: list[Floats] = []
    for recording in speech(downloads):
        padded = np.concatenate([np.zeros(_CONTEXT, np.float32), recording])
        state = np.zeros((2, 1, 128), np.float32)
        for start in range(0, len(recording) - _CHUNK + 1, _CHUNK):
            chunk = padded[start : start + _CONTEXT + _CHUNK]
            inputs.append(chunk)
            states.append(state)
            _, state = session.run(None, {"input": chunk[None], "state": state, "sr": rate})
    kept = np.linspace(0, len(inputs) - 1, _CHUNKS).astype(int)
    np.savez(
        folder / "samples.npz",
        allow_pickle=False,
        input=np.stack(inputs)[kept],
        state=np.stack(states)[kept],
        sr=np.full(_CHUNKS, rate),
    )


def basic_pitch(folder: Path, downloads: Path) -> None:
    """Writes the note detector and 96 windows of sound, float32 [96, 43844, 1] at 22,050 Hz."""
    model = read_one("basic-pitch", downloads, "basic_pitch/saved_models/icassp_2022/nmp.onnx")
    (folder / "model.onnx").write_bytes(model)
    draw = np.random.default_rng(0)
    windows = [_tone(draw, index % 4) for index in range(_TONES)]
    said = np.concatenate([_resampled(recording) for recording in speech(downloads)])
    starts = np.linspace(0, len(said) - _WINDOW, _SPOKEN).astype(int)
    # Every sixth window is speech, so that no part of the file is all of one kind.
    for place, start in enumerate(starts):
        windows.insert(6 * place + 5, said[start : start + _WINDOW])
    values = np.stack(windows).astype(np.float32)[:, :, None]
    np.savez(folder / "samples.npz", allow_pickle=False, **{"serving_default_input_2:0": values})


def _resampled(recording: Floats) -> Floats:
    """A recording at 16 kHz as one at 22,050 Hz, by its spectrum."""
    length = len(recording) * _PITCH_HZ // _SPEECH_HZ
    spectrum = np.fft.rfft(recording)
    wide = np.zeros(length // 2 + 1, np.complex128)
    wide[: len(spectrum)] = spectrum
    return (np.fft.irfft(wide, length) * (length / len(recording))).astype(np.float32)


def _tone(draw: np.random.Generator, kind: int) -> NDArray[np.float64]:
    """Two seconds of notes (kind 0), chords (1), an arpeggio (2) or a sweep (3)."""
    time = np.arange(_WINDOW) / _PITCH_HZ
    sound = np.zeros(_WINDOW)
    if kind == 3:
        low, high = sorted(draw.uniform(36, 90, 2))
        hertz = _hertz(low + (high - low) * time / time[-1])
        sound = _overtones(draw, 2 * np.pi * np.cumsum(hertz) / _PITCH_HZ)
    else:
        notes = int(draw.integers(2, 9))
        root = int(draw.integers(36, 84))
        for index in range(notes):
            start = time[-1] * index / notes
            pitches = {
                0: [int(draw.integers(36, 90))],
                1: [root, root + int(draw.integers(3, 5)), root + 7],
                2: [root + (0, 4, 7, 12)[index % 4]],
            }[kind]
            for pitch in pitches:
                decay = np.exp(-draw.uniform(1, 6) * np.clip(time - start, 0, None))
                attack = np.clip((time - start) / 0.01, 0, 1)
                sound += attack * decay * _overtones(draw, 2 * np.pi * _hertz(pitch) * time)
            root += int(draw.integers(-3, 4))
    sound *= draw.uniform(0.1, 0.9) / np.abs(sound).max()
    return sound + draw.normal(0, 10 ** draw.uniform(-4, -2), _WINDOW)


def _hertz(midi: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """The frequency of a MIDI note number, 69 being 440 Hz."""
    return np.asarray(440 * 2 ** ((np.asarray(midi) - 69) / 12))


def _overtones(draw: np.random.Generator, phase: NDArray[np.float64]) -> NDArray[np.float64]:
    """A tone and its next five harmonics, from the phase in radians of the lowest."""
    fall = draw.uniform(0.8, 2.5)
    return np.asarray(sum(np.sin(n * phase) / n**fall for n in range(1, 7)))
