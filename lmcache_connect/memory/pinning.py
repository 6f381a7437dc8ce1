"""Registering memory with CUDA, for fast copies to and from a GPU."""

from __future__ import annotations

from ..errors import InvalidArgumentError, MissingExtraError


def register_with_cuda(address: int, nbytes: int) -> None:
    """Pins a range of memory.

    Raises:
        MissingExtraError: torch is not installed.
        InvalidArgumentError: there is no CUDA device, or CUDA refuses the range.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError("LocalCPUBackend(pin_memory=True)", "torch", "torch") from None
    if not torch.cuda.is_available():
        raise InvalidArgumentError("pin_memory", "torch finds no CUDA device to pin memory for")
    code = int(torch.cuda.cudart().cudaHostRegister(address, nbytes, 0))
    if code != 0:
        raise InvalidArgumentError("pin_memory", f"cudaHostRegister answered {code}")


def unregister_with_cuda(address: int) -> None:
    """Unpins a range that `register_with_cuda` pinned."""
    import torch

    torch.cuda.cudart().cudaHostUnregister(address)
