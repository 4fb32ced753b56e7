"""The cost model of docs/scaling.md: bytes, operations and messages of every station, and a table for large models.

    python benchmarks/scaling/costs.py

Nothing is run. Constants that were measured stand with their command; the others are assumptions, and say so.
"""

GIB = 2**30
# layers, width, neurons per layer, parameters
SHAPES = {"7B": (32, 4096, 11_008, 6.74e9), "70B": (80, 8192, 28_672, 70.6e9), "405B": (126, 16_384, 53_248, 405.9e9)}

# Measured on one H200: benchmarks/recording.py --model llama-7b --device cuda --dtype bfloat16
FLOPS = 2 * SHAPES["7B"][3] * 34_000  # of a plain forward pass: 34,000 tokens/s
SHARE = 0.81  # of the plain speed that recording every 8th token reaches
DISK = 2.9 * GIB  # bytes per second into files on a local disk, one machine
# Measured on one H200: benchmarks/networks_gpu.py --public, whole model: 10,240 x 704,512, 128 components in 0.32 s
NETWORK_FLOPS = 2 * 10_240**2 * 704_512 / 0.32
# Assumptions
GPU_BYTES = 72e9  # of a card of 80 GB for weights; the rest holds activations
GPUS_PER_MACHINE = 8
PCIE = 25e9  # bytes per second from main memory to one GPU
RUN, COMPONENTS, STEPS, BATCH = 10_240, 128, 300, 2048  # tokens per run, networks, fixed-point steps, tokens per batch


def gpus_per_replica(parameters):
    """GPUs that hold the weights in bfloat16."""
    return -(-int(2 * parameters) // int(GPU_BYTES))


def record(shape, n_tokens, n_gpus, every=8):
    """Seconds and bytes of a recording of ``n_tokens`` kept tokens in int16, one replica per group of GPUs.

    The GPUs of a replica work one after the other (``device_map``), so a replica is as fast as one GPU. With fewer GPUs
    than a replica needs, the weights cross the PCIe bus for every batch.
    """
    n_layers, _, width, parameters = shape
    fed, each = n_tokens * every, gpus_per_replica(parameters)
    n_bytes = 2 * n_tokens * n_layers * width
    if n_gpus >= each:
        compute = fed * 2 * parameters / (FLOPS * SHARE) / (n_gpus // each)
    else:
        # each GPU holds a part and streams the rest, by itself
        compute = fed / n_gpus * max(2 * parameters / FLOPS, (2 * parameters - GPU_BYTES) / PCIE / BATCH)
    machines = -(-n_gpus // GPUS_PER_MACHINE)
    return max(compute, n_bytes / (DISK * machines)), n_bytes


def networks(shape, n_tokens, n_gpus):
    """Seconds, messages and bytes in messages of a decomposition; neurons are sharded."""
    n_neurons = shape[0] * shape[2]
    n_runs = -(-n_tokens // RUN)
    tokens = min(n_tokens, RUN)
    gram = 2 * n_runs * tokens**2 * n_neurons
    group = 2 * (n_runs * COMPONENTS) ** 2 * n_neurons if n_runs > 1 else 0
    steps = 4 * STEPS * COMPONENTS**2 * n_neurons
    read = 2 * n_tokens * n_neurons / (DISK * -(-n_gpus // GPUS_PER_MACHINE))
    n_messages = n_runs + STEPS
    message_bytes = 4 * n_runs * tokens**2 + 4 * STEPS * COMPONENTS**2 + 4 * (n_runs * COMPONENTS) ** 2
    return (gram + group + steps) / NETWORK_FLOPS / n_gpus + read, n_messages, message_bytes


def lesions(shape, n_gpus, n_conditions=4020, n_tokens=20_000):
    """Seconds of a lesion study: an upper bound, because the layers before a lesion are shared between conditions."""
    each = gpus_per_replica(shape[3])
    if n_gpus < each:
        return float("nan")
    return n_conditions * n_tokens * 2 * shape[3] / FLOPS / (n_gpus // each)


def duration(seconds):
    """A time in the unit in which it is read."""
    if seconds != seconds:
        return "does not fit"
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def size(n_bytes):
    """A size in the unit in which it is read."""
    return f"{n_bytes / 2**40:.1f} TiB" if n_bytes >= 2**40 else f"{n_bytes / GIB:.0f} GiB"


def main():
    """Print the table."""
    print("| model | recorded tokens | disk, int16 | GPUs | recording | networks | messages of networks |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, shape in SHAPES.items():
        for n_tokens in (100_000, 1_000_000, 10_000_000):
            for n_gpus in (1, 8, 64):
                seconds, n_bytes = record(shape, n_tokens, n_gpus)
                found, n_messages, message_bytes = networks(shape, n_tokens, n_gpus)
                lead = f"{name} | {n_tokens:,} | {size(n_bytes)}" if n_gpus == 1 else " | | "
                print(
                    f"| {lead} | {n_gpus} | {duration(seconds)} | {duration(found)} | {n_messages:,}, "
                    f"{message_bytes / 1e9:.1f} GB |"
                )
    print("\n| model | GPUs of a replica | lesion study on 1 GPU | 8 | 64 |\n| --- | --- | --- | --- | --- |")
    for name, shape in SHAPES.items():
        times = " | ".join(duration(lesions(shape, n)) for n in (1, 8, 64))
        print(f"| {name} | {gpus_per_replica(shape[3])} | {times} |")


if __name__ == "__main__":
    main()
