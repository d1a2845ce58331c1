"""TensorRT's runtime without a GPU: plans that say what they compute, run on the fake CUDA.

A plan is JSON. `affine` answers 2x + 1 for each input, `nonzero` the positive numbers of its one
input, `filled` an array of the shape that its one input on the host holds.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.runtime.tensorrt.fake_cuda import FakeCuda, Misuse

VERSION = "10.3.0"
Shape = Sequence[int]


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64 = range(9)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class LayerInformationFormat(enum.Enum):
    ONELINE, JSON = range(2)


DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "BOOL": "bool",
    "UINT8": "uint8", "INT64": "int64", "BF16": "uint16",
}  # fmt: skip


def plan(
    *,
    x: Shape = (-1, 3),
    profiles: Sequence[tuple[Shape, Shape, Shape]] = (((1, 3), (2, 3), (4, 3)),),
    kind: str = "affine",
    dtype: str = "FLOAT",
    inputs: Sequence[str] = ("x",),
    version: str = VERSION,
    capability: Sequence[int] = (8, 7),
    scratch: int = 1000,
    streamable: int = 0,
    values: Sequence[Shape] = (),
) -> bytes:
    document = {
        "version": version,
        "capability": list(capability),
        "kind": kind,
        "x": list(x),
        "profiles": [[list(s) for s in one] for one in profiles],
        "dtype": dtype,
        "inputs": list(inputs),
        "scratch": scratch,
        "streamable": streamable,
        "values": [list(v) for v in values],
    }
    return b"plan" + json.dumps(document).encode()


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    INTERNAL_ERROR, ERROR, WARNING = Severity.INTERNAL_ERROR, Severity.ERROR, Severity.WARNING

    def __init__(self) -> None: ...

    def log(self, severity: Any, msg: str) -> None: ...


class IOutputAllocator:
    def __init__(self) -> None: ...


class IProfiler:
    def __init__(self) -> None: ...


class FakeTrt:
    """The module: its classes, and what a test lets it refuse.

    Attributes:
        refuse: names of calls that give False or None, and what is said then.
        alive: engines, runtimes and contexts that live.
        graph_free: contexts say that they cannot be captured, as TensorRT-RTX may.
    """

    __name__ = "tensorrt"
    ILogger, IOutputAllocator, IProfiler = ILogger, IOutputAllocator, IProfiler
    DataType, TensorIOMode, TensorLocation = DataType, TensorIOMode, TensorLocation
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    LayerInformationFormat = LayerInformationFormat

    def __init__(self, cuda: FakeCuda, *, version: str = VERSION, config: bool = False) -> None:
        self.cuda = cuda
        self.__version__ = version
        self.refuse: dict[str, str] = {}
        self.alive: list[str] = []
        self.made = 0
        self.config = config
        self.loaded_cache: bytes | None = None
        self.budget: int | None = None
        self.capturable = True
        self.log: Any = None
        self.host_code = False

    def Runtime(self, logger: ILogger) -> _Runtime:
        self.log = logger
        if "Runtime" in self.refuse:
            self.say("Runtime")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return _Runtime(self)

    def say(self, call: str) -> None:
        if self.refuse[call]:
            self.log.log(ILogger.ERROR, self.refuse[call])

    def refuses(self, call: str) -> bool:
        if call in self.refuse:
            self.say(call)
            return True
        return False

    def born(self, kind: str) -> None:
        self.alive.append(kind)

    def dead(self, kind: str) -> None:
        self.alive.remove(kind)
        self.cuda.log.append(kind)


class _Runtime:
    def __init__(self, trt: FakeTrt) -> None:
        self.trt = trt
        self.DLA_core = -1
        self.__dict__["host"] = False
        trt.born("runtime")

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value
        if name == "engine_host_code_allowed":
            self.trt.host_code = value

    def __del__(self) -> None:
        if "engine" in self.trt.alive:
            raise Misuse("the runtime went before its engine")
        self.trt.dead("runtime")

    def deserialize_cuda_engine(self, data: bytes) -> _Engine | None:
        trt = self.trt

        def no(why: str) -> None:
            trt.log.log(ILogger.ERROR, why)

        if trt.refuses("deserialize_cuda_engine"):
            return None
        try:
            document = json.loads(bytes(data).removeprefix(b"plan"))
        except ValueError:
            return no("Serialization assertion magicTagRead == kPLAN_MAGIC failed.")
        if document["version"] != trt.__version__:
            return no(
                "The engine plan file is not compatible with this version of TensorRT, expecting "
                f"library version {trt.__version__} got {document['version']}, please rebuild."
            )
        if tuple(document["capability"]) != trt.cuda.capability:
            return no(
                "The engine plan file is generated on an incompatible device, expecting compute "
                "8.7 got compute 8.9, please rebuild."
            )
        return _Engine(trt, document, self)


class _Config:
    def __init__(self, trt: FakeTrt) -> None:
        self.trt = trt
        self.strategy: Any = None
        self.cache: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> _Cache:
        return _Cache(self.trt)

    def set_runtime_cache(self, cache: _Cache) -> bool:
        self.cache = cache
        return True


class _Cache:
    def __init__(self, trt: FakeTrt) -> None:
        self.trt = trt

    def deserialize(self, blob: bytes) -> bool:
        self.trt.loaded_cache = bytes(blob)
        return True

    def serialize(self) -> bytes:
        return b"kernels"


class _Engine:
    def __init__(self, trt: FakeTrt, document: dict[str, Any], runtime: _Runtime) -> None:
        self.trt, self.document, self._runtime = trt, document, runtime
        trt.born("engine")
        self.streamable_weights_size = document["streamable"]
        self.device_memory_size_v2 = document["scratch"]
        self.num_optimization_profiles = len(document["profiles"])
        self.given = document["inputs"]
        self.made = [f"y{i}" if i else "y" for i in range(len(self.given))]
        self.num_io_tensors = len(self.given) + len(self.made)
        self.weight_streaming_budget_v2 = 0
        if trt.config:
            self.create_runtime_config = lambda: _Config(trt)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value
        if name == "weight_streaming_budget_v2":
            self.trt.budget = value

    def __del__(self) -> None:
        if "context" in self.trt.alive:
            raise Misuse("the engine went before its contexts")
        self.trt.dead("engine")

    def get_weight_streaming_automatic_budget(self) -> int:
        return 77

    def get_tensor_name(self, index: int) -> str:
        return (self.given + self.made)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.given else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        if self.document["kind"] == "filled":
            return DataType.INT64 if name == "x" else DataType.FLOAT
        return DataType[self.document["dtype"]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.given or self.document["kind"] == "affine":
            return tuple(self.document["x"])
        return (-1,) * (1 if self.document["kind"] == "nonzero" else self.document["x"][0])

    def get_tensor_location(self, name: str) -> TensorLocation:
        host = self.document["kind"] == "filled" and name in self.given
        return TensorLocation.HOST if host else TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, index: int) -> list[list[int]]:
        return self.document["profiles"][index]

    def get_tensor_profile_values(self, index: int, name: str) -> list[list[int]]:
        assert isinstance(index, int)
        return self.document["values"]

    def create_execution_context(self, how: Any) -> _Context | None:
        strategy = how.strategy if isinstance(how, _Config) else how
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        if self.trt.refuses("create_execution_context"):
            return None
        return _Context(self)

    def create_engine_inspector(self) -> _Inspector:
        return _Inspector(self)


class _Inspector:
    def __init__(self, engine: _Engine) -> None:
        self.execution_context: Any = None

    def get_engine_information(self, form: LayerInformationFormat) -> str:
        layers = [
            {
                "Name": "affine_kernel",
                "LayerType": "PointWise",
                "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP16 format"}],
                "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP32"}],
                "Metadata": "[ONNX Layer: mul]\x1e[ONNX Layer: add]",
            },
            {
                "Name": "copied",
                "LayerType": "Reformat",
                "Inputs": [{"Name": "y", "Format/Datatype": "Float"}],
                "Outputs": [],
                "Metadata": "",
            },
            "a layer that only has a name",
        ]
        return json.dumps({"Layers": layers, "Bindings": []})


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self.trt = engine.trt
        self.trt.born("context")
        self.trt.made += 1
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        self.memory = (0, 0)
        self.changes = 0
        self.ran_since: int | None = None
        self.profiler: Any = None
        self.living = [True]
        if not engine.trt.capturable:
            self.is_stream_capturable = lambda stream: False

    def __del__(self) -> None:
        self.living[0] = False
        self.trt.dead("context")

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self._engine.device_memory_size_v2
        self.memory = (address, size)

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        if self.trt.refuses("set_optimization_profile_async"):
            return False
        self.profile = index
        return True

    def _takes(self, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine.document["profiles"][self.profile]
        whole = self._engine.document["x"]
        fixed = all(w in (-1, s) for w, s in zip(whole, shape, strict=True))
        return fixed and all(a <= s <= b for a, s, b in zip(low, shape, high, strict=True))

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self.trt.refuses("set_input_shape") or not self._takes(shape):
            return False
        self.shapes[name] = tuple(shape)
        self.changes += 1
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        if self.trt.refuses("set_tensor_address"):
            return False
        self.addresses[name] = address
        self.changes += 1
        return True

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        if self.trt.refuses("set_output_allocator"):
            return False
        self.allocators[name] = allocator
        return True

    def infer_shapes(self) -> list[str]:
        return ["x"] if self.trt.refuses("infer_shapes") else []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        kind = self._engine.document["kind"]
        if name in self._engine.given:
            return self.shapes[name]
        if kind == "affine":
            return self.shapes[self._engine.given[self._engine.made.index(name)]]
        return (-1,) if kind == "nonzero" else tuple(self._sizes())

    def _sizes(self) -> list[int]:
        count = self.shapes["x"][0]
        raw = self.trt.cuda.bytes_at(self.addresses["x"], count * 8, on_device=False)
        return list(map(int, raw.view(np.int64)))

    def execute_async_v3(self, stream: int) -> bool:
        if self.trt.refuses("execute_async_v3"):
            return False
        cuda, engine = self.trt.cuda, self._engine
        capturing = cuda.streams[stream].capturing is not None
        if capturing and self.ran_since != self.changes:
            self.trt.log.log(ILogger.ERROR, "work put off until the first run cannot be captured")
            cuda.streams[stream].broken = True
            return False
        self.ran_since = self.changes
        cuda.piece(*self.memory, on_device=True)
        dtype = np.dtype(DTYPES[engine.document["dtype"]])
        changes, living, ports = self.changes, self.living, []
        if engine.document["kind"] == "filled":
            return self._fill(stream)
        for given, made in zip(engine.given, engine.made, strict=True):
            size = int(np.prod(self.shapes[given])) * dtype.itemsize
            cuda.piece(self.addresses[given], size, on_device=True)
            if engine.document["kind"] == "nonzero":
                return self._positive(stream, dtype)
            cuda.piece(self.addresses[made], size, on_device=True)
            ports.append((self.addresses[given], self.addresses[made], size))
        memory, me = self.memory, self if not capturing else None
        current = (lambda: changes) if me is not None else self._watch()

        def compute() -> None:
            if not living[0]:
                raise Misuse("the context went before its work was done")
            if current() != changes:
                raise Misuse("the context of a graph was set to something else")
            cuda.bytes_at(*memory, on_device=True)[:] = 0xEE
            for source, target, size in ports:
                x = cuda.bytes_at(source, size, on_device=True).view(dtype)
                answer = ~x if dtype.kind == "b" else (2 * x + 1).astype(dtype)
                cuda.bytes_at(target, size, on_device=True)[:] = answer.view(np.uint8)

        if self.profiler is not None:
            self.profiler.report_layer_time("affine_kernel", 0.25)
            self.profiler.report_layer_time("copied", 0.125)
        cuda.add(stream, compute)
        return True

    def _watch(self) -> Any:
        """What says how often this context was changed, without keeping it alive."""
        import weakref

        weak = weakref.ref(self)

        def changes() -> int:
            found = weak()
            return -1 if found is None else found.changes

        return changes

    def _positive(self, stream: int, dtype: np.dtype[Any]) -> bool:
        """TensorRT asks for memory as the work is queued, and tells the shape when it is known."""
        cuda, allocator = self.trt.cuda, self.allocators["y"]
        size = int(np.prod(self.shapes["x"])) * dtype.itemsize
        source = self.addresses["x"]
        address = allocator.reallocate_output_async("y", 0, size, 256, stream)
        if not address:
            return False
        cuda.piece(address, size, on_device=True)

        def compute() -> None:
            x = cuda.bytes_at(source, size, on_device=True).view(dtype)
            answer = x[x > 0]
            if answer.size:
                cuda.bytes_at(address, answer.nbytes, on_device=True)[:] = answer.view(np.uint8)
            allocator.notify_shape("y", (answer.size,))

        return cuda.add(stream, compute) == 0

    def _fill(self, stream: int) -> bool:
        cuda, shape, target = self.trt.cuda, self._sizes(), self.addresses["y"]
        size = int(np.prod(shape)) * 4
        cuda.piece(target, size, on_device=True)

        def compute() -> None:
            cuda.bytes_at(target, size, on_device=True).view(np.float32)[:] = 7

        return cuda.add(stream, compute) == 0
