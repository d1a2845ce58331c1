"""What onnxruntime says of a GPU that it cannot use, in words with a way out.

The words are looked for in what onnxruntime-gpu 1.31.1 printed on a machine without CUDA, and among
the texts in its libraries; those that need a GPU to be raised were never seen to be raised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgedl.core.errors import EdgeError, EngineFailed, Unsupported, first_line

MOST_SHOWN = 300
LIBRARY = re.compile(r"(lib[\w+-]+\.so[.\d]*|\w+\.dll): cannot open shared object file")
NEEDS = re.compile(r"Require cuDNN (\d+)\S* and CUDA (\d+)")
PATHS = re.compile(r"(?:/\w+_src/\S+:\d+ )|(?:\S+::\S+ )")
INSTALL = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
SHAPES = "give a profile that holds it, or fix the shapes with `--shape`"


@dataclass(frozen=True)
class Words:
    """What is said where a text of onnxruntime's matches."""

    pattern: str
    message: str
    hint: str
    kind: type[EdgeError] = EngineFailed


# The first that matches is said.
KNOWN = (
    Words(
        r"control flow nodes which can't be supported",
        "it cannot be launched as a CUDA graph: it has control flow (`If`, `Loop`)",
        "leave `graph` out",
    ),
    Words(
        r"cannot use the graph capture feature",
        "it cannot be launched as a CUDA graph: some of its operators run on the processor",
        "leave `graph` out; `edgedl bench --profile` shows which they are",
    ),
    Words(
        r"out of memory|cudaErrorMemoryAllocation|smaller than requested bytes"
        r"|Failed to allocate memory for requested buffer",
        "the GPU has too little memory",
        "close other programs on the GPU, take smaller inputs, or `--fp16`",
    ),
    Words(
        r"driver version is insufficient|CUDA_ERROR_SYSTEM_DRIVER_MISMATCH|CUDA failure 35\b",
        "the NVIDIA driver is too old for the CUDA that this onnxruntime was built for",
        "install a newer driver, or an older onnxruntime-gpu",
        Unsupported,
    ),
    Words(
        r"no CUDA-capable device|CUDA failure 100\b|cudaGetDeviceCount\(\) failed",
        "CUDA finds no NVIDIA GPU",
        "`nvidia-smi` lists them; CUDA_VISIBLE_DEVICES may hide them",
        Unsupported,
    ),
    Words(
        r"Invalid device ID|invalid device ordinal",
        "there is no GPU of this number",
        "`device` counts from 0; `nvidia-smi` lists them",
        Unsupported,
    ),
    Words(
        r"no kernel image is available|CUDA failure 209\b",
        "this onnxruntime has no kernels for this GPU's compute capability",
        "another onnxruntime-gpu, or `--target tensorrt`",
        Unsupported,
    ),
    Words(
        r"cuDNN library was not found|libcudnn\S* *: cannot open|dlopen failed for libcudnn",
        "cuDNN is not found, which convolutions need",
        f"{INSTALL}, or put its folder into LD_LIBRARY_PATH",
        Unsupported,
    ),
    Words(
        r"failed to deserialize engine",
        "the kept TensorRT engine does not open",
        "it is built once more at the next opening",
    ),
    Words(
        r"Failed to Build Engine|failed to create engine from network",
        "TensorRT builds no engine for it",
        "`--target onnxruntime-cuda` runs it without TensorRT",
    ),
    Words(
        r"Profile shapes validation failed|trt_profile_\w+_shapes' is wrong",
        "the profile does not fit the inputs",
        "a least, a usual and a largest shape for every input whose axes are not fixed",
    ),
    Words(r"setInputShape\(\) for input", "a shape lies outside every profile", SHAPES),
    Words(
        r"Unknown provider option",
        "this onnxruntime does not know an option of its provider",
        "pip install --upgrade onnxruntime-gpu",
        Unsupported,
    ),
)


def failed(error: Exception, doing: str) -> EdgeError:
    """What onnxruntime raised, in words; its own first line where nothing of it is known.

    Args:
        doing: begins the message, as `onnxruntime failed`.
    """
    text = str(error)
    for words in KNOWN:
        if re.search(words.pattern, text):
            return words.kind(f"{doing}: {words.message}", hint=words.hint)
    return EngineFailed(f"{doing}: {first_line(error)}")


def no_provider(provider: str, said: Sequence[str], version: str) -> Unsupported:
    """Why a provider did not start, from the lines that onnxruntime printed meanwhile."""
    what = f"onnxruntime's {provider} does not start"
    text = "\n".join(said)
    needs = NEEDS.search(text)
    wants = f"onnxruntime {version} wants CUDA {needs[2]} and cuDNN {needs[1]}: " if needs else ""
    absent = LIBRARY.search(text)
    if absent is None:
        for words in KNOWN:
            if re.search(words.pattern, text):
                return Unsupported(f"{what}: {words.message}", hint=words.hint)
        last = next((line for line in reversed(said) if line.strip()), "it does not say why")
        return Unsupported(
            f"{what}: {PATHS.sub('', last).strip()[:MOST_SHOWN]}", hint=wants + INSTALL
        )
    library = absent[1]
    if library.startswith(("libcuda.so", "nvcuda")):
        hint = "install the NVIDIA driver, or in a container start it with `--gpus all`"
    elif library.startswith(("libnv", "nvinfer", "nvonnx")):
        number = library.rpartition(".")[2]
        release = f"TensorRT {number}" if number.isdigit() else "TensorRT"
        hint = f"install {release}, and put its folder into LD_LIBRARY_PATH"
    else:
        hint = f"{wants}{INSTALL}, or put their folders into LD_LIBRARY_PATH"
    return Unsupported(f"{what}: `{library}` is not found", hint=hint)
