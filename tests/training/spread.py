"""Two processes save an array of which each has half: run by test_sharded_checkpoint.

    python spread.py PORT PROCESS PATH

Each reads the checkpoint back and fails unless it finds what it has saved.
"""

import sys

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from jaxode.training import load_checkpoint, save_checkpoint


def main(port: str, process: str, path: str) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
    sharding = NamedSharding(Mesh(np.array(jax.devices()), "rows"), P("rows"))
    for epoch in (1, 2):
        whole = epoch * np.arange(12.0, dtype=np.float32).reshape(4, 3)
        place = lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__)
        rows = place(whole)
        assert not rows.is_fully_addressable
        save_checkpoint(path, {"rows": rows}, {"epoch": epoch}, form="orbax")
        found, header = load_checkpoint(path, {"rows": place(0 * whole)})
        assert header == {"epoch": epoch}
        assert found["rows"].sharding == sharding
        for part in found["rows"].addressable_shards:
            np.testing.assert_array_equal(part.data, whole[part.index])
        # The next save deletes the folder that the other may still be reading.
        multihost_utils.sync_global_devices(f"read {epoch}")


if __name__ == "__main__":
    main(*sys.argv[1:])
