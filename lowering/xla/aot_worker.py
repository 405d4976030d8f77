"""The child process that runs an XLA compiler for a device that is not there.

Run as ``python -m graphopt.lowering.xla.aot_worker FOLDER``: reads ``request.json`` and
``program.bin`` there, writes ``result.json``, ``executable.bin`` and ``compiled.hlo.txt``. It is a
process of its own so that the compiler's environment, messages, memory and crashes stay in it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

NO_CUDA = "./cuda_sdk_lib"
"""What XLA takes for the folder of CUDA where nobody names one."""


def main(folder: Path) -> None:
    """Compile the program in `folder` as its request says."""
    request = json.loads((folder / "request.json").read_text())
    # Before JAX loads the compiler. The parent has set it too; a replay by hand has not.
    os.environ.update(request["environment"])
    for name in request["left_out"]:
        os.environ.pop(name, None)
    import jax
    from jax import export
    from jax.experimental import topologies
    from jax.experimental.layout import Format, Layout

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_traceback_in_locations_limit", 0)
    exported = export.deserialize(bytearray((folder / "program.bin").read_bytes()))
    topology = topologies.get_topology_desc(platform=request["platform"], **request["topology"])
    device: Any = topology.devices[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    flat = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding) for a in exported.in_avals]
    arguments, keywords = jax.tree.unflatten(exported.in_tree, flat)
    # The compiler chooses how results lie in memory: fixed layouts may cost a copy of each.
    results = Format(Layout.AUTO, sharding)
    traced = jax.jit(exported.call, out_shardings=results).trace(*arguments, **keywords)
    # Where CUDA's packages lie would be written into a TPU's executable, which has no use for it.
    options = {"xla_gpu_cuda_data_dir": NO_CUDA} if request["platform"] == "tpu" else None
    lowered = traced.lower(lowering_platforms=(request["platform"],))
    compiled = lowered.compile(compiler_options=options)
    (folder / "compiled.hlo.txt").write_text(compiled.as_text() or "")
    runtime = compiled.runtime_executable()
    (folder / "executable.bin").write_bytes(bytes(runtime.serialize()))
    memory = compiled.memory_analysis()
    costs = compiled.cost_analysis() or {}
    result = {
        "memory": {
            name: int(getattr(memory, f"{name}_size_in_bytes"))
            for name in ("argument", "output", "temp", "alias", "generated_code")
        },
        "flops": float(costs.get("flops", 0.0)),
        "bytes_accessed": float(costs.get("bytes accessed", 0.0)),
        "device_kind": device.device_kind,
        "devices": len(topology.devices),
        "compiler": request["compiler"],
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
