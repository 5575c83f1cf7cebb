"""A device whose memory is not the host's, computed on the CPU: `DEVICE`, and what a card would refuse there.

An operation that mixes it with a tensor of the host raises, as on CUDA; only numbers without a dimension may come from
the host. Within `no_waits()` so does everything that would make the host wait: reading a value, a shape that depends on
values, a copy to the host, and a copy from memory that is not pinned. `FakeGraph` captures and replays operations on
this device as a CUDA graph does.

Importing this registers torch's PrivateUse1 backend for the whole process.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "separate"
_setup_privateuseone_for_python_backend(rename=NAME)
# Gradient checkpointing of any tensor asks the last backend that was registered for it.
torch.get_device_module(NAME).get_amp_supported_dtype = lambda: [torch.bfloat16]
DEVICE = torch.device(NAME, 0)
CPU = torch.device("cpu")

_ATEN = torch.ops.aten
# Operations whose result, or its shape, the host must know.
_READ_VALUES = {
    _ATEN._local_scalar_dense,
    _ATEN.equal,
    _ATEN.is_nonzero,
    _ATEN.masked_select,
    _ATEN.nonzero,
    _ATEN.repeat_interleave,
    _ATEN._unique2,
    _ATEN.unique_consecutive,
    _ATEN.unique_dim,
}
_ALLOCATIONS = {_ATEN.empty, _ATEN.empty_like, _ATEN.empty_strided, _ATEN.new_empty, _ATEN.new_empty_strided}


class HostTensorError(RuntimeError):
    """A tensor of the host where the device's is needed."""


class WaitError(RuntimeError):
    """The host would wait for the device."""


class _State:
    forbids_waits = False
    graph: FakeGraph | None = None  # being captured


_pinned: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()


