"""Use of the devices: operations as a share of the peak, and memory."""

import jax

# Peak of dense bfloat16 products (FLOP/s) from NVIDIA's data sheets; the first name found in the device's kind counts.
# float32 runs are measured against the same peak.
PEAK_FLOPS = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("GH200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
)


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak FLOP/s of one device, or None for a device that is not in the table."""
    return next((flops for name, flops in PEAK_FLOPS if name in device_kind), None)


def utilisation(flops: float, seconds: float) -> float | None:
    """Returns the model FLOPs utilisation of `flops` in `seconds` on all devices, or None if the peak is unknown."""
    peak = peak_flops(jax.devices()[0].device_kind)
    return None if peak is None or not flops else flops / seconds / (peak * jax.device_count())


def memory_peak_gib() -> float | None:
    """Returns the peak memory of this process's fullest device (GiB), or None if the backend does not report it."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [found["peak_bytes_in_use"] for found in stats if found and "peak_bytes_in_use" in found]
    return max(peaks) / 2**30 if peaks else None
