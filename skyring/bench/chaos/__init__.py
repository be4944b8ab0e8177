"""``skyring bench chaos``: real processes, real networks and disks, and what can befall them.

A ring of ``skyring run`` and nats-server processes, each in a network namespace of its own, takes
creates, updates and cancels while faults are injected. What clients and receiver saw is held
against the promises by `skyring.testing.proof`, by the same rules as in the simulator.

`sandbox` is what everything runs in; `world` the processes; `load` and `receiver` what clients
and receiver see; `faults` what is done to them; `damage` the damaged files; `scenarios` which of
it belongs together; `report` what is handed back.
"""