class _DeviceTensor(Tensor):
    """A tensor on `DEVICE`; `raw` has its values."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> _DeviceTensor:
        made = Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=DEVICE,
        )
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"{self.raw!r} on {DEVICE}"


def raw(tensor: Tensor) -> Tensor:
    """The values of a tensor on the device, without a copy."""
    assert isinstance(tensor, _DeviceTensor), f"{type(tensor).__name__} on {tensor.device}"
    return tensor.raw


@contextmanager
def no_waits() -> Iterator[None]:
    """Whatever would make the host wait raises `WaitError`."""
    before, _State.forbids_waits = _State.forbids_waits, True
    try:
        yield
    finally:
        _State.forbids_waits = before


@contextmanager
def pinning(monkeypatch: Any) -> Iterator[None]:
    """`Tensor.pin_memory` works, and copies from its result do not wait."""

    def pin_memory(self: Tensor) -> Tensor:
        assert self.device.type == "cpu", "only the host's memory can be pinned"
        pinned = self.clone()
        _pinned.add(pinned.untyped_storage())
        return pinned

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "pin_memory", pin_memory)
        yield


@contextmanager
def without_inference_mode(monkeypatch: Any) -> Iterator[None]:
    """`torch.inference_mode` is `no_grad`: in it, tensors of Python have no views."""
    with monkeypatch.context() as patch, torch.no_grad():
        mode = torch.autograd.grad_mode.inference_mode
        patch.setattr(mode, "__enter__", lambda _: None)
        patch.setattr(mode, "__exit__", lambda *_: None)
        yield


def _wait(what: str) -> None:
    if _State.forbids_waits or _State.graph is not None:
        raise WaitError(f"the host waits for the device: {what}")


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    operands = list(_tensors((args, kwargs)))
    of_host = [one for one in operands if not isinstance(one, _DeviceTensor)]
    target = kwargs.get("device")
    packet = func.overloadpacket
    if packet is _ATEN.copy_:
        return _copy(func, args, kwargs)
    if packet is _ATEN._to_copy and target is not None and target.type != NAME:
        _wait("a copy to the host")
        return func(args[0].raw, *args[1:], **kwargs)
    if wrong := [one for one in of_host if one.dim()]:
        raise HostTensorError(f"{func}: a tensor {tuple(wrong[0].shape)} of the host where the device's is needed")
    if packet in _READ_VALUES or (packet is _ATEN.index and any(_is_mask(one) for one in args[1])):
        _wait(str(func))
    by_raw = {id(one.raw): one for one in operands if isinstance(one, _DeviceTensor)}
    raw_args, raw_kwargs = _mapped(_unwrapped, (args, kwargs))
    if target is not None:
        raw_kwargs["device"] = CPU
    result = _State.graph.record(func, raw_args, raw_kwargs) if _State.graph else func(*raw_args, **raw_kwargs)
    return _mapped(lambda one: by_raw[id(one)] if id(one) in by_raw else _DeviceTensor(one), result)


def _copy(func: Any, args: Any, kwargs: Any) -> Any:
    target, source, *rest = args
    if not isinstance(target, _DeviceTensor):
        _wait("a copy to the host")
        return func(target, source.raw, *rest, **kwargs)
    if not isinstance(source, _DeviceTensor) and source.untyped_storage() not in _pinned:
        _wait(f"a copy of {tuple(source.shape)} from memory that is not pinned")
    values = _unwrapped(source)
    if _State.graph is None:
        func(target.raw, values, *rest, **kwargs)
    else:
        _State.graph.record(func, (target.raw, values, *rest), kwargs)
    return target


def _unwrapped(tensor: Tensor) -> Tensor:
    return tensor.raw if isinstance(tensor, _DeviceTensor) else tensor


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in the arguments or the result of an operation; faster than torch's tree functions."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same arguments or result with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(change, part) for key, part in value.items()}
    return type(value)([_mapped(change, part) for part in value]) if isinstance(value, list | tuple) else value


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


class FakeGraph:
    """What was done on the device while it was captured, to be done again on the same memory.

    As on CUDA, capturing leaves no result behind: what it changed is as before, what it made is undefined (here NaN).
    """

    def __init__(self) -> None:
        self.replays = 0
        self._operations: list[tuple[Any, Any, Any, Any]] = []
        self._changed: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._made: list[Tensor] = []

    @contextmanager
    def capture(self) -> Iterator[None]:
        """Within it, operations are recorded."""
        assert _State.graph is None, "one capture at a time"
        _State.graph = self
        try:
            yield
        finally:
            _State.graph = None
            for storage, before in self._changed.values():
                if storage.nbytes() == before.nbytes():  # and not an empty one that an operation enlarged
                    storage.copy_(before)
            for tensor in self._made:
                if tensor.is_floating_point():
                    tensor.fill_(torch.nan)

    def record(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Called by the device."""
        named = dict(zip((one.name for one in func._schema.arguments), args, strict=False)) | kwargs
        for argument in func._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in _tensors(named[argument.name]):
                    storage = tensor.untyped_storage()
                    self._changed.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = func(*args, **kwargs)
        if func.overloadpacket in _ALLOCATIONS:
            return result
        self._operations.append((func, args, kwargs, result))
        storages = {one.untyped_storage().data_ptr() for one in _tensors((args, kwargs))}
        self._made += [one for one in _tensors(result) if one.untyped_storage().data_ptr() not in storages]
        return result

    def replay(self) -> None:
        """Do all of it again."""
        self.replays += 1
        made = {id(tensor) for tensor in self._made}
        for func, args, kwargs, captured in self._operations:
            results = func(*args, **kwargs)
            for target, value in zip(_tensors(captured), _tensors(results), strict=True):
                if id(target) in made:
                    target.copy_(value)


def _made_on_device(func: Any, *args: Any, **kwargs: Any) -> Any:
    return _run(func, args, kwargs)


_library = torch.library.Library("_", "IMPL")
_library.fallback(_made_on_device, "PrivateUse1")


def _copied_to_device(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    return _copy(_ATEN.copy_.default, (target, source, non_blocking), {})


# torch.tensor(values, device=...) copies below the dispatch to subclasses.
_aten_library = torch.library.Library("aten", "IMPL")
_aten_library.impl("_copy_from", _copied_to_device, "PrivateUse1")
