"""Half precision where the hardware computes in it: emulated bfloat16 is 3 to 11 times slower than single precision."""

import copy
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from types import MethodType
from typing import Any

import torch


def half(device: torch.device | str) -> torch.dtype | None:
    """The half precision that a device has units for, or None: bfloat16 since Ampere, and with AVX512-BF16 or AMX.

    GPUs of before (Colab's T4) have float16, whose narrow range gradients leave: there it is given without gradients
    only.

    >>> half("meta") is None
    True
    """
    device = torch.device(device)
    if device.type == "cpu":
        return torch.bfloat16 if _cpu_has_bfloat16() else None
    if device.type != "cuda":
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability >= (8, 0):
        return torch.bfloat16
    return torch.float16 if capability >= (7, 0) and not torch.is_grad_enabled() else None


@lru_cache
def _cpu_has_bfloat16() -> bool:
    """Whether the processor, torch and oneDNN have it; ATEN_CPU_CAPABILITY and ONEDNN_MAX_CPU_ISA may limit the two."""
    # torch 2.5 lacks some of these: what cannot be asked is taken for absent
    native = any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))
    return native and torch.backends.cpu.get_cpu_capability().startswith("AVX512") and _onednn_has_bfloat16()


@lru_cache
def _onednn_has_bfloat16() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast(x: torch.Tensor, fast: bool | None = None) -> torch.autocast:
    """A context in which networks compute in half precision, for a signal x in single precision and for no other.

    `fast` None decides by the hardware (`half`), False is single precision, True half precision even where it is slow.
    """
    dtype = half(x.device) or (torch.bfloat16 if fast else None)
    enabled = fast is not False and dtype is not None and x.dtype in (torch.float32, torch.complex64)
    return torch.autocast(x.device.type, dtype or torch.bfloat16, enabled=enabled)


def lstm_precision(x: torch.Tensor) -> AbstractContextManager[object]:
    """Single precision for an LSTM on a processor whose oneDNN has no bfloat16: there it would raise."""
    if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not _onednn_has_bfloat16():
        return torch.autocast("cpu", enabled=False)
    return nullcontext()


def matched(prior: Any, x: torch.Tensor) -> Any:
    """A module with the signal's precision and place: itself where it has them, else a copy that has gradients.

    The method of a module becomes that of the copy; what is neither stays as it is.
    """
    if isinstance(prior, MethodType):
        return getattr(matched(prior.__self__, x), prior.__name__)
    if not isinstance(prior, torch.nn.Module):
        return prior
    tensors = [*prior.parameters(), *(b for b in prior.buffers() if b.is_floating_point())]
    if all((t.dtype, t.device) == (x.dtype, x.device) and not t.is_inference() for t in tensors):
        return prior
    with torch.inference_mode(False):
        return copy.deepcopy(prior).to(x)
